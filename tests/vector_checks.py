"""What every network of vectors is held to on an engine, against float64 and against itself."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from architectures import BOTTLENECKS, VECTORS
from ensembles import member, mixed, random_state, same_bits, start
from oracle import ORDERS, Reference, random_batch, reference
from oracle_training import train, training_budget

from compfast.config import Config, MemberSpec
from compfast.ensembles.grid import member_specs
from compfast.tasks import make_task

STEPS = 10


@functools.cache
def specs_of(name: str, **model: Any) -> list[MemberSpec]:
    """Three members of an entry of VECTORS or BOTTLENECKS."""
    task, network = (VECTORS | BOTTLENECKS)[name]
    config = Config(
        task=task,  # type: ignore[arg-type]
        model={**network, **model},
        optimizer={"decay": "arrays"},  # type: ignore[arg-type]
        sweep=(("seed", (3, 4, 5)),),
        training={"steps": 20, "batch_size": 13},  # type: ignore[arg-type]
    )
    return member_specs(config)


def check_forward_and_gradients(engine: str, name: str, size: int, orders: int = ORDERS) -> None:
    specs = specs_of(name)
    made, state = start(engine, specs), random_state(specs)
    made.load(state)
    inputs, targets = random_batch(specs[0].model, make_task(specs[0].task).length, size, size)
    wanted = _reference(name, size, orders)
    loss, grads = made.gradients(inputs, targets)
    assert grads.keys() == wanted.exact.grads.keys()
    for tensor, gradient in grads.items():
        wanted.check(tensor, gradient)
    wanted.check("loss", loss)
    outputs = made.outputs(inputs, range(len(specs)))
    wanted.check("logits", outputs, np.s_[:, :, -specs[0].model.asked :])
    assert np.array_equal(made.predict(inputs), outputs.argmax(-1))


@functools.cache
def _reference(name: str, size: int, orders: int) -> Reference:
    specs = specs_of(name)
    batch = random_batch(specs[0].model, make_task(specs[0].task).length, size, size)
    state = random_state(specs)
    members = [member(state.params, i) for i in range(len(specs))]
    return reference(specs[0].model, members, *batch, orders)


def check_ten_steps(engine: str, name: str) -> None:
    """On the task's own batches, decaying what Flax keeps in more than one dimension."""
    specs = mixed(specs_of(name))
    made = start(engine, specs)
    before = made.state()
    result = made.advance(STEPS)
    after = made.state()
    for i, spec in enumerate(specs[:2]):
        exact = train(spec, STEPS)
        single = train(spec, STEPS, torch.float32)
        allowed = training_budget(exact, single, spec.optimizer)
        for tensor, value in member(before.params, i).items():
            assert value.tobytes() == exact.start[tensor].tobytes()
            error = np.abs(after.params[tensor][i] - exact.params[tensor])
            assert (error <= allowed.params[tensor]).all(), tensor
        assert (np.abs(result.loss[i] - np.array(exact.losses)) <= allowed.losses).all()
        assert (np.abs(result.grad_norm[i] - np.array(exact.norms)) <= allowed.norms).all()


def check_alone(engine: str, specs: Sequence[MemberSpec]) -> None:
    """The last of three members beside one of NaN, in chunks, on more threads."""
    whole = start(engine, specs, threads=2)
    state = whole.state()
    state.params["head.weight"][1] = np.nan
    whole.load(state)
    whole.advance(20)
    alone = start(engine, specs[2:])
    for until in (3, 11, 20):
        alone.advance(until)
    same_bits(alone.state(), whole.state(), [0], [2])
    assert whole.state().status.tolist() == [0, 2, 0]
