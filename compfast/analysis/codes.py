"""What members make of a sequence at its last query: their latent codes, or the residual stream."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compfast.analysis.inputs import at_once, attending_groups, checked_inputs
from compfast.analysis.stacked import captured, each_member
from compfast.config import MemberSpec
from compfast.errors import UsageError
from compfast.runs.reading import Run
from compfast.tasks import Exam, make_task

Float32 = NDArray[np.float32]
What = Literal["codes", "stream"]


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """Latent codes of members of one shape, in their order in the run."""

    members: tuple[int, ...]  # their numbers in the run
    values: Float32  # [members, N, layers, width], not finite as they come
    exam: Exam  # whose inputs were read, or, with inputs of the caller's, whose were not


def latent_codes(
    run: Run,
    inputs: NDArray[Any] | None = None,
    step: int | None = None,
    *,
    keys: Sequence[int] = (0,),
    what: What = "codes",
    task: Mapping[str, Any] | None = None,
) -> list[Codes]:
    """The latent code (arXiv 2406.05816) of each item in every layer; one `Codes` a shape.

    A code is the vector over heads of the attention weights, normalised as the member's attention
    normalises them, of the last query on the token `keys` positions before it: (0,) is on itself,
    and of several keys the vectors stand side by side in their order, [N, layers, keys x heads].
    With `what` stream it is the residual stream at the last query behind each layer instead,
    [N, layers, d_model]. `inputs` are read by all members; None: each member's own exam, of the
    run's task with the fields of `task` changed, e.g. {"permuted": False}. `step` is a snapshot's;
    None: the newest weights. Members without attention are left out, and a member's numbers do not
    depend on which others there are. Raises UsageError where no member has attention, and for
    inputs, keys, fields or a step that there are not.
    """
    if what not in ("codes", "stream"):
        raise UsageError(f"what is {what!r}; it must be codes or stream")
    if inputs is not None and task is not None:
        raise UsageError("inputs and task are both given; the exam of `task` would not be read")
    groups = attending_groups(run)
    exams: dict[Any, Exam] = {}
    read: list[tuple[NDArray[Any], tuple[int, ...]]] = []
    for specs in groups:
        changed = changed_task(specs[0], task or {})
        key = (changed, specs[0].evaluation)
        if key not in exams:
            exams[key] = make_task(changed).exam(specs[0].evaluation)
        given = exams[key].inputs if inputs is None else checked_inputs(inputs, specs[0])
        read.append((given, _places(keys, given.shape[1])))

    result = []
    for specs, (given, places) in zip(groups, read, strict=True):

        def measure(
            spec: MemberSpec, module: Any, given: NDArray[Any] = given, places: Any = places
        ) -> Float32:
            return item_codes(module, given, places, what, at_once(spec, given))

        values = np.stack(list(each_member(run, specs, measure, step)))
        exam = exams[changed_task(specs[0], task or {}), specs[0].evaluation]
        result.append(Codes(tuple(spec.member for spec in specs), values, exam))
    return result


def item_codes(
    model: Any, inputs: NDArray[Any], places: Sequence[int], what: What, most: int
) -> Float32:
    """[N, layers, width] of a compfast.models.transformer.Transformer, at `places` of the keys.

    A pass takes `most` sequences.
    """
    layers = range(len(model.blocks))
    behind = ".attention.pattern" if what == "codes" else ""
    names = [f"blocks.{layer}{behind}" for layer in layers]
    last = np.full((len(inputs), 1), inputs.shape[1] - 1)
    found = captured(model, inputs, names, most, last)
    if what == "stream":
        return np.stack([found[name][:, 0] for name in names], axis=1)
    # [N, H, 1, T] -> keys x heads
    weights = [found[name][:, :, 0, list(places)].transpose(0, 2, 1) for name in names]
    return np.stack([own.reshape(len(inputs), -1) for own in weights], axis=1)


def changed_task(spec: MemberSpec, fields: Mapping[str, Any]) -> Any:
    """The member's [task] with these fields; UsageError for one that it has not or may not have.

    The networks stay, so the sequences must be as they were.
    """
    section: Any = spec.task
    own = {field.name for field in dataclasses.fields(section)} - {"name"}
    for name in fields:
        if name not in own:
            raise UsageError(
                f"task has a field {name!r}; those of {spec.task.name} are {', '.join(sorted(own))}"
            )
    changed = dataclasses.replace(section, **fields)
    before, after = make_task(spec.task).ports, make_task(changed).ports
    if before != after:
        raise UsageError(
            f"with {dict(fields)} the task {spec.task.name} has other inputs than the networks"
            f" of member {spec.member}: {after}, not {before}"
        )
    return changed


def _places(keys: Sequence[int], length: int) -> tuple[int, ...]:
    """Positions of the keys that stand so many before the last of `length`."""
    try:
        given = tuple(operator.index(key) for key in keys)
    except TypeError:
        given = ()
    if not given or min(given) < 0 or max(given) >= length:
        raise UsageError(
            f"keys is {keys!r}; it must be a list of how many positions before the last each key"
            f" stands, 0 to {length - 1}"
        )
    return tuple(length - 1 - key for key in given)
