"""csrc/cuda on the host against float64, inside the budgets of oracle.py and oracle_training.py.

What a GPU adds is the launch: which thread takes which item. Here items go in three orders.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import cuda_host
import numpy as np
import pytest
import torch
from cuda_host import NETWORKS, VARIANTS, flat_layout
from cuda_members import network
from ensembles import member, mixed, random_state
from oracle import Array, Reference, random_batch, reference
from oracle_training import TrainingBudget, Trajectory, train, training_budget

from compfast.config import WEIGHT_DECAYS, MemberSpec
from compfast.tasks import make_task

STEPS = 10
_ENDS = (
    ("embed.token.weight", "embed.position.weight", "final_norm.weight", "final_norm.bias"),
    ("head.weight", "head.bias"),
)
_LAYER = (
    *("norm1.weight", "norm1.bias"),
    *("attention.query.weight", "attention.query.bias"),
    *("attention.key.weight", "attention.key.bias"),
    *("attention.output.weight", "attention.output.bias"),
    *("norm2.weight", "norm2.bias", "ffn.up.weight", "ffn.up.bias"),
    *("ffn.down.weight", "ffn.down.bias"),
)


# Optimisers beside AdamW whose decay is one for all and always on.
DECAYS: dict[str, Any] = dict(zip(WEIGHT_DECAYS, (8.0, 4.0, 2.0, 0.0, 9.0), strict=True))
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "windows": {"decay_windows": ((0.1, 0.25), (0.4, 0.45))},  # of 20 steps: at 2, 3, 4 and 8
    "sgd": {"kind": "sgd", "lr": 0.05},
    "momentum": {"kind": "sgd", "lr": 0.05, "momentum": 0.9, "decay_windows": ((0.1, 0.25),)},
    "nesterov": {"kind": "sgd", "lr": 0.05, "momentum": 0.7, "nesterov": True, **DECAYS},
    "matrices": {"decay": "matrices", "weight_decay": 1.0},
    "groups": DECAYS,
}


def specs(name: str = "tiny", optimizer: str = "adamw") -> list[MemberSpec]:
    """Two members of a variant's network."""
    how: Any = {"batch_size": 7, "optimizer": OPTIMIZERS[optimizer]}
    return mixed(network(name.partition("-")[0], (("seed", (3, 4)),), **how))


@pytest.mark.parametrize("name", NETWORKS)
def test_tensors_lie_where_the_flat_vector_has_them(name: str) -> None:
    flat, found = flat_layout(specs(name)[0]), cuda_host.places(NETWORKS.index(name))
    names = [name for part in _ENDS for name in part]
    assert found[: len(names)] == [flat.placed[name].offset for name in names]
    assert found[len(names)] == flat.size
    layers = [flat.placed[f"blocks.{i}.{name}"].offset for i in (0, 1) for name in _LAYER]
    assert found[len(names) + 1 :] == layers


@functools.cache
def exact_gradients(name: str, size: int) -> tuple[Array, Array, Reference]:
    """Tokens, targets, and what float64 makes of them."""
    chosen = specs(name)
    tokens, targets = random_batch(chosen[0].model, 9, size, seed=size)
    tokens, targets = tokens.astype(np.int32), targets.astype(np.int32)
    state = random_state(chosen)
    members = [member(state.params, i) for i in range(len(chosen))]
    return tokens, targets, reference(chosen[0].model, members, tokens, targets)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [1, 11])
def test_every_gradient(variant: str, size: int) -> None:
    chosen = specs(variant)
    state, flat = random_state(chosen), flat_layout(chosen[0])
    tokens, targets, wanted = exact_gradients(variant.partition("-")[0], size)
    params = np.zeros((len(chosen), flat.size), np.float32)
    flat.pack(state.params, params)
    found = [
        cuda_host.gradient(spec, own, tokens, targets, variant)
        for spec, own in zip(chosen, params, strict=True)
    ]
    for name, grads in flat.unpack(np.stack([g for _, g in found])).items():
        wanted.check(name, grads)
    wanted.check("loss", np.array([loss for loss, _ in found]))


@functools.cache
def exactly(name: str, optimizer: str) -> tuple[Trajectory, TrainingBudget]:
    """Ten steps of the network's first member in float64."""
    spec = specs(name, optimizer)[0]
    exact = train(spec, STEPS)
    return exact, training_budget(exact, train(spec, STEPS, torch.float32), spec.optimizer)


CASES = [*((v, "adamw") for v in VARIANTS), *(("narrow", o) for o in OPTIMIZERS if o != "adamw")]


