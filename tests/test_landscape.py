"""Sharpness against the whole Hessian, and lines against the networks at each of their points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fault_tools
import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from examples import example
from numpy.typing import NDArray

import compfast
from compfast import analysis
from compfast.analysis import curvature, effort, losses
from compfast.config.settings import from_dict
from compfast.ensembles.groups import member_groups
from compfast.errors import UsageError
from compfast.runs.reading import Run
from compfast.tasks import make_task

Array = NDArray[np.float64]

STEPS = [0, 6]
ITEMS = 16


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, native_extension: None) -> Run:
    """Members 0 and 1 have relu, 2 and 3 gelu; some 120 parameters each."""
    config = {
        "task": {"name": "markov", "p": 0.2, "q": 0.3, "seq_len": 4},
        "model": {"layers": 1, "d_model": 4, "d_ff": 3, "heads": 2, "vocab_size": 2},
        "training": {"steps": 6, "batch_size": 4, "log_every": 3, "eval_every": 6},
        "evaluation": {"unseen_items": 5},
        "optimizer": {"lr": 0.05},
        "run": {"snapshots": STEPS, "threads": 1, "engine": "native"},
        "sweep": {"model.activation": ["relu", "gelu"], "seed": [0, 1]},
    }
    with fault_tools.fast_disk():
        return compfast.train(config, tmp_path_factory.mktemp("tiny") / "run")


def _loss(run: Run, member: int, weights: dict[str, Any]) -> torch.Tensor:
    """Of the last position, from the network's logits, on the batch at the reserved step."""
    spec = next(s for specs in run.groups for s in specs if s.member == member)
    tokens, targets = make_task(spec.task).batch(spec.data_seed, 2**31 - 1, ITEMS)
    module = run.model(member).double()
    logits = torch.func.functional_call(module, weights, (torch.from_numpy(tokens).long(),))
    return F.cross_entropy(logits[:, -1], torch.from_numpy(targets).long())


def _hessian(run: Run, member: int, step: int | None = None) -> Array:
    params = {n: torch.from_numpy(a).double() for n, a in run.params(member, step).items()}
    flat = torch.cat([p.flatten() for p in params.values()])

    def loss(vector: torch.Tensor) -> torch.Tensor:
        parts = torch.split(vector, [p.numel() for p in params.values()])
        shaped = {n: v.view_as(p) for (n, p), v in zip(params.items(), parts, strict=True)}
        return _loss(run, member, shaped)

    of: Any = torch.autograd.functional.hessian
    found: Array = of(loss, flat, vectorize=True).numpy()
    return found


def test_top_and_trace_are_those_of_the_whole_hessian(run: Run) -> None:
    probes = 64
    told = analysis.sharpness(
        run,
        members=[1, 2],
        items=ITEMS,
        eigenvalues=3,
        iterations=200,
        tolerance=1e-11,
        probes=probes,
        float64=True,
    )
    assert told["step"].to_list() == [6, 6]
    for row in told.iter_rows(named=True):
        whole = _hessian(run, row["member"])
        top = np.linalg.eigvalsh(whole)[::-1]
        found = [row[f"eigenvalue{i}"] for i in (1, 2, 3)]
        np.testing.assert_allclose(found, top[:3], rtol=1e-9, atol=1e-9 * top[0])
        assert row["residual"] <= 1e-11 * np.abs(top).max()
        off = whole - np.diag(np.diag(whole))
        error = np.sqrt(2 * (off**2).sum() / probes)  # the estimator's own
        assert row["trace_error"] == pytest.approx(error, rel=0.4)
        assert abs(row["trace"] - np.trace(whole)) < 4 * row["trace_error"]
        assert row["parameters"] == len(whole)
        assert row["n"] == ITEMS
        weights = {n: torch.from_numpy(a).double() for n, a in run.params(row["member"]).items()}
        assert row["loss"] == pytest.approx(float(_loss(run, row["member"], weights)), rel=1e-12)


