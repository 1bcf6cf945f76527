"""What any place of the networks gives, for all members of a shape, stacked.

A *place* is a submodule of the family's plain module by its name there: "blocks.0.attention" is
what attention adds to the residual stream, "blocks.0" the stream behind the block, "" the outputs.
With ":in" behind it, it is what that submodule is given: "blocks.0.ffn.down:in" are the neurons
behind their activation. Attention weights [N, H, T, T] are "blocks.0.attention.pattern".

Each member has passes of its own, of so many sequences as its shape says (`inputs.at_once`), in
threads that share nothing: its numbers are the same bits whatever members are beside it and on
however many cores. One batched pass of many members (torch.vmap) is no faster at these sizes, and
rounds otherwise for each number of members. A core holds one network and a pass of it at a time.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from compfast.analysis.inputs import as_tensor, at_once, attending_groups, checked_inputs
from compfast.analysis.positions import At, resolved, roles_of, take
from compfast.analysis.work import each_work
from compfast.config import MemberSpec, ModelConfig
from compfast.errors import UsageError
from compfast.models.families import family_of
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Float32 = NDArray[np.float32]
Specs = list[MemberSpec]
# Given a place's value of some sequences and their rows; what it returns stands there instead.
Tap = Callable[["Tensor", slice], "Tensor | None"]

_GIVEN = ":in"
_SHOWN = 16  # places that a sentence names


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """What places of the networks gave, of members of one shape, in their order in the run."""

    members: tuple[int, ...]  # their numbers in the run
    values: dict[str, Float32]  # place -> [M, N, ...]
    inputs: NDArray[Any]  # what they read: tokens [N, T], or vectors [N, T, width]


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Attention of members of one shape, in their order in the run."""

    members: tuple[int, ...]  # their numbers in the run
    values: Float32  # [M, N, L, H, T, T]: of query q (the last axis but one) on key k
    inputs: NDArray[Any]  # what they read: tokens [N, T], or vectors [N, T, width]


def states(
    run: Run,
    inputs: NDArray[Any] | None = None,
    names: Sequence[str] = ("blocks.0.attention",),
    step: int | None = None,
    members: Sequence[int] | None = None,
    at: Sequence[At] | None = None,
) -> list[States]:
    """What the named places give on the same inputs; one record a shape.

    `inputs` are read by all members; None: each member's own exam. `step` is a snapshot's; None:
    the newest weights. `members` are some of the run's; None: all. `at` keeps some positions: of
    [N, T, D] there remains [N, P, D], of attention weights those of the queries. They are numbers
    from 0, or "last", and on exams with a key and anchors "key", "anchor1", "anchor2". Raises
    UsageError for a place, input, position, member or step that there is not.

    All of it is held in memory. `each_member` is for those who need less at a time.
    """
    if isinstance(names, str) or not names:
        raise UsageError(f"names is {names!r}; it must be a list of places")
    groups = chosen(run.groups, members)
    found = []
    for specs, (given, roles) in zip(groups, read_by(groups, inputs), strict=True):
        kept = resolved(at, roles, given)

        def measure(
            spec: MemberSpec, module: Any, given: NDArray[Any] = given, kept: Any = kept
        ) -> dict[str, Float32]:
            return captured(module, given, names, at_once(spec, given), kept)

        each = each_member(run, specs, measure, step)
        found.append(States(*_stacked(specs, each), given))
    return found


def attention_weights(
    run: Run,
    inputs: NDArray[Any] | None = None,
    step: int | None = None,
    members: Sequence[int] | None = None,
) -> list[Weights]:
    """Attention weights of every layer and head, as each member's attention normalises them.

    One record a shape; see `states`. Members without attention are left out; UsageError where
    none has it. Memory: M x N x L x H x T^2 numbers.
    """
    found = []
    wanted = chosen(attending_groups(run), members)
    for specs, (given, _) in zip(wanted, read_by(wanted, inputs), strict=True):
        places = patterns(specs[0])

        def measure(
            spec: MemberSpec, module: Any, given: NDArray[Any] = given, places: Any = places
        ) -> dict[str, Float32]:
            own = captured(module, given, places, at_once(spec, given))
            return {"": np.stack([own[place] for place in places], axis=1)}

        ids, values = _stacked(specs, each_member(run, specs, measure, step))
        found.append(Weights(ids, values[""], given))
    return found


def each_member(
    run: Run,
    specs: Sequence[MemberSpec],
    measure: Callable[[MemberSpec, Any], T],
    step: int | None = None,
) -> Iterator[T]:
    """`measure(spec, module)` of these members, of one shape, in their order, as they come.

    It is called in a thread that has none of the caller's PyTorch settings, in inference mode,
    with the family's plain module in evaluation mode. The module is this member's only until
    `measure` returns: the next one's weights are put into it. Raises as `each_work` (work.py), and
    UsageError for a step that there is not.
    """
    own = threading.local()

    def work(spec: MemberSpec) -> T:
        import torch

        weights = run.params(spec.member, step)
        with torch.inference_mode():
            if not hasattr(own, "module"):
                own.module = family_of(spec.model).holding(spec.model, weights).eval()
                own.tensors = dict(own.module.named_parameters())
            else:
                for name, array in weights.items():
                    own.tensors[name].copy_(torch.from_numpy(array))
            return measure(spec, own.module)

    return each_work(work, specs, "an analysis's")