@pytest.mark.parametrize(("variant", "optimizer"), [*CASES, ("tiny-a100", "nesterov")])
def test_ten_steps(variant: str, optimizer: str) -> None:
    spec = specs(variant, optimizer)[0]
    exact, allowed = exactly(variant.partition("-")[0], optimizer)
    found = cuda_host.train(spec, STEPS, variant)
    assert (found.step, found.status) == (STEPS, 0)
    for name, value in flat_layout(spec).unpack(found.params[None]).items():
        close(name, value[0], exact.params[name], allowed.params[name])
    close("loss", found.loss, np.array(exact.losses), np.full(STEPS, allowed.losses))
    close("norm", found.norm, np.array(exact.norms), allowed.norms)
    assert not found.gradient.any(), "the next step begins with a gradient"
    if spec.optimizer.kind == "sgd":
        assert found.m.any() == (spec.optimizer.momentum > 0)
        assert not found.v.any()


APART: list[tuple[str, dict[str, Any]]] = [
    ("windows", {"decay_windows": ()}),
    ("sgd", {"kind": "adamw"}),
    ("momentum", {"momentum": 0.0}),
    ("momentum", {"decay_windows": ()}),
    ("nesterov", {"nesterov": False}),
    ("matrices", {"decay": "all"}),
    *((case, {name: None}) for case in ("nesterov", "groups") for name in WEIGHT_DECAYS),
]


@pytest.mark.parametrize(("optimizer", "without"), APART)
def test_every_setting_counts(optimizer: str, without: dict[str, Any]) -> None:
    """What test_ten_steps allows is less than what any of them does."""
    spec = specs("narrow", optimizer)[0]
    plain = dataclasses.replace(spec.optimizer, **without)
    other = dataclasses.replace(spec, optimizer=plain)
    flat, allowed = flat_layout(spec), exactly("narrow", optimizer)[1]
    found, apart = (
        flat.unpack(cuda_host.train(each, STEPS, "narrow").params[None]) for each in (spec, other)
    )
    assert any((np.abs(found[t] - apart[t]) > allowed.params[t]).any() for t in found)


def close(name: str, got: Array, wanted: Array, allowed: Array) -> None:
    error = np.abs(got.astype(np.float64) - wanted)
    assert (error <= allowed).all(), f"{name}: {error.max():.3g} from float64"


def test_the_batch_is_the_task_s() -> None:
    spec = specs()[0]
    found = cuda_host.train(spec, 3, "tiny")
    tokens, targets = make_task(spec.task).batch(spec.seed, 2, spec.training.batch_size)
    assert (found.tokens == tokens).all()
    assert (found.targets == targets).all()


@pytest.mark.parametrize("order", [cuda_host.BACKWARD, cuda_host.STRIDED])
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_thread_waits_for_another(variant: str, order: int) -> None:
    """Items in another order: the same bits, so that no item reads what its neighbours write."""
    spec = specs(variant)[0]
    one, two = (cuda_host.train(spec, 2, variant, o) for o in (cuda_host.FORWARD, order))
    for name in ("params", "m", "v", "loss", "norm"):
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes(), name


def test_an_a100_keeps_less_on_chip_and_has_the_same_bits() -> None:
    shape, spec = cuda_host.shape(NETWORKS.index("tiny")), specs()[1]
    assert shape["chips"][80]["kept"] < shape["chips"][90]["kept"] == shape["flat_size"]
    one, two = (cuda_host.train(spec, 3, variant) for variant in ("tiny", "tiny-a100"))
    for name in ("params", "m", "v", "loss", "norm"):
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes(), name


@pytest.mark.parametrize("variant", ["tiny", "tiny-a100"])
def test_chunks_change_no_bit(variant: str) -> None:
    spec = specs()[1]
    whole, part = cuda_host.train(spec, 5, variant), cuda_host.train(spec, 2, variant)
    rest = cuda_host.train(spec, 5, variant, before=part)
    for name in ("params", "m", "v"):
        assert getattr(whole, name).tobytes() == getattr(rest, name).tobytes(), name
    assert whole.loss.tobytes() == np.concatenate([part.loss, rest.loss]).tobytes()


@pytest.mark.parametrize("variant", ["tiny", "tiny-a100"])
def test_a_step_that_is_not_finite_is_not_taken(variant: str) -> None:
    spec = specs()[0]
    wild = dataclasses.replace(spec, optimizer=dataclasses.replace(spec.optimizer, lr=1e20))
    found = cuda_host.train(wild, STEPS, variant)
    assert (found.status, found.step) == (2, 1)
    assert np.isfinite(found.loss[0])
    assert not np.isfinite(found.loss[1])
    assert np.isnan(found.loss[2:]).all()
    after = cuda_host.train(wild, 1, variant)
    assert found.params.tobytes() == after.params.tobytes()
    assert found.m.tobytes() == after.m.tobytes()
    assert not found.gradient.any()