def test_float32_and_a_snapshot(run: Run) -> None:
    early = analysis.sharpness(run, 0, [2], items=ITEMS, tolerance=1e-4, probes=0)
    top = np.linalg.eigvalsh(_hessian(run, 2, 0))[-1]
    (row,) = early.iter_rows(named=True)
    assert row["eigenvalue1"] == pytest.approx(top, rel=1e-3)
    assert row["step"] == 0
    assert row["trace"] is row["trace_error"] is None


def test_a_member_is_the_same_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"items": 6, "probes": 2, "iterations": 12}
    together = analysis.sharpness(run, **options)
    alone = analysis.sharpness(run, members=[2], **options)
    assert alone.equals(together.filter(member=2))
    assert together["eigenvalue1"].n_unique() == 4
    # Passes of one sequence, each with its own graph, are the same sum.
    monkeypatch.setattr(losses, "_GRAPHS", 2**40)
    parts = analysis.sharpness(run, members=[2], **options)
    for name in ("eigenvalue1", "trace", "loss", "gradient_norm"):
        assert parts[name][0] == pytest.approx(alone[name][0], rel=1e-4)


def test_the_batch_is_drawn_from_each_data_seed_at_the_reserved_step(run: Run) -> None:
    one, two = run.groups[0]
    task = make_task(one.task)
    assert losses.fixed_batch([one]).inputs.shape == (256, 4)
    both = losses.fixed_batch([one, two, one], 8)
    for rows, spec in ((slice(8), one), (slice(8, 16), two)):
        tokens, targets = task.batch(spec.data_seed, 2**31 - 1, 8)
        np.testing.assert_array_equal(both.inputs[rows], tokens)
        np.testing.assert_array_equal(both.targets[rows], targets)
    assert len(both.inputs) == 16


@pytest.mark.edge(
    "more sequences than a task's table has", "refused; by default the training's batch"
)
def test_a_small_table_gives_the_training_s_batch() -> None:
    config = {"task": {"name": "modular", "modulus": 7}, "training": {"batch_size": 5}}
    spec = member_groups(from_dict(config))[0][0]
    assert len(losses.fixed_batch([spec]).inputs) == 5
    with pytest.raises(UsageError, match=r"items is 49; .* and must hold at least one batch"):
        losses.fixed_batch([spec], 49)


def test_lanczos_of_matrices_that_are_known() -> None:
    turned, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 40)))
    values = np.concatenate([[9.0, 7.5], np.linspace(-20, 3, 38)])
    matrix = turned * values @ turned.T
    found = curvature.lanczos(matrix.__matmul__, 40, 1, 2, 40, 1e-12)
    np.testing.assert_allclose(found.values, [9, 7.5], rtol=1e-11)
    # What came too early is never too high, and as near to an eigenvalue as it says.
    early = curvature.lanczos(matrix.__matmul__, 40, 1, 1, 6, 1e-12)
    assert early.products == 6
    assert early.values[0] < 9
    assert np.abs(values - early.values[0]).min() <= early.residuals[0]
    assert curvature.lanczos(matrix.__matmul__, 40, 1, 2, 40, 0.05).products < 40


def test_lanczos_goes_on_where_its_basis_closes() -> None:
    few = np.diag([2.0, 2.0, 2.0, -1.0])  # two products close it
    found = curvature.lanczos(few.__matmul__, 4, 0, 4, 100, 0.0)
    np.testing.assert_allclose(found.values, [2, 2, 2, -1], atol=1e-12)
    assert found.products == 4
    nothing = curvature.lanczos(np.zeros_like, 5, 0, 1, 10, 1e-6)
    assert nothing.values[0] == nothing.residuals[0] == 0
    wide = curvature.lanczos(few.__matmul__, 4, 0, 6, 6, 0.0)  # more than there are
    assert np.isnan(wide.values).tolist() == [False] * 4 + [True] * 2
    broken = curvature.lanczos(lambda v: v * np.nan, 5, 0, 1, 10, 1e-6)
    assert np.isnan(broken.values[0])
    assert broken.products == 1