def forward(
    module: Any, inputs: NDArray[Any], most: int, taps: Sequence[tuple[str, Tap]] = ()
) -> Iterator[Tensor]:
    """Outputs of `most` sequences after the other, while taps see, or change, what places give.

    Of several taps at one place each sees what the one before it left. Raises UsageError for a
    place that there is not or that nothing passes through.
    """
    seen: set[int] = set()
    rows = slice(0)
    with contextlib.ExitStack() as hooks:
        for number, (place, tap) in enumerate(taps):

            def called(value: Tensor, tap: Tap = tap, number: int = number) -> Tensor | None:
                seen.add(number)
                return tap(value, rows)

            hooks.callback(_hook(module, place, called).remove)
        for first in range(0, len(inputs), most):
            rows = slice(first, min(first + most, len(inputs)))
            outputs = module(as_tensor(inputs[rows]))
            for number, (place, _) in enumerate(taps):
                if number not in seen:
                    raise UsageError(f"nothing passes through the place {place!r} of this network")
            yield outputs


def captured(
    module: Any, inputs: NDArray[Any], places: Sequence[str], most: int, at: Any = None
) -> dict[str, Float32]:
    """place -> [N, ...], at positions [N, P] or all."""
    parts: dict[str, list[Tensor]] = {place: [] for place in places}

    def keep(place: str) -> Tap:
        def tap(value: Tensor, rows: slice) -> None:
            _check_rows(place, value, rows, at is not None)
            parts[place].append(take(value, None if at is None else at[rows]).clone())

        return tap

    collections.deque(forward(module, inputs, most, [(p, keep(p)) for p in parts]), maxlen=0)
    return {place: np.concatenate([part.numpy() for part in own]) for place, own in parts.items()}


def patterns(spec: MemberSpec) -> list[str]:
    """The places of a member's attention weights, in the order of the layers."""
    assert isinstance(spec.model, ModelConfig)
    return [f"blocks.{layer}.attention.pattern" for layer in range(spec.model.layers)]


def chosen(groups: Sequence[Specs], members: Sequence[int] | None) -> list[Specs]:
    """The groups with these members alone; UsageError for one that is in none of them."""
    if members is None:
        return list(groups)
    wanted = set(members)
    known = {spec.member for specs in groups for spec in specs}
    if not wanted or wanted - known:
        raise UsageError(
            f"members are {list(members)}; they must be some of the {len(known)} that can be"
            f" looked at, {min(known)} to {max(known)}"
        )
    kept = [[spec for spec in specs if spec.member in wanted] for specs in groups]
    return [specs for specs in kept if specs]


def read_by(groups: Sequence[Specs], inputs: NDArray[Any] | None) -> list[tuple[Any, Any]]:
    """What each group reads, and what stands where in it (`roles_of`)."""
    exams = exams_of(list(groups))
    if inputs is None:
        return [(exam.inputs, roles_of(exam)) for exam in exams]
    own = [checked_inputs(inputs, specs[0]) for specs in groups]
    return [(given, {"last": np.full(len(given), given.shape[1] - 1)}) for given in own]


def _stacked(
    specs: Specs, each: Iterator[dict[str, Float32]]
) -> tuple[tuple[int, ...], dict[str, Float32]]:
    values: dict[str, Float32] = {}
    for row, own in enumerate(each):
        for place, value in own.items():
            if place not in values:
                values[place] = np.empty((len(specs), *value.shape), np.float32)
            values[place][row] = value
    return tuple(spec.member for spec in specs), values


def _hook(module: Any, place: str, called: Callable[[Tensor], Tensor | None]) -> Any:
    """A handle that removes it."""
    name = place.removesuffix(_GIVEN)
    inner = dict(module.named_modules()).get(name)
    if inner is None:
        every = [known for known, _ in module.named_modules() if known]
        more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
        raise UsageError(
            f"there is no place {place!r} in this network; it has"
            f" {', '.join(every[:_SHOWN])}{more}, each also with {_GIVEN}"
        )
    if name == place:
        return inner.register_forward_hook(lambda _, given, output: called(output))

    def entering(_: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        changed = called(given[0])
        return None if changed is None else (changed, *given[1:])

    return inner.register_forward_pre_hook(entering)


def _check_rows(place: str, value: Tensor, rows: slice, by_position: bool) -> None:
    """Raise UsageError for a value that has no axis of sequences, or of positions."""
    if len(value) != rows.stop - rows.start or (by_position and value.ndim < 3):
        raise UsageError(
            f"the place {place!r} gives {list(value.shape)} for {rows.stop - rows.start} sequences,"
            f" which is not by sequence{' and position' * by_position}"
        )
