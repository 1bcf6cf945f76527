"""States and attention of members at once, against plain PyTorch; nobody's settings matter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import fault_tools
import numpy as np
import polars as pl
import pytest
import torch
from examples import example
from numpy.typing import NDArray
from process_state import process_state

import compfast
from compfast import analysis
from compfast.analysis import Edge, Patch
from compfast.analysis.positions import put, take
from compfast.engines.cores import Cores
from compfast.errors import UsageError
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run

PLACES = ("", "embed", "blocks.0", "blocks.1.attention", "blocks.0.ffn.down:in", "blocks.1:in")


def _trained(path: Path, task: dict[str, Any], model: dict[str, Any], **more: Any) -> Run:
    config = {
        "task": task,
        "model": model,
        "training": {"steps": 4, "batch_size": 4, "log_every": 4, "eval_every": 4},
        "evaluation": {"seen_items": 12, "unseen_items": 9},
        "run": {"threads": 1, "engine": "native", "snapshots": [0, 4]},
        **more,
    }
    with fault_tools.fast_disk():
        return compfast.train(config, path)


@pytest.fixture(scope="module")
def anchors(tmp_path_factory: pytest.TempPathFactory, native_extension: None) -> Run:
    """Members 0 to 2 have one layer, 3 to 5 two."""
    sweep = {"model.layers": [1, 2], "seed": [0, 1, 2]}
    model = {"d_model": 8, "heads": 2, "activation": "relu"}
    return _trained(tmp_path_factory.mktemp("a") / "run", {"name": "anchor"}, model, sweep=sweep)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory, native_extension: None) -> Run:
    """Members of family bottleneck, of attention rms_head and softmax, which is not causal."""
    task = {"name": "hyperteacher", "dim": 3, "hidden": 4, "samples": 5}
    model = {"family": "bottleneck", "d_model": 8, "heads": 2, "latent": 3, "hidden": 4}
    sweep = {"model.attention": ["rms_head", "softmax"]}
    return _trained(tmp_path_factory.mktemp("v") / "run", task, model, sweep=sweep)


def _by_hook(run: Run, member: int, inputs: NDArray[Any], place: str, step: int | None) -> Any:
    """What a place gives, from one whole pass of the member's own module."""
    module, seen = run.model(member, step), []
    inner = dict(module.named_modules())[place.removesuffix(":in")]
    if place.endswith(":in"):
        inner.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    else:
        inner.register_forward_hook(lambda _, given, output: seen.append(output))
    x = inputs if inputs.dtype == np.float32 else inputs.astype(np.int64)
    with torch.no_grad():
        module(torch.from_numpy(x))
    return seen[0].numpy()


