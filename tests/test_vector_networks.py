"""Networks of vectors: every attention kind and value path, against float64."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from architectures import VECTORS
from ensembles import member, mixed, random_state, same_bits, start
from oracle import random_batch, reference
from oracle_training import train, training_budget

from compfast.config import Config, MemberSpec
from compfast.ensembles.grid import member_specs
from compfast.errors import UsageError
from compfast.tasks import make_task

SIZES = (3, 22)  # sequences in a batch: less and more than a microbatch
STEPS = 10


@functools.cache
def specs_of(name: str, **model: Any) -> list[MemberSpec]:
    task, network = VECTORS[name]
    config = Config(
        task=task,  # type: ignore[arg-type]
        model={**network, **model},  # type: ignore[arg-type]
        optimizer={"decay": "arrays"},  # type: ignore[arg-type]
        sweep=(("seed", (3, 4, 5)),),
        training={"steps": 20, "batch_size": 13},  # type: ignore[arg-type]
    )
    return member_specs(config)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", VECTORS)
def test_forward_and_every_gradient(engine: str, name: str, size: int) -> None:
    specs = specs_of(name)
    made, state = start(engine, specs), random_state(specs)
    made.load(state)
    inputs, targets = random_batch(specs[0].model, make_task(specs[0].task).length, size, size)
    wanted = _reference(name, size)
    loss, grads = made.gradients(inputs, targets)
    assert grads.keys() == wanted.exact.grads.keys()
    for tensor, gradient in grads.items():
        wanted.check(tensor, gradient)
    wanted.check("loss", loss)
    outputs = made.outputs(inputs, range(len(specs)))
    wanted.check("logits", outputs, np.s_[:, :, -specs[0].model.asked :])
    assert np.array_equal(made.predict(inputs), outputs.argmax(-1))


@functools.cache
def _reference(name: str, size: int) -> Any:
    specs = specs_of(name)
    batch = random_batch(specs[0].model, make_task(specs[0].task).length, size, size)
    state = random_state(specs)
    members = [member(state.params, i) for i in range(len(specs))]
    return reference(specs[0].model, members, *batch)


@pytest.mark.parametrize("name", ["rms_head_relu", "softmax_deep", "rows_rms_relu"])
def test_ten_steps(engine: str, name: str) -> None:
    """On the task's own batches, decaying what Flax keeps in more than one dimension."""
    specs = mixed(specs_of(name))
    made = start(engine, specs)
    before = made.state()
    result = made.advance(STEPS)
    after = made.state()
    for i, spec in enumerate(specs[:2]):
        exact = train(spec, STEPS)
        single = train(spec, STEPS, _float32())
        allowed = training_budget(exact, single, spec.optimizer)
        for tensor, value in member(before.params, i).items():
            assert value.tobytes() == exact.start[tensor].tobytes()
            error = np.abs(after.params[tensor][i] - exact.params[tensor])
            assert (error <= allowed.params[tensor]).all(), tensor
        assert (np.abs(result.loss[i] - np.array(exact.losses)) <= allowed.losses).all()
        assert (np.abs(result.grad_norm[i] - np.array(exact.norms)) <= allowed.norms).all()


def _float32() -> Any:
    import torch

    return torch.float32


@pytest.mark.parametrize("name", ["linear_deep", "rows_softmax"])
def test_a_member_is_the_same_alone(engine: str, name: str) -> None:
    """Beside a member of NaN, in chunks, on more threads; with dropped attention weights."""
    specs = specs_of(name, attention_dropout=0.2)
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


def test_dropout_is_of_training_alone_and_of_the_init_seed(engine: str) -> None:
    plain, dropped = specs_of("softmax_none"), specs_of("softmax_none", attention_dropout=0.5)
    one, two = start(engine, plain), start(engine, dropped)
    inputs, targets = make_task(plain[0].task).batch(0, 0, 9)
    for made in (one, two):
        made.load(random_state(plain))
    assert one.outputs(inputs, [0]).tobytes() == two.outputs(inputs, [0]).tobytes()
    assert (one.advance(1).loss != two.advance(1).loss).all()
    assert one.gradients(inputs, targets)[0].shape == (3,)
    twice = start(engine, dropped)
    twice.load(random_state(dropped))
    first = twice.advance(1).loss[0, 0]
    assert first == start_loss(engine, dropped)


def start_loss(engine: str, specs: list[MemberSpec]) -> float:
    made = start(engine, specs[:1])
    state = random_state(specs[:1])
    made.load(state)
    return float(made.advance(1).loss[0, 0])


def test_what_a_network_of_vectors_cannot_be() -> None:
    for model, sentence in (
        ({"tied_head": True}, "model.tied_head is True; for a task of vectors it must be False"),
        ({"position": "learned"}, "model.position is learned"),
        ({"loss_positions": "all"}, "model.loss_positions is all"),
        ({"logits": "single"}, "model.logits is single"),
        ({"vocab_size": 7}, "model.vocab_size is 7; for a task of vectors it must be 1"),
        ({"input_width": 3}, "model.input_width is 3; this task has 5"),
        ({"asked": 2}, "model.asked is 2; this task has 1"),
        ({"loss": "cross_entropy"}, "model.loss is cross_entropy; this task has squared_error"),
        ({"family": "canonical"}, "model.family is canonical, for tokens"),
    ):
        with pytest.raises(UsageError, match=sentence):
            member_specs(Config(task=VECTORS["no_attention"][0], model=model))  # type: ignore[arg-type]
