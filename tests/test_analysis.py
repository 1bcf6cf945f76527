"""Energies and ratios of members at snapshots, against hand-made matrices and plain NumPy."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import fault_tools
import numpy as np
import pytest
import torch
from examples import example
from numpy.typing import NDArray

import compfast
from compfast import analysis
from compfast.analysis import matrices
from compfast.config import ModelConfig
from compfast.errors import AllDivergedError, StorageError, UsageError
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run
from compfast.storage import tensorfile

Array = NDArray[Any]

STEPS = [0, 6]
FORMS: dict[str, dict[str, Any]] = {
    "pre": {"layers": 2, "heads": 2},
    "post": {"layers": 2, "norm": "post"},
    "single": {"layers": 1, "logits": "single", "norm": "none", "attention_bias": False},
}
VALUE, UP = "attention.value.weight", "ffn.up.weight"


def _trained(path: Path, model: dict[str, Any], **sections: Any) -> Run:
    """Two members, or those of a sweep, for 6 steps; relu is easy to do by hand."""
    sizes = {} if "family" in model else {"d_model": 8, "activation": "relu"}
    config = {
        "task": {"name": "markov", "p": 0.2, "q": 0.3, "seq_len": 6},
        "model": {**sizes, "loss_positions": "all", **model},
        "training": {"steps": 6, "batch_size": 4, "log_every": 3, "eval_every": 6},
        "evaluation": {"unseen_items": 5},
        "run": {"snapshots": STEPS, "threads": 1, "engine": "native"},
        "sweep": {"seed": [0, 1]},
        **sections,
    }
    with fault_tools.fast_disk():
        return compfast.train(config, path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, native_extension: None) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("forms")
    return {name: _trained(folder / name, model) for name, model in FORMS.items()}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, native_extension: None) -> Run:
    """Members 0 and 2 have attention, 2 and 3 a second layer."""
    sweep = {"model.layers": [1, 2], "model.attention": ["softmax", "none"]}
    return _trained(tmp_path_factory.mktemp("mixed") / "run", {}, sweep=sweep)


def test_energies_of_hand_made_matrices() -> None:
    u, v, two = np.array([1.0, -2.0, 3.0]), np.array([2.0, 0.5, -1.0]), np.diag([3.0, 4.0, 0.0])
    turned, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    stack = np.stack([np.outer(u, v), np.eye(3), two, turned @ two, 1e-30 * two, 1e30 * two])
    expected = [1, 1 / 3, 16 / 25, 16 / 25, 16 / 25, 16 / 25]
    np.testing.assert_allclose(matrices.energies(stack), expected, rtol=1e-13)
    np.testing.assert_allclose(matrices.energies(stack.astype(np.float32)), expected, rtol=1e-6)
    wide = np.arange(10.0).reshape(1, 2, 5)
    squares = np.linalg.eigvalsh(wide[0] @ wide[0].T)
    for either in (wide, wide.transpose(0, 2, 1)):
        assert matrices.energies(either)[0] == pytest.approx(squares[-1] / squares.sum())


def test_a_neighbour_changes_no_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix of zeros, nan or infinities has none, and those beside it have theirs."""
    stack = np.random.default_rng(1).normal(size=(6, 4, 3)).astype(np.float32)
    alone = [float(matrices.energies(one[None])[0]) for one in stack]
    stack[1] = 0
    stack[2, 0, 0], stack[4, 3, 2] = math.nan, math.inf
    for chunk in (1, 24, 10**6):
        monkeypatch.setattr(matrices, "_CHUNK", chunk)
        found = matrices.energies(stack)
        assert np.isnan(found).tolist() == [False, True, True, False, True, False]
        assert found[[0, 3, 5]].tolist() == [alone[0], alone[3], alone[5]]


def test_every_matrix_of_every_member_at_every_snapshot(mixed: Run) -> None:
    table = analysis.rank_one_energy(mixed)
    assert table.columns == ["member", "step", "tensor", "energy"]
    wanted = {
        (member, step, name): array.astype(np.float64)
        for member in range(4)
        for step in STEPS
        for name, array in mixed.params(member, step).items()
        if array.ndim == 2
    }
    places = {key: i for i, key in enumerate(wanted)}
    found = [places[key] for key in table.select("member", "step", "tensor").iter_rows()]
    assert sorted(found) == list(range(len(wanted)))
    assert table["member"].is_sorted()
    for key, energy in zip(wanted, table["energy"].gather(np.argsort(found)), strict=True):
        first = np.linalg.svd(wanted[key], compute_uv=False)[0]
        assert energy == pytest.approx(first**2 / (wanted[key] ** 2).sum())
    early, late = (table.filter(step=step)["energy"] for step in STEPS)
    assert (early != late).any()


