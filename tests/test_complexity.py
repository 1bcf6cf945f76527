"""Spectra, ranks, groups of neurons, norms and order in embeddings of planted matrices and runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import fault_tools
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

import compfast
from compfast.analysis import neurons, singular, tokens, weights
from compfast.analysis.long import SCHEMA, to_xarray
from compfast.analysis.moments import at_transition, transitions
from compfast.errors import UsageError
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run

Array = NDArray[Any]
TABLES: dict[str, Any] = {
    "ranks": singular.ranks,
    "spectra": singular.spectra,
    "norms": weights.norms,
    "distances": weights.distances,
    "condensation": neurons.condensation,
    "embeddings": tokens.embeddings,
}


def _config(**sections: Any) -> dict[str, Any]:
    return {
        "task": {"name": "anchor", "item_high": 30},
        "model": {"layers": 2, "d_model": 8},
        "training": {"steps": 20, "batch_size": 4, "log_every": 5, "eval_every": 5},
        "evaluation": {"seen_items": 200, "unseen_items": 20},
        "run": {"snapshots": [0, 10], "threads": 1, "engine": "native"},
        "sweep": {"init.gamma": [0.4, 0.9], "seed": [0, 1]},
        **sections,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, native_extension: None) -> Run:
    with fault_tools.fast_disk():
        return compfast.train(_config(), tmp_path_factory.mktemp("grid") / "run")


def _turned(diagonal: list[float], rows: int, columns: int, seed: int = 0) -> Array:
    """A matrix with these singular values."""
    generator = np.random.default_rng(seed)
    left, right = (np.linalg.qr(generator.normal(size=(n, n)))[0] for n in (rows, columns))
    middle = np.zeros((rows, columns))
    np.fill_diagonal(middle, diagonal)
    return np.asarray(left @ middle @ right)


def _drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def test_ranks_of_planted_spectra() -> None:
    planted = [[1, 1, 1, 1], [3, 0, 0, 0], [2, 1, 0, 0], [4, 2, 2, 1]]
    stack = np.stack([_turned(list(map(float, s)), 5, 4, i) for i, s in enumerate(planted)])
    s = singular.spectrum(stack)
    np.testing.assert_allclose(s, np.array(planted, float), atol=1e-12)
    np.testing.assert_allclose(singular.spectrum(stack.transpose(0, 2, 1)), s, atol=1e-12)
    np.testing.assert_allclose(singular.stable_ranks(s), [4, 1, 1.25, 1 + 0.25 + 0.25 + 1 / 16])
    thirds, ninths = [2 / 3, 1 / 3], [4 / 9, 2 / 9, 2 / 9, 1 / 9]
    entropy = [-sum(p * math.log(p) for p in share) for share in (thirds, ninths)]
    np.testing.assert_allclose(singular.effective_ranks(s), [4, 1, *np.exp(entropy)], atol=1e-9)
    for scale in (1e-25, 1e25):
        np.testing.assert_allclose(
            singular.stable_ranks(singular.spectrum(scale * stack)), [4, 1, 1.25, 1.5625]
        )


def test_a_square_gaussian_matrix_has_a_quarter_of_its_width() -> None:
    """Why complexity is that of attention's matrices: 160 at a width of 640."""
    stable = singular.stable_ranks(singular.spectrum(_drawn(3, 160, 160)))
    np.testing.assert_allclose(stable, 40, rtol=0.1)


def test_what_is_zero_or_not_finite_has_no_rank_and_its_neighbours_have_theirs() -> None:
    stack = _drawn(5, 4, 3)
    alone = [singular.spectrum(one[None]).tobytes() for one in stack]
    stack[1], stack[2, 0, 0], stack[3, 1, 1] = 0, math.nan, math.inf
    s = singular.spectrum(stack)
    for found in (singular.stable_ranks(s), singular.effective_ranks(s)):
        assert np.isnan(found).tolist() == [False, True, True, True, False]
    assert [s[i : i + 1].tobytes() for i in (0, 4)] == [alone[0], alone[4]]


def test_planted_groups_of_neurons() -> None:
    """Two bundles of 3 and 2, a chain of 3 that hangs together by its middle, lone ones, a zero."""
    e = np.eye(12)
    near = 0.1 * _drawn(5, 12)
    bundles = [3 * e[0], e[0], 9 * e[0], e[1], 2 * e[1]] + near * 0.1
    half = math.radians(40)  # cosine 0.77 to the next, 0.17 to the one after
    chain = [math.cos(k * half) * e[2] + math.sin(k * half) * e[3] for k in range(3)]
    lone = [e[5], -e[0], 0 * e[0]]
    stack = np.stack([*bundles, *chain, *lone])[None]
    found = neurons.grouping(stack)
    assert found["groups"].tolist() == [3]
    assert found["grouped"].item() == pytest.approx(8 / 11)
    assert found["largest"].item() == pytest.approx(3 / 11)
    loose, strict = (neurons.grouping(stack, t) for t in (0.4, 0.9))
    assert (loose["groups"].item(), strict["groups"].item()) == (3, 2)
    order = np.random.default_rng(1).permutation(11)
    again = neurons.grouping(1e-30 * stack[:, order])
    assert {k: v.round(12).tolist() for k, v in again.items()} == {
        k: v.round(12).tolist() for k, v in found.items()
    }


