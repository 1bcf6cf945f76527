"""Sequences that end at their last target: the numbers are those of whole sequences, nothing behind
the end is computed, and no bit depends on who trains beside."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest
from ensembles import member, mixed, random_state, same_bits, start
from oracle import reference
from oracle_training import train, training_budget
from ragged_task import FILLER, LENGTH, RAGGED, RaggedConfig, ragged_specs, sequences
from torch import float32

from compfast.config import MemberSpec, ModelConfig, Ports
from compfast.engines import native_plan
from compfast.engines.lengths import Padding, asked_lengths, ends_early, padding
from compfast.engines.native import NativeEngine
from compfast.errors import UsageError
from compfast.models.families import model_plan, resolve

pytestmark = pytest.mark.usefixtures("native_extension")

QUICK = ("usual", "post_relative_tied", "narrow_heads", "rms_head_relu")
ENDS: dict[str, Sequence[int]] = {
    "any": (0, 1, 58, 17, 16, 2, 40, 0, 33, 57, 5),
    "full": (58,) * 5,
    "short": (1, 0, 3, 2, 9, 16, 1),
    "second_half": (58, 41, 50, 30, 1, 0, 2, 0),
    "nothing": (0, 0, 0),
}


@pytest.mark.parametrize("engine", ["native", "eager"])
@pytest.mark.parametrize("name", QUICK)
def test_forward_and_every_gradient(engine: str, name: str) -> None:
    _within_budget(engine, RAGGED[name], ENDS["any"])


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["native", "eager"])
@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("name", RAGGED)
def test_forward_and_every_gradient_of_every_kind(engine: str, name: str, ends: str) -> None:
    _within_budget(engine, RAGGED[name], ENDS[ends])


@pytest.mark.slow
@pytest.mark.parametrize("length", [17, 33, 100])
@pytest.mark.parametrize("name", RAGGED)
def test_other_lengths(name: str, length: int) -> None:
    rng = np.random.default_rng(length)
    ends = rng.integers(0, length + 1, 37).tolist()
    _within_budget("native", RAGGED[name], ends, length)


def _within_budget(
    engine: str, model: dict[str, Any], ends: Sequence[int], length: int = LENGTH
) -> None:
    specs = ragged_specs(task=RaggedConfig(length=length), **model)
    made, state = start(engine, specs), random_state(specs)
    made.load(state)
    batch = sequences(ends, length)
    wanted = reference(specs[0].model, [member(state.params, i) for i in range(3)], *batch)
    loss, grads = made.gradients(*batch)
    for tensor, gradient in grads.items():
        wanted.check(tensor, gradient)
    wanted.check("loss", loss)
    wanted.check("logits", made.outputs(batch[0], range(3)))


@pytest.mark.parametrize("engine", ["native", "eager"])
def test_ten_steps(engine: str) -> None:
    specs = mixed(ragged_specs((3, 4), layers=1, d_model=16))
    made = start(engine, specs)
    result = made.advance(10)
    after = made.state()
    for i, spec in enumerate(specs):
        exact = train(spec, 10)
        allowed = training_budget(exact, train(spec, 10, float32), spec.optimizer)
        for name, bound in allowed.params.items():
            assert (np.abs(after.params[name][i] - exact.params[name]) <= bound).all(), name
        assert np.abs(result.loss[i] - exact.losses).max() <= allowed.losses
        assert (np.abs(result.grad_norm[i] - exact.norms) <= allowed.norms).all()


def test_what_stands_behind_the_last_target_is_not_computed() -> None:
    """Neither its token nor its position is looked at, sequence by sequence: both are NaN."""
    specs = ragged_specs()
    made, state = start("native", specs), random_state(specs)
    state.params["embed.token.weight"][:, FILLER] = np.nan
    state.params["embed.position.weight"][:, 50:] = np.nan
    made.load(state)
    loss, grads = made.gradients(*sequences((0, 9, 50, 33, 1)))
    assert np.isfinite(loss).all()
    assert all(np.isfinite(gradient).all() for gradient in grads.values())
    with mock.patch.object(native_plan, "ends_early", return_value=False):  # the control
        whole = start("native", specs)
    whole.load(state)
    assert np.isnan(whole.gradients(*sequences((0, 9, 50, 33, 1)))[0]).all()


def test_eager_cuts_a_batch_behind_its_last_target() -> None:
    specs = ragged_specs()
    made, state = start("eager", specs), random_state(specs)
    state.params["embed.position.weight"][:, 50:] = np.nan
    made.load(state)
    assert np.isfinite(made.gradients(*sequences((0, 9, 50, 33)))[0]).all()
    assert np.isnan(made.gradients(*sequences((0, 9, 51, 33)))[0]).all()
    assert not made.gradients(*sequences((0, 0)))[0].any()


@pytest.mark.parametrize("name", RAGGED)
def test_full_sequences_have_the_bits_of_whole_ones(name: str) -> None:
    specs = ragged_specs(task=RaggedConfig(ends="full"), **RAGGED[name])
    with mock.patch.object(native_plan, "ends_early", return_value=False):
        whole = start("native", specs)
    made = start("native", specs)
    assert (made.plan.ragged, whole.plan.ragged) == (True, False)
    one, other = made.advance(4), whole.advance(4)
    assert one.loss.tobytes() == other.loss.tobytes()
    same_bits(made.state(), whole.state(), range(3), range(3))


def _nan_beside(specs: list[MemberSpec], threads: int) -> Any:
    """Members whose first and last are NaN, so that their workers' memory is, too."""
    made = start("native", specs, threads)
    state = made.state()
    for values in state.params.values():
        values[[0, -1]] = np.nan
    made.load(state)
    return made


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("ends", ["any", "half"])
def test_no_bit_depends_on_others(name: str, ends: str) -> None:
    task = RaggedConfig(ends=ends)
    specs = ragged_specs(range(5), task=task, **RAGGED[name])
    alone = ragged_specs((2,), task=task, **RAGGED[name])
    one = start("native", alone)
    wanted = one.advance(6)
    for threads in (1, 2, 4):  # of one member, two workers share its batch
        for made, row in ((_nan_beside(specs, threads), 2), (start("native", alone, threads), 0)):
            found = [made.advance(until).loss[row] for until in (1, 4, 6)]
            same_bits(one.state(), made.state(), [0], [row])
            assert np.concatenate(found).tobytes() == wanted.loss[0].tobytes()
    state = one.state()
    loss, grads = one.gradients(*sequences(ENDS["any"]))
    made = _nan_beside(specs, 1)
    whole = made.state()
    for part in ("params", "exp_avg", "exp_avg_sq"):
        for tensor, values in getattr(state, part).items():
            getattr(whole, part)[tensor][2] = values[0]
    made.load(whole)
    found_loss, found_grads = made.gradients(*sequences(ENDS["any"]))
    assert found_loss[2].tobytes() == loss[0].tobytes()
    for tensor, gradient in grads.items():
        assert found_grads[tensor][2].tobytes() == gradient[0].tobytes(), tensor


