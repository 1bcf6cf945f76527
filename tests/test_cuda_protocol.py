"""Engine cuda on the driver of fake_cuda.py does what every engine does (engines/base.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import cuda_host
import fake_cuda
import numpy as np
import pytest
import test_engine_protocol as protocol
import test_independence as independence
from cuda_members import STEPS, TRAININGS, members, network, take_tiny, ten_steps
from ensembles import mixed, start

from compfast.config import MemberSpec

pytestmark = pytest.mark.usefixtures("native_extension")


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda.install(monkeypatch)


Check = tuple[Callable[..., None], tuple[Any, ...]]  # what is called with the engine, and then

PROTOCOL: list[Check] = [
    (protocol.test_initial_state, ()),
    (protocol.test_a_state_is_a_copy, ()),
    (protocol.test_a_loaded_state_is_a_copy, ()),
    *(
        (protocol.test_a_wrong_tensor_is_refused, ("exp_avg", wrong))
        for wrong in (protocol._without, protocol._with_more, protocol._cut, protocol._double)
    ),
    (protocol.test_wrong_progress_is_refused, ("step", np.zeros(3, np.int32))),
    (protocol.test_wrong_progress_is_refused, ("status", np.zeros(2, np.uint8))),
    (protocol.test_answers_are_the_largest_logit_and_ties_go_to_the_smaller_token, ()),
    (protocol.test_frozen_members_still_answer, ()),
    (protocol.test_nothing_to_do, ()),
    (protocol.test_more_steps_than_the_schedule_has_are_refused, ()),
    (protocol.test_ticks_count_member_steps_on_the_calling_thread, ()),
    (protocol.test_a_stopped_training_goes_on_with_the_same_bits, ()),
    (protocol.test_an_error_in_tick_ends_the_training, ()),
    (protocol.test_mixed_groups_are_refused, ("model", {"d_ff": 41})),
    (protocol.test_mixed_groups_are_refused, ("optimizer", {"beta2": 0.5})),
    (protocol.test_an_engine_needs_members_and_threads, ()),
    (protocol.test_initialise_begins_anew, ()),
    (independence.test_a_broken_neighbour, ("head.bias", np.nan)),
    (independence.test_a_broken_neighbour, ("blocks.0.ffn.up.weight", -np.inf)),
    (independence.test_divergence_in_the_middle_keeps_the_last_finite_step, ()),
    (independence.test_a_frozen_neighbour, ()),
    (independence.test_members_of_a_group_may_stand_at_different_steps, ()),
]
INDEPENDENCE: list[Check] = [
    (independence.test_number_of_members, (1,)),
    (independence.test_order, ()),
    (independence.test_chunks, ((2, 5, 6),)),
    (independence.test_a_saved_state_goes_on_in_another_engine, ()),
]


def named(case: Check) -> str:
    return "-".join([case[0].__name__[len("test_") :], *map(_word, case[1])])


def _word(argument: Any) -> str:
    return "".join(c for c in getattr(argument, "__name__", str(argument)) if c.isalnum())


@pytest.mark.parametrize("case", PROTOCOL, ids=named)
def test_protocol(case: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    take_tiny(monkeypatch)
    case[0]("cuda", *case[1])


@pytest.mark.parametrize("case", INDEPENDENCE, ids=named)
def test_independence(case: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    take_tiny(monkeypatch)
    case[0](("cuda", independence.SHAPES[0]), *case[1])


SGD: dict[str, Any] = {"kind": "sgd", "lr": 0.05}
OPTIMIZERS: tuple[dict[str, Any], ...] = (
    {},
    {"decay": "matrices"},
    SGD,
    {**SGD, "momentum": 0.9},
    {**SGD, "momentum": 0.9, "nesterov": True},
)


def some(name: str, optimizer: dict[str, Any]) -> list[MemberSpec]:
    """Three members: one whose groups of tensors decay as it does, two with decays of theirs."""
    specs = mixed(network(name, batch_size=5, steps=STEPS, optimizer=optimizer))
    decays: tuple[dict[str, Any], ...] = ({"weight_decay_ffn": 0.0}, {"weight_decay_head": 2.0})
    for i, changed in enumerate(decays, 1):
        own = dataclasses.replace(specs[i].optimizer, **changed)
        specs[i] = dataclasses.replace(specs[i], optimizer=own)
    return specs


@pytest.mark.parametrize("name", cuda_host.NETWORKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_are_those_of_test_cuda(name: str, optimizer: dict[str, Any]) -> None:
    """The bits of csrc/cuda by itself, which test_cuda.py holds against float64."""
    specs = some(name, optimizer)
    made = start("cuda", specs)
    result, state = made.advance(STEPS), made.state()
    for i, spec in enumerate(specs):
        alone = cuda_host.train(spec, STEPS, name)
        assert result.loss[i].tobytes() == alone.loss.tobytes()
        assert result.grad_norm[i].tobytes() == alone.norm.tobytes()
        for part, flat in (("params", alone.params), ("exp_avg", alone.m), ("exp_avg_sq", alone.v)):
            wanted = cuda_host.flat_layout(spec).unpack(flat[None])
            for tensor, value in getattr(state, part).items():
                assert value[i].tobytes() == wanted[tensor][0].tobytes(), f"{part} {tensor}"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_moments_are_eager_s(optimizer: dict[str, Any]) -> None:
    """SGD's buffer lies where AdamW has its first moment, and the second is nobody's."""
    specs = some("tiny", optimizer)
    engines = [start(name, specs) for name in ("cuda", "eager")]
    ours_loss, theirs_loss = (made.advance(STEPS).loss for made in engines)
    np.testing.assert_allclose(ours_loss, theirs_loss, rtol=1e-4)
    ours, theirs = (made.state() for made in engines)
    for name, buffer in theirs.exp_avg.items():
        if not name.endswith("key.bias"):  # whose gradient is zero
            close = 2e-3 * max(float(np.abs(buffer).max()), 1e-9)
            np.testing.assert_allclose(ours.exp_avg[name], buffer, rtol=0, atol=close)
        if optimizer.get("kind") == "sgd":
            assert ours.exp_avg[name].any() == (optimizer.get("momentum", 0) > 0)
            assert not ours.exp_avg_sq[name].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", cuda_host.NETWORKS)
@pytest.mark.parametrize("form", TRAININGS)
def test_ten_steps(name: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ten_steps(name, form, monkeypatch)


def test_a_drawn_set_trains_as_in_the_native_engine() -> None:
    """The same sequences in the same order, over more than one epoch."""
    specs = []
    for spec in members(2):
        task: Any = dataclasses.replace(spec.task, data="fixed", fixed_total=40)  # type: ignore[type-var]
        specs.append(dataclasses.replace(spec, task=task))
    cuda, native = (start(name, specs).advance(STEPS) for name in ("cuda", "native"))
    np.testing.assert_allclose(cuda.loss, native.loss, rtol=1e-4)
    fresh = start("cuda", members(2)).advance(STEPS)
    assert (np.abs(fresh.loss - cuda.loss) > 1e-4).any()