def test_tensors_are_named_by_the_end_of_their_names(mixed: Run) -> None:
    some = analysis.rank_one_energy(mixed, ["value.weight", f"blocks.1.{UP}"])
    own = {
        member: part.filter(step=6)["tensor"].to_list()
        for (member,), part in some.group_by("member", maintain_order=True)
    }
    values = [f"blocks.{layer}.{VALUE}" for layer in (0, 1)]
    assert own == {0: values[:1], 2: [*values, f"blocks.1.{UP}"], 3: [f"blocks.1.{UP}"]}
    assert some.equals(
        analysis.rank_one_energy(mixed).join(
            some, on=["member", "step", "tensor"], how="semi", maintain_order="left"
        )
    )


def test_what_is_zero_or_overflows_has_no_number(tmp_path: Path, native_extension: None) -> None:
    constants = {"constants": [["value.weight", 0.0], [UP, 2.0]]}
    zero = _trained(tmp_path / "zero", {"layers": 1, "attention_bias": False}, init=constants)
    table = analysis.rank_one_energy(zero, ["value.weight", UP]).filter(step=0)
    assert table.filter(tensor=f"blocks.0.{VALUE}")["energy"].to_list() == [None, None]
    assert table.filter(tensor=f"blocks.0.{UP}")["energy"].to_list() == pytest.approx([1, 1])
    assert analysis.attention_to_skip(zero).filter(step=0)["ratio"].to_list() == [0, 0]

    with pytest.raises(AllDivergedError):
        _trained(tmp_path / "huge", {"norm": "none"}, init={"std": 1e30})
    huge = compfast.load(tmp_path / "huge")
    assert analysis.attention_to_skip(huge)["ratio"].null_count() == 8
    assert analysis.rank_one_energy(huge)["energy"].is_between(0.05, 1).all()


def _norm(x: Array, params: dict[str, Array], name: str) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    result: Array = centred / spread * params[f"{name}.weight"] + params[f"{name}.bias"]
    return result


def _linear(x: Array, params: dict[str, Array], name: str) -> Array:
    result: Array = x @ params[f"{name}.weight"].T + params.get(f"{name}.bias", 0.0)
    return result


def _attended(x: Array, params: dict[str, Array], name: str, heads: int) -> Array:
    """One sequence [T, D], one query and head at a time."""
    q, k, v = (_linear(x, params, f"{name}.{which}") for which in ("query", "key", "value"))
    size, mixed = q.shape[1] // heads, np.zeros_like(v)
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        for t in range(len(x)):
            weights = np.exp(k[: t + 1, own] @ q[t, own] / math.sqrt(size))
            mixed[t, own] = weights @ v[: t + 1, own] / weights.sum()
    return _linear(mixed, params, f"{name}.output")


def _by_hand(params: dict[str, Array], tokens: Array, model: ModelConfig) -> list[float]:
    """|Attn(x)| / |x + Attn(x)| of each layer, mean over tokens and sequences, in float64."""
    params = {name: array.astype(np.float64) for name, array in params.items()}
    table = params["embed.token.weight"]
    if model.logits == "single":
        table = np.concatenate([np.zeros_like(table), table])
    ratios: list[list[float]] = [[] for _ in range(model.layers)]
    for sequence in tokens:
        x = table[sequence] + params["embed.position.weight"][: len(sequence)]
        for layer in range(model.layers):
            block = f"blocks.{layer}"
            read = _norm(x, params, f"{block}.norm1") if model.norm == "pre" else x
            added = _attended(read, params, f"{block}.attention", model.heads)
            ratios[layer] += [
                math.dist(a, 0 * a) / math.dist(a + b, 0 * a) for a, b in zip(added, x, strict=True)
            ]
            x = x + added
            x = _norm(x, params, f"{block}.norm1") if model.norm == "post" else x
            read = _norm(x, params, f"{block}.norm2") if model.norm == "pre" else x
            up = np.maximum(_linear(read, params, f"{block}.ffn.up"), 0)
            x = x + _linear(up, params, f"{block}.ffn.down")
            x = _norm(x, params, f"{block}.norm2") if model.norm == "post" else x
    return [float(np.mean(values)) for values in ratios]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("at_once", [2**24, 1])
