"""The native engine's counters: they change no bit, and add up to the time that was spent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ensembles import group, mixed, same_bits, start

from compfast.engines.native import NativeEngine
from compfast.engines.profile import PHASES
from compfast.errors import UsageError

pytestmark = pytest.mark.usefixtures("native_extension")

STEPS = 6
NAMES = ("default", "own_head_sizes", "tied_all_post")


def engine(name: str = "default", **options: Any) -> NativeEngine:
    made = start("native", mixed(group(name, **options)))
    assert isinstance(made, NativeEngine)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_with_and_without_counters(name: str) -> None:
    """From step 2 on; the last norm depends on every bit that the steps before it left."""
    made, plain = engine(name), engine(name)
    made.advance(2)
    plain.advance(2)
    profiles = [made.profile(member, STEPS) for member in range(3)]
    same_bits(made.state(), plain.state(), range(3), range(3))
    result = plain.advance(2 + STEPS)
    for member, profile in enumerate(profiles):
        assert profile.steps == STEPS
        assert profile.loss.tobytes() == result.loss[member].tobytes()
        assert profile.grad_norm.tobytes() == result.grad_norm[member].tobytes()
    made.advance(2 + STEPS)
    same_bits(made.state(), plain.state(), range(3), range(3))


@pytest.mark.parametrize("name", NAMES)
def test_counters_add_up_to_the_time(name: str) -> None:
    made = engine(name, batch_size=64)
    profile = made.profile(1, 20)
    ops = made.plan.plan.ops
    assert len(profile.forward) == len(profile.backward) == len(ops)
    for op, forward, backward in zip(ops, profile.forward, profile.backward, strict=True):
        assert (forward > 0) or op.kind == "loss", op
        assert backward > 0, op
    assert tuple(profile.phases) == PHASES
    assert min(profile.phases.values()) > 0
    # Nothing is counted twice, and what no counter sees is loops and the counters themselves.
    assert 0 <= profile.rest < 0.25 * profile.total


def test_work_is_counted_where_it_is_done() -> None:
    """A wider FFN makes its own two ops dearer than all of attention's."""
    axes = (("seed", (3,)), ("model.d_ff", (1024,)))
    made = start("native", group("default", axes, batch_size=64))
    ops, profile = made.plan.plan.ops, made.profile(0, 4)
    spent = {"ffn": 0.0, "attention": 0.0}
    for op, forward, backward in zip(ops, profile.forward, profile.backward, strict=True):
        for part in spent:
            if op.output is not None and f".{part}" in op.output.buffer:
                spent[part] += forward + backward
    assert spent["ffn"] > 4 * spent["attention"] > 0


def test_a_step_that_is_not_finite_ends_the_profile() -> None:
    made = engine()
    state = made.state()
    state.params["head.bias"][1] = np.nan
    made.load(state)
    profile = made.profile(1, STEPS)
    assert profile.steps == len(profile.loss) == len(profile.grad_norm) == 0
    assert made.profile(2, STEPS).steps == STEPS


@pytest.mark.parametrize(
    ("member", "steps", "sentence"),
    [
        (3, 1, r"member is 3; it must be in 0\.\.2"),
        (-1, 1, "member is -1"),
        (0, 0, "steps is 0"),
        (0, 21, "steps is 21; member 0 has 20 left"),
    ],
)
def test_what_cannot_be_profiled_is_refused(member: int, steps: int, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        engine().profile(member, steps)
    with pytest.raises(ValueError, match="it must be in"):
        engine()._group.profile(member, steps)