def test_a_trace_of_signs() -> None:
    diagonal = np.random.default_rng(2).normal(size=70)
    exact = curvature.hutchinson(lambda v: diagonal * v, 70, 5, 4)
    assert exact.value == pytest.approx(diagonal.sum())
    assert exact.error < 1e-12
    signs = np.stack([curvature.rademacher(5, probe, 70) for probe in range(400)])
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.mean()) < 0.02
    other = curvature.rademacher(6, 0, 70)
    assert (other != signs[0]).any()
    # No two probes, and no two of their numbers, go together.
    assert np.abs(signs @ signs.T / 70 - np.eye(400)).max() < 0.65
    assert np.abs(signs.T @ signs / 400 - np.eye(70)).max() < 0.25


def test_the_line_from_init_to_the_end(run: Run) -> None:
    line = analysis.loss_line(run, points=5, items=ITEMS, float64=True, scores=True)
    assert line.columns[:6] == ["member", "step", "start", "at", "loss", "distance"]
    assert line.select("member", "at").rows() == [
        (member, at) for member in range(4) for at in (0, 0.25, 0.5, 0.75, 1)
    ]
    for row in line.iter_rows(named=True):
        first, last = (run.params(row["member"], step) for step in STEPS)
        weights = {
            n: torch.from_numpy(first[n] + row["at"] * (last[n].astype(np.float64) - first[n]))
            for n in first
        }
        own = float(_loss(run, row["member"], weights))
        assert row["loss"] == pytest.approx(own, rel=1e-12)
        far = sum(float(((last[n] - first[n]).astype(np.float64) ** 2).sum()) for n in first)
        assert row["distance"] == pytest.approx(np.sqrt(far), rel=1e-6)
    ends = line.filter(at=1).join(run.metrics.filter(step=6), on="member", suffix="_then")
    assert ends["seen"].to_list() == pytest.approx(ends["seen_then"].to_list(), abs=1e-5)
    alone = analysis.loss_line(run, members=[3], points=5, items=ITEMS, float64=True, scores=True)
    assert alone.equals(line.filter(member=3))


def test_a_line_that_goes_nowhere_has_no_barrier(run: Run) -> None:
    still = analysis.loss_line(run, 6, [0], start=6, items=ITEMS)
    assert still["loss"].n_unique() == 1
    assert still["distance"].to_list() == [0.0] * 11
    assert analysis.barriers(still).select("barrier", "barrier_at").row(0) == (0, 0)


def test_barriers_of_hand_made_lines() -> None:
    at = [0.0, 0.25, 0.5, 1.0]
    rows = {
        0: [1.0, 2.0, 2.5, 3.0],  # 0.5 above 1.5, 0.5 above 2
        1: [3.0, 1.0, 1.0, 1.0],  # never above
        2: [0.1, 0.3, 0.7, 0.3],
        3: [1.0, None, 9.0, 1.0],
    }
    lines = pl.concat(
        pl.DataFrame({"member": m, "step": 9, "at": at, "loss": loss, "distance": 1.5, "n": 7})
        for m, loss in rows.items()
    )
    told = analysis.barriers(lines)
    assert told["barrier"].to_list() == pytest.approx([0.5, 0, 0.5, None])
    assert told["barrier_at"].to_list() == [0.25, 0, 0.5, None]
    assert told["loss_last"].to_list() == [3.0, 1.0, 0.3, 1.0]
    assert told["n"].to_list() == [7] * 4


