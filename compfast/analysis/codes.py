"""What members make of a sequence at its last query: their latent codes, or the residual stream."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compfast.analysis.inputs import as_tensor, at_once, attending_groups, checked_inputs
from compfast.config import MemberSpec
from compfast.engines.cores import usable_cores
from compfast.errors import UsageError
from compfast.runs.reading import Run
from compfast.tasks import Exam, make_task

Float32 = NDArray[np.float32]
What = Literal["codes", "stream"]


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """Of members of one shape, in their order in the run."""

    members: tuple[int, ...]
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

    def measure(spec: MemberSpec, at: int) -> Float32:
        given, places = read[at]
        return item_codes(run.model(spec.member, step), given, places, what, at_once(spec, given))

    from compfast.engines.aside import clean_threads, require_exact_products

    work = [(spec, at) for at, specs in enumerate(groups) for spec in specs]
    with clean_threads(usable_cores().count) as pool:
        pool.submit(require_exact_products, "latent_codes", "").result()
        found = list(pool.map(measure, *zip(*work, strict=True)))
    result = []
    for specs in groups:
        values = np.stack(found[: len(specs)])
        del found[: len(specs)]
        exam = exams[changed_task(specs[0], task or {}), specs[0].evaluation]
        result.append(Codes(tuple(spec.member for spec in specs), values, exam))
    return result


def item_codes(
    model: Any, inputs: NDArray[Any], places: Sequence[int], what: What, most: int
) -> Float32:
    """[N, layers, width] of a compfast.models.transformer.Transformer, at `places` of the keys.

    A pass takes `most` sequences.
    """
    import torch

    parts: list[list[torch.Tensor]] = []  # passes, layers

    def attending(attention: Any, given: tuple[torch.Tensor, ...]) -> None:
        weights = attention.weights(given[0])[:, :, -1, list(places)]  # [B, H, keys]
        parts[-1].append(weights.transpose(1, 2).flatten(1))

    def leaving(block: Any, given: tuple[torch.Tensor, ...], x: torch.Tensor) -> None:
        parts[-1].append(x[:, -1].clone())

    if what == "codes":
        hooks = [block.attention.register_forward_pre_hook(attending) for block in model.blocks]
    else:
        hooks = [block.register_forward_hook(leaving) for block in model.blocks]
    try:
        with torch.inference_mode():
            for first in range(0, len(inputs), most):
                parts.append([])
                model(as_tensor(inputs[first : first + most]))
    finally:
        for hook in hooks:
            hook.remove()
    found: Float32 = torch.cat([torch.stack(part, dim=1) for part in parts]).numpy()
    return found


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
