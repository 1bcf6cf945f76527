"""Orders of units: what they may not change, and that they are found again."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from planted import planted, planted_run, shape

from compfast import analysis
from compfast.analysis.alignment import aligned
from compfast.analysis.symmetries import HEADED, Symmetries
from compfast.config import ModelConfig
from compfast.config.settings import from_dict
from compfast.ensembles.groups import member_groups
from compfast.errors import UsageError
from compfast.models.families import family_of
from compfast.models.params import parameter_table
from compfast.tasks import make_task
from compfast.tasks.anchor import AnchorConfig

Weights = dict[str, NDArray[np.float32]]
Orders = dict[str, NDArray[np.int64]]

TOKENS = {"name": "markov", "p": 0.2, "q": 0.3, "seq_len": 6}
VECTORS = {"name": "fuzzy", "variables": 3, "samples": 5, "frac_test": 0.5}
TEACHER = {"name": "hyperteacher"}
SIZES = {"layers": 2, "d_model": 12, "heads": 3, "d_k": 5, "d_v": 4, "d_ff": 11}
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "pre": (TOKENS, {"activation": "relu"}),
    # Of so many, the units as they are lead nowhere; the stream has to come first.
    "many": (TOKENS, {"layers": 6, "d_model": 32, "heads": 4, "d_k": 8, "d_v": 8, "d_ff": 64}),
    "post": (TOKENS, {"norm": "post", "norm_bias": False}),
    "none": (TOKENS, {"norm": "none", "attention": "linear", "attention_bias": False}),
    "free": (TOKENS, {"attention": "none", "ffn_bias": False}),
    "tied": (TOKENS, {"tied_head": True, "head_bias": False}),
    "single": (TOKENS, {"logits": "single", "position": "none"}),
    "relative": (VECTORS, {"position": "relative", "attention": "rms_head"}),
    "linear": (VECTORS, {"value_path": "linear", "attention": "rms_head"}),
    "relu": (VECTORS, {"value_path": "relu", "value_activation": "relu"}),
    "deep": (VECTORS, {"value_path": "deep", "position": "relative", "causal": False}),
    "bottleneck": (TEACHER, {"family": "bottleneck", "latent": 5, "hidden": 7}),
}


def _drawn(form: str, seed: int) -> tuple[ModelConfig, Weights, Any]:
    """A resolved model, weights that are all different, and what its networks read."""
    task, model = FORMS[form]
    config = from_dict({"task": task, "model": {**SIZES, **model}})
    spec = member_groups(config)[0][0]
    rng = np.random.default_rng(seed)
    weights = {
        t.name: rng.normal(1.0 * ("norm" in t.name), 0.4, t.shape).astype(np.float32)
        for t in parameter_table(spec.model)
    }
    inputs, _ = make_task(spec.task).batch(0, 0, 5)
    assert isinstance(spec.model, ModelConfig)
    return spec.model, weights, torch.from_numpy(inputs)


def _shuffled(symmetries: Symmetries, seed: int) -> Orders:
    rng = np.random.default_rng(seed)
    orders = symmetries.identity()
    for name, order in orders.items():
        together = symmetries.shared and name.endswith((".v", ".deep"))
        rows = order.reshape(-1, order.shape[-1])
        new = np.stack([_moved(rng, row) for row in rows])
        orders[name] = (np.repeat(new[:1], len(new), axis=0) if together else new).reshape(
            order.shape
        )
    return orders


def _moved(rng: np.random.Generator, row: NDArray[np.int64]) -> NDArray[np.int64]:
    while np.array_equal(new := rng.permutation(row), row):
        pass
    return new


def _outputs(model: ModelConfig, weights: Weights, inputs: Any) -> NDArray[np.float64]:
    module: Any = family_of(model).holding(model, weights)
    read = inputs.double() if inputs.is_floating_point() else inputs.long()
    with torch.no_grad():
        found: NDArray[np.float64] = module.double()(read).numpy()
    return found


@pytest.mark.parametrize("form", FORMS)
def test_other_orders_compute_the_same_and_are_found_again(form: str) -> None:
    model, weights, inputs = _drawn(form, 1)
    symmetries = Symmetries(model)
    other = symmetries.reordered(weights, _shuffled(symmetries, 2))
    outputs = _outputs(model, weights, inputs)
    np.testing.assert_allclose(_outputs(model, other, inputs), outputs, rtol=1e-9, atol=1e-9)
    still = {name for name, array in other.items() if np.array_equal(array, weights[name])}
    assert still <= {"head.bias"}
    back, orders = aligned(symmetries, weights, other)
    assert all(np.array_equal(back[name], weights[name]) for name in weights)
    assert set(orders) == set(symmetries.identity())


@pytest.mark.parametrize("form", ["pre", "deep", "bottleneck"])
def test_orders_that_do_not_go_together_compute_something_else(form: str) -> None:
    model, weights, inputs = _drawn(form, 1)
    symmetries = Symmetries(model)
    orders = _shuffled(symmetries, 2)
    outputs = _outputs(model, weights, inputs)
    for name, axes in symmetries.axes.items():
        if not any(axes):
            continue
        mixed = {**symmetries.reordered(weights, orders), name: weights[name]}
        # The key's bias adds the same to all scores of a query.
        if name.endswith("key.bias"):
            continue
        assert np.abs(_outputs(model, mixed, inputs) - outputs).max() > 1e-6, name


def test_a_value_s_numbers_are_each_head_s_own_only_where_heads_do_not_mix() -> None:
    for form, same in (("relative", True), ("relu", False)):
        model, weights, inputs = _drawn(form, 1)
        symmetries = Symmetries(model)
        orders = symmetries.identity()
        orders["0.v"][0] = orders["0.v"][0][::-1]
        other = _outputs(model, symmetries.reordered(weights, orders), inputs)
        assert np.allclose(other, _outputs(model, weights, inputs)) == same


@pytest.mark.parametrize("form", ["pre", "deep", "bottleneck"])
def test_two_networks_come_nearer(form: str) -> None:
    """Of independent weights, and the same function: to 1e-5 in float32."""
    model, a, inputs = _drawn(form, 1)
    _, b, _ = _drawn(form, 7)
    symmetries = Symmetries(model)
    near, orders = aligned(symmetries, a, b)
    before, after = (sum(((a[n] - w[n]) ** 2).sum() for n in a) for w in (b, near))
    assert after < 0.97 * before
    module, other = (family_of(model).holding(model, w) for w in (b, near))
    read = inputs if inputs.is_floating_point() else inputs.long()
    with torch.no_grad():
        np.testing.assert_allclose(other(read), module(read), rtol=1e-5, atol=1e-5)
    for name, order in orders.items():
        rows = order.reshape(-1, order.shape[-1])
        assert (np.sort(rows, axis=1) == np.arange(rows.shape[1])).all(), name
    again, _ = aligned(symmetries, a, near)
    assert all(np.array_equal(again[n], near[n]) for n in near)


def test_heads_are_matched_with_what_is_inside_them() -> None:
    """By the best that a pair of heads can do, not by how they stand."""
    model, weights, _ = _drawn("pre", 3)
    symmetries = Symmetries(model)
    orders = symmetries.identity()
    orders["0.heads"] = np.array([2, 0, 1])
    orders["0.qk"] = np.stack([np.roll(np.arange(5), h + 1) for h in range(3)])
    orders["1.v"] = np.stack([np.roll(np.arange(4), h + 1) for h in range(3)])
    _, found = aligned(symmetries, weights, symmetries.reordered(weights, orders))
    # The order that undoes it: place h of A is where head h went.
    where = np.argsort(orders["0.heads"])
    assert found["0.heads"].tolist() == where.tolist()
    for h in range(3):
        assert found["0.qk"][h].tolist() == np.argsort(orders["0.qk"][where[h]]).tolist()
        assert found["1.v"][h].tolist() == np.argsort(orders["1.v"][h]).tolist()
    assert {name.rpartition(".")[2] for name in found} >= {*HEADED[:2], "ffn", "heads", "stream"}


def test_a_member_and_its_copy_in_another_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native_extension: None
) -> None:
    """Straight there is a barrier and aligned none; none at all between identical members."""

    def copied(kind: str, task: AnchorConfig) -> Weights:
        weights = planted("inferential", task)
        if kind == "inferential":
            return weights
        symmetries = Symmetries(shape(task))
        return symmetries.reordered(weights, _shuffled(symmetries, 5))

    monkeypatch.setattr("planted.planted", copied)
    monkeypatch.setattr("planted.KINDS", ("inferential", "copy"))
    run = planted_run(tmp_path / "run", ["inferential", "inferential", "copy", "drawn"], items=20)
    told = analysis.connectivity(run, pairs=[(0, 1), (0, 2), (2, 3)], items=32, points=5)
    assert told.select("member", "other", "step", "path").rows() == [
        (*pair, 1, path) for pair in ((0, 1), (0, 2), (2, 3)) for path in ("straight", "aligned")
    ]
    assert told["barrier"][0] == told["barrier"][1] == 0
    assert told["distance"][:2].to_list() == [0, 0]
    assert told["barrier"][2] > 1
    assert told["barrier"][3] == told["distance"][3] == 0
    assert told["n"].to_list() == [64] * 6  # both members' sequences
    copy = told.filter(member=2)
    assert copy["loss_last"][0] == pytest.approx(copy["loss_last"][1], rel=1e-5)
    assert copy["distance"][1] <= copy["distance"][0]
    alone = analysis.connectivity(run, members=[0, 2], items=32, points=5)
    assert alone.equals(told.filter((pl.col("member") == 0) & (pl.col("other") == 2)))


@pytest.mark.edge("alignment of networks whose symmetries are not known", "refused; families named")
def test_a_family_without_known_symmetries_is_refused() -> None:
    model = dataclasses.replace(_drawn("pre", 0)[0], family="canonical")
    with pytest.raises(UsageError, match=r"model\.family is canonical; members of families trans"):
        Symmetries(model)


@pytest.mark.edge("alignment without scipy", "refused; the pip line is said")
def test_without_scipy_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, weights, _ = _drawn("pre", 0)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(UsageError, match=r"needs the package scipy.*: pip install scipy"):
        aligned(Symmetries(model), weights, weights)