def test_what_is_not_finite_is_null(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, whole = Run.params, analysis.sharpness(run, items=4, iterations=5, probes=2)

    def broken(self: Run, member: int, step: int | None = None) -> dict[str, Any]:
        found = plain(self, member, step)
        return {n: a * np.float32(np.nan) if member == 1 else a for n, a in found.items()}

    monkeypatch.setattr(Run, "params", broken)
    told = analysis.sharpness(run, items=4, iterations=5, probes=2)
    names = ["eigenvalue1", "residual", "trace", "trace_error", "loss", "gradient_norm"]
    assert told.filter(member=1).select(names).row(0) == (None,) * 6
    assert told.filter(pl.col("member") != 1).equals(whole.filter(pl.col("member") != 1))
    lines = analysis.lines_between(run, pairs=[(0, 1)], items=4, points=3)
    assert lines.filter(path="straight")["loss"].is_null().to_list() == [False, True, True]
    assert analysis.barriers(lines)["barrier"].to_list() == [None, None]


def test_efforts_count_what_is_made(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    told = analysis.sharpness(
        run, items=4, iterations=5, tolerance=0.0, probes=2, progress=lambda *n: calls.append(n)
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    before = analysis.sharpness_effort(run, items=4, iterations=5, probes=2)
    assert before.products == told["products"].sum() == 4 * 7
    assert (
        analysis.sharpness_effort(run, members=[0], iterations=10**6, probes=0).products
        == (told["parameters"][0])
    )
    assert before.seconds > 0
    assert analysis.loss_line_effort(run, items=4, points=5).products == 20
    pairs = analysis.connectivity_effort(run, items=4, points=5)
    assert pairs.products == 2 * (2 * 5 + 1)
    assert analysis.connectivity_effort(run, items=4, points=5, align=False).products == 10
    monkeypatch.setattr(effort, "timed", lambda prepare: 2.0)
    spelt = str(effort.effort_of("things", [(100, 2.0), (50, 4.0)], 1))
    assert spelt == "at most 7 min: 150 things on 1 core"


def test_callers_settings_change_nothing(run: Run) -> None:
    options: dict[str, Any] = {"items": 4, "iterations": 5, "probes": 2}
    plain = analysis.sharpness(run, **options)
    with torch.inference_mode(), torch.autocast("cpu"), torch.device("meta"):
        assert analysis.sharpness(run, **options).equals(plain)


_Measure = Any
CASES: list[tuple[_Measure, dict[str, Any], str]] = [
    (analysis.sharpness, {"step": 5}, r"has no snapshot of step 5; it has 0, 6"),
    (analysis.sharpness, {"members": [9]}, r"members are \[9\]; they must be some of the 4"),
    (analysis.sharpness, {"items": 0}, r"items is 0; it must be in 1\.\."),
    (analysis.sharpness, {"items": 2**40}, r"items is 1099511627776; it must be in 1\.\."),
    (analysis.sharpness, {"eigenvalues": 0}, "eigenvalues is 0; it must be at least 1"),
    (analysis.sharpness, {"eigenvalues": 3, "iterations": 2}, "iterations is 2; .* at least 3"),
    (analysis.sharpness, {"probes": -1}, "probes is -1; it must be at least 0"),
    (analysis.sharpness, {"tolerance": float("nan")}, r"tolerance is nan; it must be in \[0, 1\)"),
    (analysis.loss_line, {"start": 3}, r"has no snapshot of step 3; it has 0, 6"),
    (analysis.loss_line, {"points": 1}, "points is 1; a line has at least its 2 ends"),
    (
        analysis.connectivity,
        {"pairs": [(0, 2)]},
        r"pairs has \(0, 2\); .* two members of one shape",
    ),
    (analysis.connectivity, {"pairs": [(1, 1)]}, r"pairs has \(1, 1\)"),
    (analysis.connectivity, {"pairs": [(0, 1, 2)]}, r"pairs has \(0, 1, 2\); a pair is two"),
    (analysis.connectivity, {"pairs": [(0, 7)]}, r"members are \[0, 7\]"),
    (analysis.connectivity, {"pairs": []}, "pairs is empty"),
    (analysis.connectivity, {"pairs": [(0, 1)], "members": [0]}, "members and pairs are both"),
    (analysis.connectivity, {"members": [0, 2]}, "no two of these members are of one shape"),
]


@pytest.mark.edge(
    "a measure of the landscape of what there is not", "refused; what there is is said"
)
@pytest.mark.parametrize(("measure", "given", "words"), CASES)
def test_what_there_is_not_is_refused(
    run: Run, measure: _Measure, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        measure(run, **given)


def test_the_page_s_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast_disk: None, native_extension: None
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example("analysis.md", "analysis.sharpness(run"), names)
    assert len(names["sharp"]) == 3 * 3
    assert names["apart"]["path"].to_list() == ["straight", "aligned"] * 2
