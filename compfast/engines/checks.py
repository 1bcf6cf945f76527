"""What every engine refuses in the same words: mixed groups, wrong states, steps too far."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from compfast.config import MemberSpec
from compfast.engines.base import DIVERGED, State, Tables
from compfast.errors import UsageError
from compfast.params import parameter_table


def check_group(specs: Sequence[MemberSpec]) -> None:
    """Members of a group differ in seed, init, learning rate, weight decay and clip only.

    Raises UsageError otherwise, and when there is no member.
    """
    if not specs:
        raise UsageError("an engine needs at least one member")
    first = specs[0]
    for spec in specs:
        for section in ("task", "model", "optimizer", "training"):
            if _shared(spec, section) != _shared(first, section):
                raise UsageError(
                    f"members {first.member} and {spec.member} differ in {section};"
                    " one group takes members of one shape, task, batch size and schedule"
                )


def check_state(state: State, specs: Sequence[MemberSpec]) -> None:
    """Raises UsageError unless names, shapes, types, steps and status are those of such members.

    A checkpoint may come from anybody, and engines index by step and status.
    """
    members = len(specs)
    shapes = {t.name: (members, *t.shape) for t in parameter_table(specs[0].model)}
    for part in ("params", "exp_avg", "exp_avg_sq"):
        named = getattr(state, part)
        odd = sorted(named.keys() ^ shapes.keys())
        if odd:
            raise UsageError(f"{part} and the model differ in the tensors {', '.join(odd)}")
        for name, shape in shapes.items():
            _check_array(f"{part} {name}", named[name], "float32", shape)
    _check_array("step", state.step, "int64", (members,))
    _check_array("status", state.status, "uint8", (members,))
    steps = specs[0].training.steps
    if (state.step < 0).any() or (state.step > steps).any():
        raise UsageError(f"a member stands at a step that is not in 0..{steps}")
    if (state.status > DIVERGED).any():
        raise UsageError(f"a member's status is not one of 0..{DIVERGED}")


def check_until(until: int, tables: Tables) -> None:
    """Raises UsageError for a step beyond the schedule."""
    steps = len(tables.scale)
    if until > steps:
        raise UsageError(f"cannot advance to step {until}; the schedule has {steps} steps")


def _shared(spec: MemberSpec, section: str) -> object:
    if section == "optimizer":
        return dataclasses.replace(spec.optimizer, lr=0.0, weight_decay=0.0, clip=0.0)
    return getattr(spec, section)


def _check_array(name: str, array: NDArray[Any], dtype: str, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise UsageError(f"{name} is {array.dtype} {array.shape}; {dtype} {shape} is needed")
