"""What becomes of members when something else stands at a place of their networks: ablation of
what a submodule gives, patching it with its value on other sequences, cutting edges of attention.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.analysis.inputs import at_once, attends
from compfast.analysis.positions import At, Int64, put, resolved, roles_of, take
from compfast.analysis.stacked import Float32, Tap, captured, chosen, each_member, forward
from compfast.config import MemberSpec, ModelConfig
from compfast.errors import UsageError
from compfast.runs.reading import Run
from compfast.streams import philox
from compfast.tasks import Exam, make_task

if TYPE_CHECKING:
    from torch import Tensor

By = Literal["zeros", "mean", "other_key", "swapped"]
WAYS = ("zeros", "mean", "other_key", "swapped")
_SHUFFLE = 1  # seed of the order in which items lend each other their keys


@dataclass(frozen=True, slots=True)
class Patch:
    """What a place (compfast.analysis.stacked) gives at positions `at` (None: all) is replaced.

    By zeros; by its mean over all items of the exam, at each of those positions (of a role, such
    as "key", wherever it stands in each item); or by its value on the same sequence with the key
    of another item, `other_key`, or with the two anchors `swapped`.
    """

    place: str  # "blocks.0.attention"; ":in" behind it: what is given to it
    at: Sequence[At] | None = None  # numbers from 0, "last", "key", "anchor1", "anchor2"; None: all
    by: By = "zeros"  # what stands there instead


@dataclass(frozen=True, slots=True)
class Edge:
    """The attention weight of a query on a key, both positions or roles, is made 0.

    In one head of the layer, or with None in all of them. `renormalised`: the query's other
    weights are scaled to the sum that they had with it, where they are not all 0.
    """

    layer: int  # from 0
    query: At  # where the weight is given from
    key: At  # and to
    head: int | None = None  # from 0; None: all
    renormalised: bool = False  # the query's other weights make up for it


Change = Patch | Edge


def effects(
    run: Run,
    changes: Mapping[str, Change | Sequence[Change]],
    step: int | None = None,
    members: Sequence[int] | None = None,
    *,
    items: int | None = None,
) -> pl.DataFrame:
    """How members do in their exam with each change, or several at once, beside how they did.

    A row a (member, change), members in order and changes as given. Columns `seen`, a score for
    each candidate and `other` are the exam's own with the change, `before_` has them without it.
    `logit_difference`: the mean over held-out items of the logit of the first candidate's answer
    less that of the second's (items without two answers are left out; null where there are none).
    `kept`: the share of all items whose answer is as before; null where the exam reads outputs.
    `items` makes each split of the exam at most so long; None: the whole exam. Raises UsageError
    for places, positions, heads, steps and members that there are not, and for an exam that reads
    sequences.
    """
    parts = _parts(changes)
    tables = []
    for specs in chosen(run.groups, members):
        exam = _exam(specs[0], items)
        trial = _Trial(exam, specs[0], parts)
        rows = []
        for spec, told in zip(specs, each_member(run, specs, trial.member, step), strict=True):
            rows += [{"member": spec.member, **row} for row in told]
        schema = {"member": pl.Int64, "change": pl.String}
        schema |= {name: pl.Float64 for name in rows[0] if name not in schema}
        tables.append(pl.DataFrame(rows, schema))
    table = pl.concat(tables, how="diagonal").with_columns(pl.col(pl.Float64).fill_nan(None))
    return table.sort("member", maintain_order=True)


def corrupted(exam: Exam, by: By) -> NDArray[Any]:
    """The exam's sequences with another key each, or with their anchors swapped.

    Raises UsageError for an exam without keys and anchors, or whose items all have one key.
    """
    roles = roles_of(exam)
    if "key" not in roles:
        raise UsageError(f"by is {by!r}; this exam has no key and two anchors to change")
    tokens, rows = exam.inputs.copy(), np.arange(len(exam.inputs))
    key, first, second = (roles[name] for name in ("key", "anchor1", "anchor2"))
    if by == "swapped":
        tokens[rows, first], tokens[rows, second] = tokens[rows, second], tokens[rows, first]
        return tokens
    own = tokens[rows, key]
    if (own == own[0]).all():
        raise UsageError("by is 'other_key'; all items of the exam have the same key")
    order = own[philox.feistel(_SHUFFLE, 0, rows, len(rows))]
    lent, turn = order.copy(), 0
    while (same := lent == own).any():
        turn += 1
        lent[same] = np.roll(order, turn)[same]
    tokens[rows, key] = lent
    return tokens


class _Trial:
    """The exam of one shape, and each change ready for it."""

    def __init__(self, exam: Exam, spec: MemberSpec, parts: Mapping[str, list[Change]]) -> None:
        self.exam, self.parts = exam, parts
        self.roles, self.ports = roles_of(exam), make_task(spec.task).ports
        every = [change for several in parts.values() for change in several]
        self.at: dict[Change, Any] = {change: self._positions(change, spec) for change in every}
        ways = {c.by for c in every if isinstance(c, Patch)} - {"zeros", "mean"}
        self.sources = {by: corrupted(exam, by) for by in sorted(ways)}

    def member(self, spec: MemberSpec, module: Any) -> list[dict[str, Any]]:
        """A row a change."""
        most = at_once(spec, self.exam.inputs)
        before = self._told(module, most, ())
        rows = []
        for name, several in self.parts.items():
            taps = [self._tap(change, module, most) for change in several]
            after = self._told(module, most, taps)
            kept = np.nan
            if self.exam.reads == "answers":
                kept = float((after.argmax(-1) == before.argmax(-1)).mean())
            unchanged = {f"before_{key}": value for key, value in self._scores(before).items()}
            rows.append({"change": name, **self._scores(after), "kept": kept, **unchanged})
        return rows

    def _told(self, module: Any, most: int, taps: Sequence[tuple[str, Tap]]) -> Float32:
        """Outputs at the positions asked, [N, V] or [N, asked, V]."""
        asked: Any = slice(-self.ports.asked, None) if self.ports.several else -1
        parts = forward(module, self.exam.inputs, most, taps)
        return np.concatenate([outputs[:, asked].numpy() for outputs in parts])

    def _scores(self, outputs: Float32) -> dict[str, float]:
        told = outputs if self.exam.reads == "outputs" else outputs.argmax(-1)
        scores = self.exam.score(told[None])
        shares = {"seen": scores.seen, **scores.candidates, "other": scores.other}
        found = {name: float(share[0]) for name, share in shares.items()}
        return {**found, "logit_difference": self._difference(outputs)}

    def _difference(self, outputs: Float32) -> float:
        answers = list(getattr(self.exam, "answers", {}).values())
        if len(answers) < 2 or outputs.ndim != 2:
            return np.nan
        own, (first, second) = outputs[self.exam.splits["unseen"]], answers[:2]
        told = np.flatnonzero((first >= 0) & (second >= 0) & (first != second))
        if not len(told):
            return np.nan
        with np.errstate(invalid="ignore"):  # of members that are not finite
            return float((own[told, first[told]] - own[told, second[told]]).mean(dtype=np.float64))

    def _positions(self, change: Change, spec: MemberSpec) -> Any:
        inputs = self.exam.inputs
        if isinstance(change, Patch):
            return resolved(change.at, self.roles, inputs)
        model = spec.model
        if not attends(spec):
            raise UsageError(f"member {spec.member} has no attention, so no edge to cut")
        assert isinstance(model, ModelConfig)
        for name, value, count in (
            ("layer", change.layer, model.layers),
            ("head", change.head or 0, model.heads),
        ):
            if not isinstance(value, int) or not 0 <= value < count:
                raise UsageError(
                    f"an edge's {name} is {value}; member {spec.member} has 0 to {count - 1}"
                )
        return resolved([change.query, change.key], self.roles, inputs)

    def _tap(self, change: Change, module: Any, most: int) -> tuple[str, Tap]:
        at: Int64 | None = self.at[change]
        if isinstance(change, Edge):
            return f"blocks.{change.layer}.attention.pattern", _cut(change, self.at[change])
        import torch

        new: Tensor | None = None  # rows [N, .., P, D], or one for all
        if change.by != "zeros":
            read = self.sources.get(change.by, self.exam.inputs)
            found = captured(module, read, [change.place], most, at)[change.place]
            if change.by == "mean":
                found = found.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
            new = torch.from_numpy(found)

        def tap(value: Tensor, rows: slice) -> Tensor:
            here = None if at is None else at[rows]
            if new is None:
                return put(value, here, torch.zeros_like(take(value, here)))
            return put(value, here, new if len(new) == 1 else new[rows])

        return change.place, tap


def _cut(edge: Edge, at: Int64) -> Tap:
    """`at` [N, 2]: where its query and its key stand."""

    def tap(weights: Tensor, rows: slice) -> Tensor:
        items, (query, key) = np.arange(rows.stop - rows.start), at[rows].T
        heads: Any = slice(None) if edge.head is None else slice(edge.head, edge.head + 1)
        changed = weights.clone()
        changed[items, heads, query, key] = 0
        if edge.renormalised:
            whole = weights[items, heads, query].sum(-1, keepdim=True)  # [n, H, 1]
            own = changed[items, heads, query]  # [n, H, T]
            left = own.sum(-1, keepdim=True)
            changed[items, heads, query] = own * (whole / left).where(left != 0, 0.0)
        return changed

    return tap


def _parts(changes: Mapping[str, Change | Sequence[Change]]) -> dict[str, list[Change]]:
    """The changes under each name; UsageError for what is none."""
    if not changes:
        raise UsageError("changes is empty; name at least one change")
    parts: dict[str, list[Change]] = {}
    for name, given in changes.items():
        several = [given] if isinstance(given, Patch | Edge) else list(given)
        for change in several:
            if not isinstance(change, Patch | Edge):
                raise UsageError(f"change {name!r} has {change!r}; it must be a Patch or an Edge")
            if isinstance(change, Patch) and change.by not in WAYS:
                raise UsageError(f"by is {change.by!r}; it must be one of {', '.join(WAYS)}")
        parts[name] = [_hashable(change) for change in several]
    return parts


def _hashable(change: Change) -> Change:
    """With positions in a tuple; a text, which is no list of them, stays and is refused."""
    if isinstance(change, Edge) or change.at is None or isinstance(change.at, str):
        return change
    return dataclasses.replace(change, at=tuple(change.at))


def _exam(spec: MemberSpec, items: int | None) -> Exam:
    evaluation = spec.evaluation
    if items is not None:
        if items < 1:
            raise UsageError(f"items is {items}; it must be at least 1")
        evaluation = dataclasses.replace(
            evaluation,
            seen_items=min(items, evaluation.seen_items),
            unseen_items=min(items, evaluation.unseen_items),
        )
    exam = make_task(spec.task).exam(evaluation)
    if exam.reads == "sequences":
        raise UsageError(
            f"the exam of task {spec.task.name} reads whole sequences that members tell; effects"
            " are measured on exams that read answers or outputs"
        )
    return exam