def test_groups_of_drawn_and_of_equal_neurons(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = _drawn(4, 30, 64)
    stack[1] = stack[1, 0]
    stack[2, 3, 4] = math.nan
    for room in (1, 2**22):
        monkeypatch.setattr(neurons, "_ROOM", room)
        found = neurons.grouping(stack)
        assert found["groups"][[0, 1, 3]].tolist() == [0, 1, 0]
        assert found["grouped"][[0, 1, 3]].tolist() == [0, 1, 0]
        np.testing.assert_allclose(found["largest"][[0, 1, 3]], [1 / 30, 1, 1 / 30])
        assert found["cosine"][0] == pytest.approx(0.1, abs=0.02)  # sqrt(2 / (64 pi))
        assert all(np.isnan(values[2]) for values in found.values())


def test_order_of_planted_tables() -> None:
    """Items on a line are read, in order; the same in another order, and noise, are not."""
    numbers = np.arange(60.0)
    line = np.outer(numbers, _drawn(8)) + _drawn(60, 8, seed=1)
    found = tokens.order(line, numbers)
    assert found["order_r2"] > 0.98
    assert found["order_distance"] > 0.98
    other = tokens.order(line, numbers[np.random.default_rng(2).permutation(60)])
    nothing = tokens.order(_drawn(60, 8, seed=3), numbers)
    for mine in (other, nothing):
        assert mine["order_r2"] < 0.2
        assert abs(mine["order_distance"]) < 0.1
    assert found["shuffled_order_r2"] < 0.2
    assert abs(found["shuffled_order_distance"]) < 0.1
    assert all(np.isnan(v) for v in tokens.order(0 * line, numbers).values())


def test_the_spread_of_planted_tables() -> None:
    table = np.sqrt(19) * np.concatenate([_turned([3, 1, 0], 20, 3)])
    table -= table.mean(axis=0)
    variance, dimensions = tokens.spread(table)
    np.testing.assert_allclose(variance, np.linalg.eigvalsh(np.cov(table.T))[::-1], atol=1e-12)
    share = variance / variance.sum()
    assert dimensions == pytest.approx(1 / (share**2).sum())


def test_numbers_of_tokens_come_from_the_exam(run: Run) -> None:
    own, numbers = tokens.numbered_tokens(exams_of(run.groups)[0])
    assert own.tolist() == numbers.astype(int).tolist()  # a token of anchors is its number
    assert numbers.tolist() == list(range(20, 30))


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_long_and_do_not_depend_on_other_members(
    name: str, run: Run, tmp_path: Path, fast_disk: None
) -> None:
    table = TABLES[name](run)
    assert dict(table.schema) == SCHEMA
    assert table.select("member", "step").unique().sort("member", "step").rows() == [
        (member, step) for member in range(4) for step in (0, 10, 20)
    ]
    key = [column for column in SCHEMA if column != "value"]
    assert not table.select(key).is_duplicated().any()
    sweep = {"init.gamma": [0.9], "seed": [1]}
    alone = TABLES[name](compfast.train(_config(sweep=sweep), tmp_path / "alone"))
    own = table.filter(member=3).with_columns(member=pl.lit(0, pl.Int64))
    assert own.equals(alone)
    assert TABLES[name](run, [10]).equals(table.filter(step=10))


def test_norms_and_distances_are_those_of_the_parameters(run: Run) -> None:
    norm, distance = weights.norms(run), weights.distances(run)
    start, end = run.params(2, 0), run.params(2)
    flat = [np.concatenate([a.ravel() for a in p.values()]).astype(float) for p in (start, end)]
    for which, place in (("blocks.1.ffn.up.weight", "ffn.up.weight"), (None, None)):
        a, b = flat if which is None else [p[which].astype(float) for p in (start, end)]
        mine = pl.col("place").eq_missing(pl.lit(place)) & pl.col("layer").eq_missing(
            pl.lit(None if which is None else 1)
        )
        said = {
            row["measure"]: row["value"]
            for table in (norm, distance)
            for row in table.filter(mine, member=2, step=20).iter_rows(named=True)
        }
        assert said["norm"] == pytest.approx(math.sqrt((b**2).sum()))
        assert said["distance"] == pytest.approx(math.sqrt(((b - a) ** 2).sum()))
        assert said["relative_distance"] == pytest.approx(
            math.sqrt(((b - a) ** 2).sum() / (a**2).sum())
        )
        cosine = (a * b).sum() / math.sqrt((a**2).sum() * (b**2).sum())
        assert said["initial_cosine"] == pytest.approx(cosine)
        if which is not None:
            assert said["spectral_norm"] == pytest.approx(np.linalg.svd(b)[1][0])
    assert distance.filter(measure="distance", step=0)["value"].unique().to_list() == [0]


def test_complexity_is_a_mean_of_stable_ranks(run: Run) -> None:
    table = singular.ranks(run)
    own = table.filter(measure="stable_rank", member=1, step=20)
    four = own.filter(pl.col("place").is_in(singular.COMPLEXITY))
    assert len(four) == 8
    said = table.filter(measure="complexity", member=1, step=20)["value"].item()
    assert said == pytest.approx(four["value"].mean())
    up = singular.complexity(run, [20], ["ffn.up.weight"]).filter(member=1)["value"].item()
    assert up == pytest.approx(own.filter(place="ffn.up.weight")["value"].mean())


def test_transitions_by_hand(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores rise, fall back and stay: the last rise counts."""
    scores = {
        0: [0.6, 0.4, 0.5, 0.9],
        1: [0.6, 0.7, 0.8, 0.4],
        2: [0.5, 0.5, 0.5, 0.5],
        3: [0.9] * 4,
    }
    rows: list[dict[str, Any]] = [
        {"member": m, "step": 5 * (i + 1), "seen": 1.0, "inferential": s, "symmetric": 0.0}
        for m, own in scores.items()
        for i, s in enumerate(own)
    ]
    rows += [{"member": 0, "step": 99, "seen": None, "inferential": None, "symmetric": None}]
    verdicts = pl.Series("verdict", ["inferential"] * 3 + ["mixed"])
    monkeypatch.setitem(run.__dict__, "metrics", pl.DataFrame(rows))
    monkeypatch.setitem(run.__dict__, "members", run.members.with_columns(verdicts))
    moments = transitions(run)
    assert moments["transition"].to_list() == [15, None, 5, None]
    assert moments["kept"].to_list() == [10, None, 0, None]  # of 0, 10, 20: the earlier of two
    found = at_transition(weights.norms(run), moments)
    assert found.select("member", "step", "transition").unique().sort("member").rows() == [
        (0, 10, 15),
        (2, 0, 5),
    ]
    assert at_transition(weights.norms(run, [20]), moments)["step"].unique().to_list() == [20]


def test_an_xarray_of_a_table(run: Run) -> None:
    table = singular.spectra(run)
    dataset = to_xarray(table)
    own = dataset["singular_value attention.query.weight"]
    assert own.dims == ("member", "step", "layer", "index")
    assert own.shape == (4, 3, 2, 8)
    said = table.filter(member=2, step=10, layer=1, index=3, place="attention.query.weight")
    assert own.sel(member=2, step=10, layer=1, index=3).item() == said["value"].item()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: singular.ranks(run, [5]), r"steps are \[5\]; the weights .* are of 0, 10, 20"),
        (lambda run: weights.norms(run, []), r"steps are \[\]"),
        (lambda run: neurons.condensation(run, threshold=1.0), "threshold is 1.0"),
        (lambda run: tokens.embeddings(run, components=0), "components is 0"),
        (lambda run: singular.complexity(run, tensors=["query"]), "names 'query'; the matrices"),
        (lambda run: singular.complexity(run, tensors="query"), "tensors is 'query'"),
        (lambda run: transitions(run, 0.0), "share is 0.0"),
    ],
)
def test_what_there_is_not_is_refused(run: Run, call: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        call(run)


@pytest.mark.edge(
    "compfast analyse of a run without snapshot 0", "distances are refused, or left out and said"
)
def test_distances_need_the_beginning(tmp_path: Path, fast_disk: None) -> None:
    config = _config(run={"snapshots": [10], "threads": 1, "engine": "native"})
    late = compfast.train(config, tmp_path / "run")
    with pytest.raises(UsageError, match="no snapshot of step 0"):
        weights.distances(late)
    assert weights.norms(late)["step"].unique().sort().to_list() == [10, 20]


def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast_disk: None, native_extension: None
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "analysis.md").read_text()
    code = page[page.index("## What members are made of") :]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code[code.index("```python") + 9 : code.index("```\n\n- `transitions")], names)
    assert names["at_04"]["gamma"].unique().sort().to_list() == [0.4, 0.8]
    assert names["found"]["label"].unique().sort().to_list() == ["key", "pair"]