def test_ratios_are_the_definition(
    runs: dict[str, Run], form: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compfast.analysis.inputs._ROOM", at_once)
    run = runs[form]
    model, tokens = run.groups[0][0].model, exams_of(run.groups)[0].inputs
    assert isinstance(model, ModelConfig)
    own = np.array([[0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]])
    for given, read in ((None, tokens), (own, own)):
        table = analysis.attention_to_skip(run, given)
        assert table.columns == ["member", "step", "layer", "ratio"]
        expected = [
            (member, step, layer, ratio)
            for member in (0, 1)
            for step in STEPS
            for layer, ratio in enumerate(_by_hand(run.params(member, step), read, model))
        ]
        assert table.select("member", "step", "layer").rows() == [row[:3] for row in expected]
        assert table["ratio"].to_list() == pytest.approx([row[3] for row in expected], rel=1e-4)


def test_members_without_attention_have_no_rows(mixed: Run) -> None:
    table = analysis.attention_to_skip(mixed).filter(step=0)
    assert table.select("member", "layer").rows() == [(0, 0), (2, 0), (2, 1)]


def test_a_callers_settings_change_no_ratio(runs: dict[str, Run]) -> None:
    plain, threads = analysis.attention_to_skip(runs["pre"]), torch.get_num_threads()
    with torch.inference_mode(), torch.autocast("cpu"), torch.device("meta"):
        assert analysis.attention_to_skip(runs["pre"]).equals(plain)
    assert torch.get_num_threads() == threads


@pytest.mark.edge("an analysis of a run without snapshots", "refused; --snapshots is named")
@pytest.mark.parametrize("measure", [analysis.rank_one_energy, analysis.attention_to_skip])
def test_a_run_without_snapshots_is_refused(
    runs: dict[str, Run], measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "snapshots", [])
    with pytest.raises(UsageError, match=r"has no snapshots; train it with --snapshots"):
        measure(runs["pre"])


@pytest.mark.edge("an analysis of what no member has", "refused; the field is named")
def test_what_no_member_has_is_refused(tmp_path: Path, native_extension: None) -> None:
    free = _trained(tmp_path / "free", {"attention": "none"})
    with pytest.raises(UsageError, match=r"model\.attention is none; there is no attention"):
        analysis.attention_to_skip(free)
    canonical = _trained(tmp_path / "canonical", {"family": "canonical"})
    with pytest.raises(UsageError, match=r"model\.family is canonical; there is no attention"):
        analysis.attention_to_skip(canonical)
    with pytest.raises(UsageError, match=r"model\.family is canonical; no tensor of .* a matrix"):
        analysis.rank_one_energy(canonical)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (["value.weights"], r"tensors names 'value\.weights'; the matrices of .* are embed\.token"),
        (["head.bias"], r"tensors names 'head\.bias'"),
        (["alue.weight"], r"tensors names 'alue\.weight'"),
        ("value.weight", "tensors is 'value.weight'; it must be a list of names"),
        ([], r"tensors is \[\]; it must be a list of names"),
    ],
)
def test_tensors_that_are_not_there_are_refused(
    runs: dict[str, Run], tensors: Any, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        analysis.rank_one_energy(runs["pre"], tensors)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([[0, 2]], r"inputs go from 0 to 2; member 0 knows 0 to 1 \(model\.vocab_size\)"),
        ([[0, -1]], "inputs go from -1 to 0"),
        ([[0] * 7], r"shape \[1, 7\].*; member 0 reads token ids \[N, T\], T at most 6"),
        ([0, 1], r"inputs have shape \[2\] and type int64; member 0 reads token ids \[N, T\]"),
        ([[0.0, 1.0]], r"type float64; member 0 reads token ids"),
        (np.zeros((0, 6), np.int32), r"shape \[0, 6\]"),
    ],
)
def test_tokens_that_are_no_sequences_are_refused(
    runs: dict[str, Run], tokens: Any, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        analysis.attention_to_skip(runs["single"], tokens)


def test_one_array_of_a_file(runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs["pre"]
    for step in (None, 0):
        stack = run.stacked(0, "head.weight", step)
        for member in (0, 1):
            assert np.array_equal(stack[member], run.params(member, step)["head.weight"])
    with pytest.raises(UsageError, match=r"has no snapshot of step 5; it has 0, 6"):
        run.stacked(0, "head.weight", 5)
    with pytest.raises(StorageError, match=r"params\.safetensors lacks the array head"):
        run.stacked(0, "head")
    (tmp_path / "a").write_bytes(b"".join(tensorfile.chunks({"x": np.arange(3)})))
    assert tensorfile.read_array(tmp_path / "a", "x").tolist() == [0, 1, 2]


def test_the_package_loads_no_torch() -> None:
    code = "import sys, compfast.analysis; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_page_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fast_disk: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example("analysis.md", "analysis.rank_one_energy(run"), names)
    assert names["energy"].shape == (3 * 3 * 2, 4)
    assert names["ratio"].shape == (3 * 3, 4)
    assert "ratio" in capsys.readouterr().out
