"""csrc/cuda on the host against float64, inside the budgets of oracle.py and oracle_training.py.

What a GPU adds is the launch: which thread takes which item. Here items go in three orders.
"""

from __future__ import annotations

import dataclasses

import cuda_host
import numpy as np
import pytest
import torch
from cuda_host import SEQUENCES, flat_layout
from ensembles import group, member, mixed, random_state
from oracle import Array, random_batch, reference
from oracle_training import train, training_budget

from compfast.config import MemberSpec
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


def specs() -> list[MemberSpec]:
    return mixed(group("default", (("seed", (3, 4)),), batch_size=13))


def test_tensors_lie_where_the_flat_vector_has_them() -> None:
    flat, found = flat_layout(specs()[0]), cuda_host.places()
    names = [name for part in _ENDS for name in part]
    assert found[: len(names)] == [flat.placed[name].offset for name in names]
    assert found[len(names)] == flat.size
    layers = [flat.placed[f"blocks.{i}.{name}"].offset for i in (0, 1) for name in _LAYER]
    assert found[len(names) + 1 :] == layers


@pytest.mark.parametrize("sequences", SEQUENCES)
@pytest.mark.parametrize("size", [1, 11])
def test_every_gradient(sequences: int, size: int) -> None:
    chosen = specs()
    state, flat = random_state(chosen), flat_layout(chosen[0])
    tokens, targets = random_batch(chosen[0].model, 9, size, seed=size)
    tokens, targets = tokens.astype(np.int32), targets.astype(np.int32)
    members = [member(state.params, i) for i in range(len(chosen))]
    wanted = reference(chosen[0].model, members, tokens, targets)
    params = np.zeros((len(chosen), flat.size), np.float32)
    flat.pack(state.params, params)
    found = [
        cuda_host.gradient(spec, own, tokens, targets, sequences)
        for spec, own in zip(chosen, params, strict=True)
    ]
    for name, grads in flat.unpack(np.stack([g for _, g in found])).items():
        wanted.check(name, grads)
    wanted.check("loss", np.array([loss for loss, _ in found]))


@pytest.mark.parametrize("sequences", SEQUENCES)
def test_ten_steps(sequences: int) -> None:
    for spec in specs():
        flat, exact = flat_layout(spec), train(spec, STEPS)
        allowed = training_budget(exact, train(spec, STEPS, torch.float32))
        found = cuda_host.train(spec, STEPS, sequences)
        assert (found.step, found.status) == (STEPS, 0)
        for name, value in flat.unpack(found.params[None]).items():
            close(name, value[0], exact.params[name], allowed.params[name])
        close("loss", found.loss, np.array(exact.losses), np.full(STEPS, allowed.losses))
        close("norm", found.norm, np.array(exact.norms), allowed.norms)
        assert not found.gradient.any(), "the next step begins with a gradient"


def close(name: str, got: Array, wanted: Array, allowed: Array) -> None:
    error = np.abs(got.astype(np.float64) - wanted)
    assert (error <= allowed).all(), f"{name}: {error.max():.3g} from float64"


def test_the_batch_is_the_task_s() -> None:
    spec = specs()[0]
    found = cuda_host.train(spec, 3, 4)
    tokens, targets = make_task(spec.task).batch(spec.seed, 2, spec.training.batch_size)
    assert (found.tokens == tokens).all()
    assert (found.targets == targets).all()


@pytest.mark.parametrize("order", [cuda_host.BACKWARD, cuda_host.STRIDED])
@pytest.mark.parametrize("sequences", SEQUENCES)
def test_no_thread_waits_for_another(sequences: int, order: int) -> None:
    """Items in another order: the same bits, so that no item reads what its neighbours write."""
    spec = specs()[0]
    one, two = (cuda_host.train(spec, 2, sequences, o) for o in (cuda_host.FORWARD, order))
    for name in ("params", "m", "v", "loss", "norm"):
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes(), name


def test_chunks_change_no_bit() -> None:
    spec = specs()[1]
    whole, part = cuda_host.train(spec, 5, 2), cuda_host.train(spec, 2, 2)
    rest = cuda_host.train(spec, 5, 2, before=part)
    for name in ("params", "m", "v"):
        assert getattr(whole, name).tobytes() == getattr(rest, name).tobytes(), name
    assert whole.loss.tobytes() == np.concatenate([part.loss, rest.loss]).tobytes()


def test_a_step_that_is_not_finite_is_not_taken() -> None:
    spec = specs()[0]
    wild = dataclasses.replace(spec, optimizer=dataclasses.replace(spec.optimizer, lr=1e20))
    found = cuda_host.train(wild, STEPS, 2)
    assert (found.status, found.step) == (2, 1)
    assert np.isfinite(found.loss[0])
    assert not np.isfinite(found.loss[1])
    assert np.isnan(found.loss[2:]).all()
    after = cuda_host.train(wild, 1, 2)
    assert found.params.tobytes() == after.params.tobytes()
    assert found.m.tobytes() == after.m.tobytes()
    assert not found.gradient.any()
