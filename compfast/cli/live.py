"""Progress while a run trains: a rich bar on a terminal, plain lines elsewhere; reports."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from compfast.cli.output import Output, duration, printable
from compfast.cli.results import only_the_report
from compfast.training.callbacks import Callback, Outline

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from compfast.runs.reading import Run

_LINE_SECONDS = 30.0  # a plain line at least this often while exams are far apart
_WINDOW_SECONDS = 60.0  # the stretch that the rate is taken over


class Meter:
    """Numbers of a run as it goes, fed by the callbacks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.done, self.total, self.step, self.steps = 0, 0, 0, 0
        self.counts: dict[str, int] = {}
        self.parts_done: tuple[int, int] | None = None  # on a cluster: how many, of how many
        self._loss: dict[int, float] = {}
        self._seen: dict[int, float] = {}
        self._fitted = 0.9
        self._history: deque[tuple[float, int]] = deque()

    def start(self, steps: int, fitted: float, step: int) -> None:
        self.steps, self._fitted, self.step = steps, fitted, step

    def tick(self, done: int, total: int) -> None:
        now = self.clock()
        self.done, self.total = done, total
        self._history.append((now, done))
        while len(self._history) > 2 and now - self._history[0][0] > _WINDOW_SECONDS:
            self._history.popleft()

    def rows(self, rows: pl.DataFrame) -> None:
        """New metrics rows: the last finite loss and seen score of each member count."""
        for column, kept in (("loss", self._loss), ("seen", self._seen)):
            new = rows.drop_nulls(column)
            kept.update(zip(new["member"].to_list(), new[column].to_list(), strict=True))
        if rows.height:
            newest: Any = rows["step"].max()
            self.step = max(self.step, int(newest))

    @property
    def rate(self) -> float | None:
        """Member steps a second over the last minute; None before there are two ticks."""
        if len(self._history) < 2:
            return None
        (t0, d0), (t1, d1) = self._history[0], self._history[-1]
        return (d1 - d0) / (t1 - t0) if t1 > t0 and d1 > d0 else None

    @property
    def seconds_left(self) -> float | None:
        return None if self.rate is None else (self.total - self.done) / self.rate

    @property
    def loss(self) -> float | None:
        finite = [value for value in self._loss.values() if np.isfinite(value)]
        return float(np.mean(finite)) if finite else None

    @property
    def fitted(self) -> float | None:
        """Share of the examined members whose seen score reaches evaluation.fitted."""
        if not self._seen:
            return None
        return sum(value >= self._fitted for value in self._seen.values()) / len(self._seen)

    def parts(self) -> list[str]:
        """The numbers as short texts, verdicts apart; what is not known yet is left out."""
        parts = [f"step {self.step}/{self.steps}"]
        if self.parts_done is not None:
            parts = [f"part {self.parts_done[0]}/{self.parts_done[1]}"]
        if self.rate is not None:
            parts.append(f"{self.rate:,.0f} member-steps/s")
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3g}")
        if self.fitted is not None:
            parts.append(f"fitted {self.fitted:.0%}")
        if self.seconds_left is not None and self.done < self.total:
            parts.append(f"{duration(self.seconds_left)} left")
        return parts

    @property
    def verdicts(self) -> str:
        return ", ".join(f"{label} {n}" for label, n in self.counts.items() if n)


class _Live(Callback):
    """Feeds a meter; subclasses show it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.meter = Meter(clock)

    def on_start(self, run: Run, outline: Outline) -> None:
        self.meter.start(outline.steps, run.config.evaluation.fitted, outline.resumed_at or 0)

    def on_tick(self, done: int, total: int) -> None:
        self.meter.tick(done, total)

    def on_metrics(self, rows: pl.DataFrame) -> None:
        self.meter.rows(rows)

    def on_verdicts(self, counts: dict[str, int]) -> None:
        self.meter.counts = dict(counts)

    def on_parts(self, done: int, total: int, verdicts: dict[str, int]) -> None:
        self.meter.parts_done, self.meter.counts = (done, total), dict(verdicts)


class Lines(_Live):
    """Plain log lines: one after every exam, and one a while apart in between."""

    def __init__(self, output: Output, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._output = output
        self._last = clock()

    def on_start(self, run: Run, outline: Outline) -> None:
        super().on_start(run, outline)
        for sentence in outline.skipped:
            self._output.say(f"skipped {sentence}")
        if outline.resumed_at is not None:
            self._output.say(f"resumed at step {outline.resumed_at}")

    def on_tick(self, done: int, total: int) -> None:
        super().on_tick(done, total)
        if self.meter.clock() - self._last >= _LINE_SECONDS:
            self._print()

    def on_verdicts(self, counts: dict[str, int]) -> None:
        super().on_verdicts(counts)
        self._print()

    def on_parts(self, done: int, total: int, verdicts: dict[str, int]) -> None:
        new = (done, total) != self.meter.parts_done
        super().on_parts(done, total, verdicts)
        if new:
            self._print()

    def on_note(self, sentence: str) -> None:
        self._output.say(sentence)

    def _print(self) -> None:
        self._last = self.meter.clock()
        said = [*self.meter.parts(), self.meter.verdicts]
        self._output.say(" | ".join(part for part in said if part))


class Live(_Live):
    """A rich progress bar; use as a context manager, so that the terminal comes back whole."""

    def __init__(self, output: Output, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._output = output
        self._bar: Bar | None = None

    def __enter__(self) -> Live:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._bar = Progress(
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=self._output.console(),
            redirect_stderr=sys.stderr is not None and sys.stderr.isatty(),
        )
        self._bar.add_task("", total=None, numbers="")
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_tick(self, done: int, total: int) -> None:
        super().on_tick(done, total)
        self._show()

    def on_metrics(self, rows: pl.DataFrame) -> None:
        super().on_metrics(rows)
        self._show()

    def on_note(self, sentence: str) -> None:
        if self._bar is not None:
            self._bar.console.print(printable(sentence), markup=False)

    def _show(self) -> None:
        if self._bar is None:
            return
        meter = self.meter
        numbers = f"{'  '.join(meter.parts())}\n{meter.verdicts}".rstrip()
        task = self._bar.task_ids[0]
        self._bar.update(task, completed=meter.done, total=meter.total, numbers=numbers)


class Reports(Callback):
    """Writes the report at the first logged step at or past every multiple of `every` steps.

    It shows what was logged up to there, whenever the last checkpoint was.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._last = 0
        self._run: Run | None = None
        self._rows: list[pl.DataFrame] = []

    def on_start(self, run: Run, outline: Outline) -> None:
        self._run, self._last = run, outline.resumed_at or 0
        self._rows = [] if run.checkpoint is None else [run.metrics]

    def on_metrics(self, rows: pl.DataFrame) -> None:
        from compfast.report import write_report
        from compfast.report.ongoing import Ongoing

        assert self._run is not None
        self._rows.append(rows)
        newest: Any = rows["step"].max()
        ended = newest >= self._run.config.training.steps  # the report of the end comes by itself
        if ended or newest // self._every <= self._last // self._every:
            return
        self._last = newest
        with only_the_report(self._run.path):
            write_report(Ongoing(self._run, self._rows), self._run.path / "report")
