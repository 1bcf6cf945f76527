"""What the loop knows of one group besides its parameters: windows, exams, stop rules.

All arrays have the member axis first and go into the checkpoint, so that a resumed run goes on in
the middle of a window. Every number of a member comes from its own row, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast import solutions
from compfast.config import MemberSpec
from compfast.engines.base import ACTIVE, DIVERGED, FROZEN, Advance, Engine, State
from compfast.engines.checks import check_prompts
from compfast.ensembles.schedule import Tables
from compfast.ensembles.table import members_table
from compfast.errors import StorageError
from compfast.storage.tensorfile import Array
from compfast.tasks import Exam, measures_of, prompts_of

Bool = NDArray[np.bool_]
Int64 = NDArray[np.int64]

_NEVER = -1  # verdict code of a member without an exam


@dataclass(slots=True)
class Progress:
    """One group of M members; W = training.log_every, C = candidates of its exam."""

    specs: Sequence[MemberSpec]
    exam: Exam
    tables: Tables
    step: Int64  # [M] optimiser steps done
    status: NDArray[np.uint8]  # [M]
    closed: NDArray[np.uint8]  # [M] the last row of its metrics is written
    loss: NDArray[np.float32]  # [M, W] the window that is being filled; NaN where not run
    grad_norm: NDArray[np.float32]  # [M, W] likewise
    verdict: Int64  # [M] index into `labels` of the latest exam, -1 before
    stable: Int64  # [M] equal verdicts in a row
    scores: NDArray[np.float64]  # [M, C + 2 + K]: seen, candidates, other, K measures

    @classmethod
    def fresh(cls, specs: Sequence[MemberSpec], exam: Exam, tables: Tables) -> Progress:
        m, w = len(specs), specs[0].training.log_every
        return cls(
            specs,
            exam,
            tables,
            step=np.zeros(m, np.int64),
            status=np.full(m, ACTIVE, np.uint8),
            closed=np.zeros(m, np.uint8),
            loss=np.full((m, w), np.nan, np.float32),
            grad_norm=np.full((m, w), np.nan, np.float32),
            verdict=np.full(m, _NEVER, np.int64),
            stable=np.zeros(m, np.int64),
            scores=np.full((m, len(exam.candidates) + 2 + len(measures_of(exam))), np.nan),
        )

    _SAVED = ("closed", "loss", "grad_norm", "verdict", "stable", "scores")

    def arrays(self) -> dict[str, Array]:
        """What a checkpoint holds of it, beside the engine's own step and status."""
        return {name: getattr(self, name) for name in self._SAVED}

    def restore(self, arrays: dict[str, Array], state: State) -> None:
        """Take over what `arrays` gave; raises StorageError for what it never gives."""
        codes, closed = arrays["verdict"], arrays["closed"]
        if not ((codes >= _NEVER) & (codes < len(self.labels))).all() or (closed > 1).any():
            raise StorageError("the checkpoint has a verdict or a mark that no member can have")
        for name in self._SAVED:
            setattr(self, name, arrays[name])
        self.step, self.status = state.step.copy(), state.status.copy()

    @property
    def steps(self) -> int:
        return self.specs[0].training.steps

    @property
    def labels(self) -> tuple[str, ...]:
        words = (solutions.MIXED, solutions.OTHER, solutions.UNDERFIT, solutions.DIVERGED)
        return (*self.exam.candidates, *words)

    @property
    def active(self) -> Bool:
        result: Bool = self.status == ACTIVE
        return result

    @property
    def done(self) -> bool:
        return bool(self.closed.all())

    def next_event(self, after: int) -> int:
        """The group's first step above `after` at which it logs, is examined or ends."""
        training = self.specs[0].training
        every = (training.log_every, training.eval_every)
        return min(self.steps, *(after // cadence * cadence + cadence for cadence in every))

    def work(self) -> tuple[int, int]:
        """Member steps done, and how many there will be if nobody else stops early."""
        total = np.where(self.active, self.steps, self.step)
        return int(self.step.sum()), int(total.sum())

    def observe(self, result: Advance, until: int, state: State | None) -> None:
        """Take over what `advance(until)` did; `state` is needed when it was stopped midway."""
        old, w = self.step, self.loss.shape[1]
        columns = result.base + np.arange(result.loss.shape[1])  # absolute steps
        if state is not None:
            self.step, self.status = state.step.copy(), state.status.copy()
        else:
            self.step, self.status = self._reached(result, columns, until)
        ran = (columns >= old[:, None]) & (columns < self.step[:, None])
        for window, values in ((self.loss, result.loss), (self.grad_norm, result.grad_norm)):
            window[:, columns % w] = np.where(ran, values, window[:, columns % w])

    def _reached(
        self, result: Advance, columns: Int64, until: int
    ) -> tuple[Int64, NDArray[np.uint8]]:
        """Step and status [M] after a whole `advance`: the first step not finite ends a member."""
        due = self.active[:, None] & (columns >= self.step[:, None])
        bad = due & ~(np.isfinite(result.loss) & np.isfinite(result.grad_norm))
        ends = bad.any(axis=1)
        first = columns[bad.argmax(axis=1)] if len(columns) else self.step
        reached = np.where(self.active, np.maximum(self.step, until), self.step)
        status = np.where(ends, DIVERGED, self.status).astype(np.uint8)
        return np.where(ends, first, reached).astype(np.int64), status

    def settle(self, event: int, engine: Engine) -> pl.DataFrame:
        """Metrics rows of the members at absolute step `event`; freezes those that are done.

        Active members get a row at the ends of windows and at exams. A member that stops gets
        its last exam at once: a frozen one in its row, a diverged one in a row of its own at
        the step that failed (counted from 1), since the step before may have a row.
        """
        training = self.specs[0].training
        mine = event <= self.steps
        ends = event == self.steps
        log_due = mine and event > 0 and (event % training.log_every == 0 or ends)
        exam_due = mine and (event % training.eval_every == 0 or ends)
        active = self.active
        diverged = (self.status == DIVERGED) & (self.closed == 0)
        filled = event % training.log_every or training.log_every
        loss = _mean(self.loss[:, :filled])
        stopping = active & log_due & (loss < self._each("stop_loss"))
        examined = (active & exam_due) | diverged | stopping
        if examined.any():
            self._examine(engine, examined, active & exam_due)
            stopping |= active & exam_due & self._stable()
        shown = (active & log_due) | examined
        logged = active & log_due
        rows = self._rows(shown, logged, examined, diverged, loss, filled)
        if stopping.any():
            engine.freeze(stopping)
            self.status[stopping] = FROZEN
        self.closed[stopping | diverged | (active & ends)] = 1
        # A member that is done keeps no window: what it would hold depends on its neighbours.
        over = (self.closed == 1) | log_due
        self.loss[over] = self.grad_norm[over] = np.nan
        return rows

    def results(self) -> pl.DataFrame:
        """What the members table says beyond the specs."""
        columns: dict[str, Any] = {"member": [spec.member for spec in self.specs]}
        columns["verdict"] = self._labels(np.ones(len(self.specs), np.bool_))
        columns |= {name: self.scores[:, i] for i, name in enumerate(self.score_names)}
        columns["steps"] = self.step
        frame = pl.DataFrame(columns, schema_overrides={"verdict": pl.String})
        return frame.with_columns(pl.col(*self.score_names).fill_nan(None))

    @property
    def score_names(self) -> tuple[str, ...]:
        return ("seen", *self.exam.candidates, "other", *measures_of(self.exam))

    def _each(self, field: str) -> NDArray[Any]:
        return np.array([getattr(spec.training, field) for spec in self.specs])

    def _examine(self, engine: Engine, examined: Bool, regular: Bool) -> None:
        """New scores and verdicts of `examined`; `regular` exams count for stability."""
        exam, everybody = self.exam, range(len(self.specs))
        told: Any
        if exam.reads == "sequences":
            told = engine.generate(prompts_of(exam), everybody)
        elif exam.reads == "answers":
            told = engine.predict(exam.inputs)
        else:
            told = engine.outputs(exam.inputs, everybody)
        scores = exam.score(told)
        evaluation = self.specs[0].evaluation
        labels = solutions.verdicts(scores, evaluation, self.status == DIVERGED)
        codes = np.array([self.labels.index(str(label)) for label in labels])
        measured = (scores.measures[name] for name in measures_of(exam))
        columns = [scores.seen, *scores.candidates.values(), scores.other, *measured]
        stacked = np.stack(columns, axis=1)
        again = np.where(codes == self.verdict, self.stable + 1, 1)
        self.stable = np.where(regular, again, self.stable)
        self.verdict = np.where(examined, codes, self.verdict)
        self.scores = np.where(examined[:, None], stacked, self.scores)

    def _stable(self) -> Bool:
        wanted = self._each("stop_stable")
        fitted = self.verdict != self.labels.index(solutions.UNDERFIT)
        result: Bool = (wanted > 0) & (self.stable >= wanted) & fitted
        return result

    def _labels(self, shown: Bool) -> list[str | None]:
        codes = self.verdict.tolist()
        return [
            self.labels[c] if s and c != _NEVER else None
            for c, s in zip(codes, shown.tolist(), strict=True)
        ]

    def _rows(
        self,
        shown: Bool,
        logged: Bool,
        examined: Bool,
        diverged: Bool,
        loss: NDArray[np.float64],
        filled: int,
    ) -> pl.DataFrame:
        grad_norm = _mean(self.grad_norm[:, :filled])
        t = np.maximum(self.step - 1, 0)
        base = np.array([spec.optimizer.lr for spec in self.specs])
        lr = (base * self.tables.scale[t] + self.tables.offset[t]).astype(np.float32)
        columns: dict[str, Any] = {
            "member": np.array([spec.member for spec in self.specs], np.int64),
            "step": self.step + diverged,
            "loss": np.where(logged, loss, np.nan),
            "grad_norm": np.where(logged, grad_norm, np.nan),
            "lr": np.where(logged, lr.astype(np.float64), np.nan),
        }
        for i, name in enumerate(self.score_names):
            columns[name] = np.where(examined, self.scores[:, i], np.nan)
        columns["verdict"] = self._labels(examined)
        frame = pl.DataFrame(columns, schema_overrides={"verdict": pl.String})
        numbers = ["loss", "grad_norm", "lr", *self.score_names]
        return frame.with_columns(pl.col(numbers).fill_nan(None)).filter(pl.Series(shown))


def metrics_schema(groups: Sequence[Progress]) -> dict[str, Any]:
    """Columns of the metrics table over all groups; what a task does not know is null there."""
    exams = [group.exam for group in groups]
    names = dict.fromkeys(name for exam in exams for name in exam.candidates)
    measures = dict.fromkeys(name for exam in exams for name in measures_of(exam))
    numbers = ("loss", "grad_norm", "lr", "seen", *names, "other", *measures)
    return {
        "member": pl.Int64,
        "step": pl.Int64,
        **dict.fromkeys(numbers, pl.Float64),
        "verdict": pl.String,
    }


def members_of(groups: Sequence[Progress]) -> pl.DataFrame:
    """The members table as these groups stand."""
    window = ("step", "loss", "grad_norm", "lr")
    scores = {n: kind for n, kind in metrics_schema(groups).items() if n not in window}
    wanted = {"member": pl.Int64, "verdict": pl.String, **scores, "steps": pl.Int64}
    results = [conform(group.results(), wanted) for group in groups]
    return members_table([group.specs for group in groups], pl.concat(results))


def check_exam(specs: Sequence[MemberSpec], exam: Exam) -> None:
    """Raise UsageError where such members cannot take their exam."""
    if exam.reads == "sequences":
        check_prompts(prompts_of(exam), specs[0], len(specs))


def conform(frame: pl.DataFrame, schema: dict[str, Any]) -> pl.DataFrame:
    """The frame with exactly these columns, null where it has none."""
    missing = [pl.lit(None, dtype=kind).alias(n) for n, kind in schema.items() if n not in frame]
    return frame.with_columns(missing).select(list(schema))


def _mean(window: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean over the columns, added from left to right in float64: no bit depends on M.

    Columns that were not run are left out: a window may begin before its run does.
    """
    ran = ~np.isnan(window)
    total, count = np.zeros(len(window)), ran.sum(axis=1)
    for column, own in zip(window.T, ran.T, strict=True):
        total += np.where(own, column, np.float32(0))
    result = np.full(len(window), np.nan)
    np.divide(total, count, out=result, where=count > 0)
    return result