def test_states_are_what_the_members_modules_give(anchors: Run, vectors: Run) -> None:
    for run, places in (
        (anchors, PLACES[:3]),
        (vectors, ("", "blocks.0.ffn", "code", "generator:in")),
    ):
        for step in (None, 0):
            for own in analysis.states(run, names=places, step=step):
                assert np.array_equal(own.inputs, exams_of(run.groups)[0].inputs)
                for row, member in enumerate(own.members):
                    for place in places:
                        expected = _by_hook(run, member, own.inputs, place, step)
                        found = own.values[place][row]
                        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    two = [3, 4, 5]
    (own,) = analysis.states(anchors, names=PLACES, members=two)
    assert own.members == tuple(two)
    expected = _by_hook(anchors, 4, own.inputs, "blocks.1:in", None)
    np.testing.assert_allclose(own.values["blocks.1:in"][1], expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(own.values["blocks.0"], own.values["blocks.1:in"])


def test_some_positions_are_kept(anchors: Run) -> None:
    exam, rows = exams_of(anchors.groups)[0], np.arange(21)
    at = ("key", "anchor1", "anchor2", "last", 0)
    places = ("blocks.0", "blocks.0.attention.pattern")
    whole = analysis.states(anchors, names=places, members=[1])[0].values
    some = analysis.states(anchors, names=places, members=[1], at=at)[0].values
    key = np.isin(exam.inputs, (1, 2, 3, 4)).argmax(axis=1) - 1
    where = np.stack([key, key + 1, key + 2, np.full(21, 8), np.zeros(21, int)], axis=1)
    assert some["blocks.0"].shape == (1, 21, 5, 8)
    assert np.array_equal(some["blocks.0"][0], whole["blocks.0"][0][rows[:, None], where])
    pattern = whole["blocks.0.attention.pattern"][0].transpose(0, 2, 1, 3)  # [N, T, H, T]
    expected = pattern[rows[:, None], where].transpose(0, 2, 1, 3)
    assert np.array_equal(some["blocks.0.attention.pattern"][0], expected)
    own = analysis.states(anchors, exam.inputs[:3], names=("",), members=[1], at=("last",))
    assert own[0].values[""].shape[:3] == (1, 3, 1)


def test_attention_is_as_the_module_normalises_it(anchors: Run, vectors: Run) -> None:
    for run in (anchors, vectors):
        for own in analysis.attention_weights(run):
            for row, member in enumerate(own.members):
                module = run.model(member)
                for layer, block in enumerate(module.blocks):
                    x = _by_hook(run, member, own.inputs, f"blocks.{layer}.attention:in", None)
                    with torch.no_grad():
                        expected = block.attention.weights(torch.from_numpy(x)).numpy()
                    found = own.values[row, :, layer]
                    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
    shapes = [own.values.shape for own in analysis.attention_weights(anchors)]
    assert shapes == [(3, 21, 1, 2, 9, 9), (3, 21, 2, 2, 9, 9)]


def _every(run: Run, **more: Any) -> tuple[Any, ...]:
    changes: dict[str, Any] = {
        "cut": Edge(0, "last", "key"),
        "mean": Patch("blocks.0", ["key"], "mean"),
    }
    return (
        *(own.values for own in analysis.states(run, **more)),
        *analysis.information_flow(run, **more),
        analysis.effects(run, changes, **more),
    )


def _same(one: tuple[Any, ...], two: tuple[Any, ...]) -> None:
    for a, b in zip(one, two, strict=True):
        if isinstance(a, pl.DataFrame):
            assert a.equals(b)
        else:
            assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_neither_cores_nor_neighbours_nor_a_caller_s_settings_change_a_bit(
    anchors: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _every(anchors)
    before = process_state()
    with torch.inference_mode(), torch.autocast("cpu"), torch.device("meta"):
        _same(whole, _every(anchors))
    assert process_state() == before
    alone = [analysis.states(anchors, members=[m])[0].values for m in (2, 3)]
    assert alone[0]["blocks.0.attention"].tobytes() == whole[0]["blocks.0.attention"][2].tobytes()
    assert alone[1]["blocks.0.attention"].tobytes() == whole[1]["blocks.0.attention"][0].tobytes()
    own = _every(anchors, members=[4])
    for a, b in zip(own[1:], whole[2:], strict=True):
        assert a.equals(b.filter(member=4))
    for count in (1, 5):
        cores = Cores(count, "a test")
        monkeypatch.setattr("compfast.analysis.work.usable_cores", lambda cores=cores: cores)
        _same(whole, _every(anchors))


def test_passes_of_fewer_sequences_change_roundings_only(
    anchors: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _every(anchors)
    monkeypatch.setattr("compfast.analysis.inputs._ROOM", 5000)  # some sequences at a time
    for a, b in zip(whole, _every(anchors), strict=True):
        if isinstance(a, dict):
            one, two = (value["blocks.0.attention"] for value in (a, b))
            np.testing.assert_allclose(one, two, atol=1e-6)
        else:
            assert a.columns == b.columns
            pairs = [(a[c], b[c]) for c in a.columns if a[c].dtype == pl.Float64]
            for one, two in pairs:
                np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)


def test_members_are_streamed(anchors: Run) -> None:
    """What has not been asked for is not computed: two members a core ahead, no more."""
    (specs,) = [specs for specs in anchors.groups if specs[0].member == 0]
    seen: list[int] = []
    many = [specs[i % 3] for i in range(40)]
    each = analysis.each_member(anchors, many, lambda spec, module: seen.append(spec.member))
    next(each)
    each.close()  # type: ignore[attr-defined]
    assert len(seen) < 40
    with pytest.raises(ZeroDivisionError):
        list(analysis.each_member(anchors, many, lambda spec, module: 1 // 0))


def test_one_layer_has_no_flow_in_two(anchors: Run) -> None:
    scores, edges = analysis.information_flow(anchors)
    assert scores["copied_then_gathered"].to_list()[:3] == [0, 0, 0]
    assert scores["copied_at"].is_null().to_list() == [True] * 3 + [False] * 3
    assert edges.group_by("member", maintain_order=True).len()["len"].to_list() == [2] * 3 + [4] * 3


def test_rows_are_taken_and_put_at_positions_of_their_own() -> None:
    x = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)  # [n, H, T, D]
    at = np.array([[3, 0], [1, 2]])
    taken = take(x, at)
    for n in range(2):
        for p in range(2):
            assert torch.equal(taken[n, :, p], x[n, :, at[n, p]])
    back = put(x, at, -taken)
    assert torch.equal(take(back, at), -taken)
    rest = [[1, 2], [0, 3]]
    assert torch.equal(take(back, np.array(rest)), take(x, np.array(rest)))
    assert torch.equal(put(x, None, torch.zeros(1, 1, 1, 5)), torch.zeros_like(x))
    assert x.min() == 0  # untouched


def test_effects_on_outputs_and_on_tasks_without_keys(vectors: Run) -> None:
    changes: dict[str, Any] = {"off": Patch("code"), "cut": Edge(0, "last", 0)}
    table = analysis.effects(vectors, changes)
    assert table["change"].to_list() == ["off", "cut"] * 2
    assert table["kept"].null_count() == table["logit_difference"].null_count() == 4
    own = vectors.members.filter(member=0)
    assert table["before_seen"][0] == pytest.approx(own["seen"].item(), abs=1e-4)


@pytest.mark.edge("an analysis at a place that a network lacks", "refused; its places are named")
def test_what_there_is_not_is_refused(
    anchors: Run, vectors: Run, tmp_path: Path, native_extension: None
) -> None:
    chain = {"name": "markov", "p": 0.2, "q": 0.3, "seq_len": 6}
    canonical = _trained(tmp_path / "run", chain, {"family": "canonical"})
    linear = _trained(tmp_path / "lin", {"name": "anchor"}, {"d_model": 8, "attention": "linear"})
    (own,) = analysis.states(canonical, names=[""])
    assert own.values[""].shape[2:] == (6, 2)
    for call, said in (
        (
            lambda: analysis.states(anchors, names=["blocks"]),
            "nothing passes through the place 'bl",
        ),
        (
            lambda: analysis.states(anchors, names=["block.0"]),
            "there is no place 'block.0' in this",
        ),
        (
            lambda: analysis.states(anchors, names="head"),
            "names is 'head'; it must be a list of pl",
        ),
        (
            lambda: analysis.states(anchors, names=["embed.position"]),
            "gives [9, 8] for 21 sequences",
        ),
        (
            lambda: analysis.states(anchors, members=[]),
            "members are []; they must be some of the 6",
        ),
        (lambda: analysis.states(anchors, np.array([[1, 500]])), "inputs go from 1 to 500"),
        (
            lambda: analysis.states(anchors, np.array([[20, 30]]), at=["key"]),
            "a position is 'key'; it must be l",
        ),
        (lambda: analysis.states(anchors, step=2), "has no snapshot of step 2; it has 0, 4"),
        (
            lambda: analysis.states(canonical, np.array([[0, 2]]), [""]),
            "inputs go from 0 to 2; member 0 knows",
        ),
        (
            lambda: analysis.attention_weights(canonical),
            "model.family is canonical; there is no att",
        ),
        (
            lambda: analysis.information_flow(linear),
            "model.attention is linear; information flow re",
        ),
        (
            lambda: analysis.information_flow(vectors),
            "task.name is hyperteacher; information flow n",
        ),
        (
            lambda: analysis.effects(vectors, {"k": Patch("embed", None, "other_key")}),
            "by is 'other_key'; this exam has no key and two anchors to change",
        ),
        (
            lambda: analysis.effects(canonical, {"e": Edge(0, 1, 0)}),
            "member 0 has no attention, so no edge to cut",
        ),
    ):
        with pytest.raises(UsageError, match=re.escape(said)):
            call()


def test_the_page_s_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast_disk: None, native_extension: None
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example("analysis.md", "analysis.states(run"), names)
    assert names["codes"].values["blocks.0.attention"].shape == (4, 1472, 1, 32)
    assert names["scores"].height == 4
    assert names["table"].height == 4 * 2
