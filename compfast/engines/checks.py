"""What every engine refuses in the same words: mixed groups, wrong states, steps too far, inputs,
targets, prompts and members that are not there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compfast.config import MemberSpec, Prompts
from compfast.engines.base import DIVERGED, Float32, Inputs, Int32, State, Targets
from compfast.ensembles.room import require_room
from compfast.ensembles.schedule import Tables
from compfast.errors import UsageError
from compfast.models.families import model_plan
from compfast.models.params import parameter_table
from compfast.tasks import make_task

_MOST_NUMBERS = 2**34  # of a tensor: words of a stream


def check_group(specs: Sequence[MemberSpec]) -> None:
    """Members of a group differ in seed, init, learning rate, weight decays and clip only.

    Raises UsageError otherwise, when there is no member, and for a batch or initial weights that
    cannot be drawn.
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
    task, positions = make_task(first.task), first.model.max_positions or 0
    task.check_batch(first.training.batch_size)
    if task.length > positions:
        raise UsageError(f"a sequence has {task.length} positions; this model has {positions}")
    largest = max(parameter_table(first.model), key=lambda tensor: tensor.size)
    if largest.size > _MOST_NUMBERS:
        raise UsageError(
            f"{largest.name} has {largest.size} numbers; a tensor has at most {_MOST_NUMBERS}"
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


def check_inputs(inputs: NDArray[Any], spec: MemberSpec) -> Inputs:
    """Token ids [N, T] as int32, or vectors [N, T, width] as float32, contiguous.

    Raises UsageError for others, for unknown ids and for numbers that are not finite.
    """
    ports = make_task(spec.task).ports
    if ports.width:
        return _numbers("inputs", inputs, (-1, ports.length, ports.width))
    if inputs.ndim != 2 or inputs.shape[1] != ports.length:
        raise UsageError(f"tokens have shape {inputs.shape}; [N, {ports.length}] is needed")
    return _ids("tokens", inputs, spec)


def check_targets(targets: NDArray[Any], count: int, spec: MemberSpec) -> Targets:
    """What `count` sequences are asked for: ids [count] or, of a task of vectors or a masked one,
    [count, asked], as int32, or numbers [count, asked, V] as float32, contiguous.

    Raises UsageError for others, for unknown ids and for numbers that are not finite.
    """
    ports = make_task(spec.task).ports
    if count == 0:
        raise UsageError("there are no sequences; at least one is needed")
    if ports.loss == "squared_error":
        return _numbers("targets", targets, (count, ports.asked, ports.vocabulary))
    shape = (count, ports.asked) if ports.several else (count,)
    if targets.shape != shape:
        raise UsageError(
            f"targets have shape {targets.shape} for {count} sequences; {shape} is needed"
        )
    return _ids("targets", targets, spec, -1 if ports.masked else 0)


def check_prompts(prompts: Prompts, spec: MemberSpec, members: int = 1) -> Prompts:
    """The prompts as contiguous int32, what fills a row up after its prompt as token 0.

    Raises UsageError for others than such a network can go on from, and for networks that read
    vectors or see what follows; OutOfMemory where what `members` tell has no room.
    """
    _check_decodes(spec)
    tokens, lengths = np.asarray(prompts.tokens), np.asarray(prompts.lengths)
    if tokens.ndim != 2:
        raise UsageError(f"prompts have shape {tokens.shape}; [N, P] is needed")
    count, longest = tokens.shape
    if lengths.shape != (count,):
        raise UsageError(
            f"lengths of prompts have shape {lengths.shape} for {count} prompts;"
            f" ({count},) is needed"
        )
    if not np.issubdtype(lengths.dtype, np.integer):
        raise UsageError(f"lengths of prompts are {lengths.dtype}; whole numbers are needed")
    if count and (lengths.min() < 1 or lengths.max() > longest):
        raise UsageError(
            f"lengths of prompts reach from {lengths.min()} to {lengths.max()};"
            f" they must be in 1..{longest}"
        )
    if not np.issubdtype(tokens.dtype, np.integer):
        raise UsageError(f"prompts are {tokens.dtype}; whole numbers are needed")
    own = np.where(np.arange(longest) < lengths[:, None], tokens, 0)
    vocabulary, positions = spec.model.vocab_size or 0, spec.model.max_positions or 0
    for name, number, low, high in (
        ("max_new", prompts.max_new, 1, 2**31 - 1),
        ("end", prompts.end, -1, vocabulary - 1),
    ):
        if not isinstance(number, int | np.integer) or not low <= number <= high:
            raise UsageError(f"{name} is {number!r}; it must be a whole number in {low}..{high}")
    needed = int(lengths.max(initial=1)) + int(prompts.max_new) - 1
    if needed > positions:
        raise UsageError(
            f"a prompt of {int(lengths.max(initial=1))} tokens and {prompts.max_new} after it take"
            f" {needed} positions; this model has {positions}"
        )
    require_room(4 * members * count * int(prompts.max_new))
    ids = np.ascontiguousarray(_ids("prompts", own, spec))
    whole = np.ascontiguousarray(lengths, np.int32)
    return Prompts(ids, whole, int(prompts.max_new), int(prompts.end))


def _check_decodes(spec: MemberSpec) -> None:
    """Raises UsageError for networks that have no next token, or would see it."""
    ops = model_plan(spec.model, absorb=False).ops
    if any(op.kind == "vectors" for op in ops):
        raise UsageError("this network reads vectors; networks of tokens go on from prompts")
    if any("causal" in op.attributes and not op.attributes["causal"] for op in ops):
        raise UsageError(
            "model.causal is false: this network sees what follows, so it cannot go on from prompts"
        )


def check_members(members: Sequence[int], count: int) -> NDArray[np.int64]:
    """Rows of members; raises UsageError for one that is not in 0..count - 1."""
    rows = np.asarray(members, np.int64)
    odd = rows[(rows < 0) | (rows >= count)]
    if odd.size:
        raise UsageError(f"member is {odd.flat[0]}; it must be in 0..{count - 1}")
    return rows


def check_until(until: int, tables: Tables) -> None:
    """Raises UsageError for a step beyond the schedule, or before it."""
    steps = len(tables.scale)
    if not 0 <= until <= steps:
        raise UsageError(f"cannot advance to step {until}; the schedule has {steps} steps")


def _shared(spec: MemberSpec, section: str) -> object:
    if section == "optimizer":
        return spec.optimizer.shared
    return getattr(spec, section)


def _ids(name: str, ids: NDArray[Any], spec: MemberSpec, least: int = 0) -> Int32:
    vocabulary = spec.model.vocab_size or 0
    if not np.issubdtype(ids.dtype, np.integer):
        raise UsageError(f"{name} are {ids.dtype}; whole numbers are needed")
    if ids.size and (ids.min() < least or ids.max() >= vocabulary):
        raise UsageError(
            f"{name} reach from {ids.min()} to {ids.max()};"
            f" they must be in {least}..{vocabulary - 1}"
        )
    return np.ascontiguousarray(ids, np.int32)


def _numbers(name: str, given: NDArray[Any], shape: tuple[int, ...]) -> Float32:
    """`given` as contiguous float32 of this shape, -1 being any size."""
    fits = given.ndim == len(shape) and all(
        want in (-1, got) for want, got in zip(shape, given.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("N" if size < 0 else str(size) for size in shape)
        raise UsageError(f"{name} have shape {given.shape}; [{wanted}] is needed")
    if given.dtype != np.float32:
        raise UsageError(f"{name} are {given.dtype}; float32 is needed")
    if not np.isfinite(given).all():
        raise UsageError(f"{name} have numbers that are not finite")
    return np.ascontiguousarray(given)


def _check_array(name: str, array: NDArray[Any], dtype: str, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise UsageError(f"{name} is {array.dtype} {array.shape}; {dtype} {shape} is needed")
