"""The training loss, and the exam's scores, along straight lines between weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.analysis.inputs import at_once
from compfast.analysis.losses import BatchLoss, Weights, finite_or_null, fixed_batch
from compfast.config import MemberSpec
from compfast.errors import UsageError
from compfast.runs.reading import Run
from compfast.tasks import Exam, make_task

Float64 = NDArray[np.float64]
Row = dict[str, Any]

_IDS = {"member": pl.Int64, "other": pl.Int64, "step": pl.Int64, "start": pl.Int64}
_KEYS = (*_IDS, "path")
_TYPES = {**_IDS, "path": pl.String, "n": pl.Int64}


@dataclass(frozen=True, slots=True)
class Lines:
    """How lines are walked; raises UsageError for points and batches that there are not."""

    run: Run
    items: int | None
    points: int
    scores: bool
    float64: bool

    def __post_init__(self) -> None:
        if self.points < 2:
            raise UsageError(f"points is {self.points}; a line has at least its 2 ends")

    def exam(self, spec: MemberSpec) -> Exam | None:
        if not self.scores:
            return None
        exam = make_task(spec.task).exam(spec.evaluation)
        if exam.reads == "sequences":
            raise UsageError(
                f"the exam of task {spec.task.name} reads whole sequences that members tell;"
                " scores along a line are of exams that read answers or outputs"
            )
        return exam

    def walk(
        self, specs: Sequence[MemberSpec], first: Weights, last: Weights, named: Row
    ) -> list[Row]:
        """A row a point between the weights of two members, or of one."""
        batch, exam = fixed_batch(specs, self.items), self.exam(specs[0])
        loss = BatchLoss(specs[0], first, batch, self.float64)
        far = np.sqrt(
            sum(float(((last[n] - first[n]).astype(np.float64) ** 2).sum()) for n in first)
        )
        rows = []
        for at in np.linspace(0, 1, self.points):
            loss.put(between(first, last, float(at)))
            row = {**named, "at": float(at), "loss": loss.value(), "distance": float(far)}
            rows.append({**row, "n": loss.items, **(_scores(loss, specs[0], exam) if exam else {})})
        return rows

    def prepared(
        self, specs: Sequence[MemberSpec], step: int | None
    ) -> Callable[[], Callable[[], Any]]:
        """A point, for `compfast.analysis.effort.timed`."""

        def prepare() -> Callable[[], Any]:
            weights, exam = self.run.params(specs[0].member, step), self.exam(specs[0])
            loss = BatchLoss(specs[0], weights, fixed_batch(specs, self.items), self.float64)
            return lambda: (loss.value(), _scores(loss, specs[0], exam) if exam else None)

        return prepare


def table_of(lines: Iterator[list[Row]], *order: str) -> pl.DataFrame:
    """All lines below one another, in the order of these columns."""
    tables = []
    for rows in lines:
        schema = {name: _TYPES.get(name, pl.Float64) for name in rows[0]}
        tables.append(pl.DataFrame(rows, schema=schema))
    table = pl.concat(tables, how="diagonal").sort(*order, maintain_order=True)
    return finite_or_null(table)


def barriers(lines: pl.DataFrame) -> pl.DataFrame:
    """A row a line of `loss_line` or `lines_between`.

    `barrier` is the most by which its loss is above the straight line between the losses at its
    ends, `loss_first` and `loss_last`: 0 where it is nowhere above; `barrier_at` is where. Null
    where a loss is.
    """
    loss, at = pl.col("loss"), pl.col("at")
    above = loss - (loss.first() + at * (loss.last() - loss.first()))
    # At the ends it is 0 by definition, whatever is rounded.
    above = pl.when((at == 0) | (at == 1)).then(0.0).otherwise(above)
    known = loss.is_not_null().all()
    keys = [name for name in _KEYS if name in lines.columns]
    return lines.group_by(keys, maintain_order=True).agg(
        pl.when(known).then(above.max()).alias("barrier"),
        pl.when(known).then(at.get(above.arg_max())).alias("barrier_at"),
        loss.first().alias("loss_first"),
        loss.last().alias("loss_last"),
        pl.col("distance", "n").first(),
    )


def between(first: Weights, last: Weights, at: float) -> dict[str, Float64]:
    """first + at (last - first) by name, float64; the ends are the weights themselves."""
    if at in (0, 1):
        end = last if at else first
        return {name: np.asarray(end[name], np.float64) for name in first}
    found = {}
    for name, array in first.items():
        begin = np.asarray(array, np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # of members that are not finite
            found[name] = begin + at * (np.asarray(last[name], np.float64) - begin)
    return found


def _scores(loss: BatchLoss, spec: MemberSpec, exam: Exam) -> dict[str, float]:
    """The exam's columns of the network as it stands in `loss`."""
    import torch

    ports, most = make_task(spec.task).ports, at_once(spec, exam.inputs)
    asked: Any = slice(-ports.asked, None) if ports.several else -1
    with torch.no_grad():
        parts = [
            loss.module(loss.tensor(exam.inputs[first : first + most]))[:, asked].numpy()
            for first in range(0, len(exam.inputs), most)
        ]
    outputs = np.concatenate(parts).astype(np.float32)
    told = exam.score((outputs if exam.reads == "outputs" else outputs.argmax(-1))[None])
    shares: Mapping[str, Any] = {"seen": told.seen, **told.candidates, "other": told.other}
    return {name: float(share[0]) for name, share in shares.items()}