def test_dropped_weights_are_those_of_whole_sequences() -> None:
    """Native trains with the same draws at any length; eager, whose mask is of all positions, does
    not cut."""
    specs = ragged_specs(attention_dropout=0.3, position="relative", optimizer={"lr": 1e-3})
    native, eager = start("native", specs), start("eager", specs)
    assert native.plan.ragged
    given, wanted = native.advance(5), eager.advance(5)
    np.testing.assert_allclose(given.loss, wanted.loss, rtol=2e-5)
    np.testing.assert_allclose(given.grad_norm, wanted.grad_norm, rtol=2e-4)


@pytest.mark.parametrize(
    ("length", "model", "early"),
    [
        (58, {"loss_positions": "masked"}, True),
        (17, {"loss_positions": "masked", "attention": "none"}, True),
        (16, {"loss_positions": "masked"}, False),
        (58, {"loss_positions": "masked", "causal": False}, False),
        (58, {"loss_positions": "masked", "attention": "linear", "causal": False}, False),
        (58, {"loss_positions": "all"}, False),
        (58, {"loss_positions": "last"}, False),
    ],
)
def test_whose_sequences_end_early(length: int, model: dict[str, Any], early: bool) -> None:
    masked = model["loss_positions"] == "masked"
    ports = Ports(length, 20, asked=length if masked else 1, masked=masked)
    assert ends_early(model_plan(resolve(ModelConfig(**model), ports)), length) == early


def test_memory_of_a_worker_has_where_sequences_begin() -> None:
    made = start("native", ragged_specs())
    with mock.patch.object(native_plan, "ends_early", return_value=False):
        whole = start("native", ragged_specs())
    starts = 4 * (made.plan.microbatch * LENGTH + 1)
    saved = made.plan.workspace_size - whole.plan.workspace_size  # 16 numbers a row instead of 2
    assert made.plan.worker_bytes - whole.plan.worker_bytes == starts + 4 * saved
    assert saved >= 0


def test_padding_is_counted() -> None:
    batches = [sequences((0, 9, 50))[1], sequences((1, 20, 2))[1]]
    assert asked_lengths(batches[0]).tolist() == [0, 9, 50]
    found = padding(batches)
    assert found == Padding(used=82, cut=3 * 50 + 3 * 20, whole=6 * LENGTH)
    assert found.waste(found.used) == 0
    assert found.waste(found.cut) == pytest.approx(1 - 82 / 210)
    assert padding([]).waste(0) == 0


def test_a_plan_whose_positions_read_later_ones_is_not_ragged() -> None:
    specs = ragged_specs()
    causal = [
        dataclasses.replace(s, model=dataclasses.replace(s.model, causal=False)) for s in specs
    ]
    with (
        mock.patch.object(native_plan, "ends_early", return_value=True),
        pytest.raises(UsageError, match="a position reads those behind it"),
    ):
        start("native", causal)
    assert isinstance(start("native", causal), NativeEngine)
