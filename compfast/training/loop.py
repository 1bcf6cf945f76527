"""The training loop: from event to event, all members side by side.

Events are absolute steps: multiples of log_every, eval_every and checkpoint_every, snapshots, and
the end. All groups are advanced to the next event, then logged, examined and frozen, then saved.
What a member does at an event depends on its own row only, so where a run was stopped, how
often it was saved and who trains beside it changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from compfast.config import Config
from compfast.engines.base import DIVERGED, Engine
from compfast.ensembles.groups import Groups
from compfast.ensembles.schedule import Tables
from compfast.errors import AllDivergedError, Interrupted
from compfast.models.params import parameter_count
from compfast.runs import checkpoints
from compfast.runs.checkpoints import Files, group_folder
from compfast.runs.folder import RunFolder
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run, load
from compfast.solutions import DIVERGED as DIVERGED_LABEL
from compfast.storage import tensorfile
from compfast.training.callbacks import Callback, Outline
from compfast.training.inherited import Taken
from compfast.training.interrupts import StopSignals
from compfast.training.progress import Progress, conform, members_of, metrics_schema


@dataclass(slots=True)
class Loop:
    """One run's members from event to event."""

    folder: RunFolder
    config: Config
    groups: Groups
    engines: list[Engine]
    tables: list[Tables]
    callbacks: Sequence[Callback]
    event: int = -1  # the last event that was settled
    progress: list[Progress] = field(init=False)
    schema: dict[str, Any] = field(init=False)
    signals: StopSignals = field(init=False)
    pending: list[pl.DataFrame] = field(default_factory=list)  # rows since the last checkpoint
    saved: bool = False  # the last checkpoint holds everything
    failure: BaseException | None = None  # raised by a callback in the middle of `advance`

    def __post_init__(self) -> None:
        parts = zip(self.groups, exams_of(self.groups), self.tables, strict=True)
        self.progress = [Progress.fresh(*part) for part in parts]
        self.schema = metrics_schema(self.progress)
        self.signals = StopSignals(self._request_stop)

    def restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Take over a verified checkpoint."""
        for g, (specs, engine) in enumerate(zip(self.groups, self.engines, strict=True)):
            state = checkpoints.read_state(checkpoint.path, g, specs)
            engine.load(state)
            arrays = tensorfile.read(checkpoint.path / group_folder(g) / "progress.safetensors")
            self.progress[g].restore(arrays, state)
        self.event = checkpoint.state["event"]
        self.saved = True

    def begin(self, taken: Taken | None) -> None:
        """Draw initial weights, or go on with what the engines took from another run.

        That is saved at once, so that nobody needs the other run from then on.
        """
        if taken is None:
            for engine in self.engines:
                engine.initialise()
            return
        self.progress, self.event = taken.progress, taken.event
        if self._done:
            self._keep_snapshots(self.event)
        self._save()

    def run(self, resumed: bool = False) -> Run:
        self.folder.write_members(members_of(self.progress))
        run = load(self.folder.path)
        with self.signals:
            try:
                self._call("on_start", run, self._outline(resumed))
                while not self._done:
                    event = self._next_event()
                    self._advance(event)
                    self._settle(event)
            except _CallbackError as stop:
                self._save()
                raise stop.error from None
        run = load(self.folder.path)
        for callback in self.callbacks:
            callback.on_end(run)
        if all((p.status == DIVERGED).all() for p in self.progress):
            count = sum(len(specs) for specs in self.groups)
            raise AllDivergedError(f"every member ({count} of {count}) diverged; lower the rate")
        return run

    @property
    def _done(self) -> bool:
        return self.event >= 0 and all(p.done for p in self.progress)

    def _next_event(self) -> int:
        """The first event that no member has passed and that is not settled yet."""
        if self.event < 0:
            return 0
        reached = [int(p.step[p.active].max()) for p in self.progress if p.active.any()]
        least = max([self.event + 1, *reached])
        every = self.config.run.checkpoint_every
        own = [p.next_event(self.event) for p in self.progress if not p.done]
        snapshots = [step for step in self.config.run.snapshots if step >= least]
        return min([*own, -(-least // every) * every, *snapshots])

    def _advance(self, event: int) -> None:
        """Bring every group to `event`; leaves with a checkpoint where a signal asks for it."""
        for engine, progress in zip(self.engines, self.progress, strict=True):
            until = min(event, progress.steps)
            while (progress.active & (progress.step < until)).any():
                if self.signals.requested:
                    self._leave()
                result = engine.advance(until, tick=self._ticker(engine))
                self.saved = False
                progress.observe(result, until, engine.state() if result.stopped else None)
                if self.failure is not None:
                    raise _CallbackError(self.failure)

    def _settle(self, event: int) -> None:
        parts = [p.settle(event, e) for p, e in zip(self.progress, self.engines, strict=True)]
        rows = pl.concat([conform(part, self.schema) for part in parts])
        self.event, self.saved = event, False
        self.pending.append(rows)
        self._keep_snapshots(event)
        path = None
        if self._done or (event and event % self.config.run.checkpoint_every == 0):
            path = self._save()
        done, total = self._work()
        self._call("on_tick", done, total)
        if rows.height:
            self._call("on_metrics", rows)
        if rows["verdict"].null_count() < rows.height:
            self._call("on_verdicts", self._counts())
        if path is not None:
            self._call("on_checkpoint", path)
        if self.signals.requested and not self._done:
            self._leave()

    def _keep_snapshots(self, event: int) -> None:
        wanted = self.config.run.snapshots
        # Where everybody stops early, the last parameters are those of every later step too.
        for step in wanted if self._done else ():
            if step >= event:
                self.folder.snapshot(step, self._parameters())
        if event in wanted and not self._done:
            self.folder.snapshot(event, self._parameters())

    def _save(self) -> Path | None:
        """Write a checkpoint unless the last one holds everything already."""
        if self.saved:
            return None
        files: Files = {}
        for g, (engine, progress) in enumerate(zip(self.engines, self.progress, strict=True)):
            state = engine.state()
            if (state.step != progress.step).any() or (state.status != progress.status).any():
                raise RuntimeError(f"engine {engine.name} and the loop disagree on group {g}")
            files |= checkpoints.state_files(g, state)
            files[f"{group_folder(g)}/progress.safetensors"] = progress.arrays()
        rows = pl.concat([pl.DataFrame(schema=self.schema), *self.pending])
        state_json = {"event": self.event, "finished": self._done}
        path = self.folder.save(files, state_json, rows, members_of(self.progress))
        self.pending, self.saved = [], True
        return path

    def _leave(self) -> None:
        self._save()
        active = [p.step[p.active] for p in self.progress if p.active.any()]
        step = min(int(steps.min()) for steps in active) if active else self.event
        raise Interrupted(f"stopped at step {step}; continue with --resume {self.folder.path}")

    def _parameters(self) -> Files:
        files: Files = {}
        for g, engine in enumerate(self.engines):
            files[f"{group_folder(g)}/params.safetensors"] = dict(engine.state().params)
        return files

    def _counts(self) -> dict[str, int]:
        counts = dict.fromkeys((label for p in self.progress for label in p.labels), 0)
        for progress in self.progress:
            for label in progress.results()["verdict"].drop_nulls():
                counts[label] += 1
        return {label: n for label, n in counts.items() if n or label != DIVERGED_LABEL}

    def _work(self) -> tuple[int, int]:
        done, total = zip(*(progress.work() for progress in self.progress), strict=True)
        return sum(done), sum(total)

    def _outline(self, resumed: bool) -> Outline:
        return Outline(
            members=sum(len(specs) for specs in self.groups),
            groups=len(self.groups),
            parameters=sum(len(specs) * parameter_count(specs[0].model) for specs in self.groups),
            engine=self.engines[0].name,
            isa=self.engines[0].isa,
            steps=self.config.training.steps,
            resumed_at=max(self.event, 0) if resumed else None,
            skipped=self.folder.skipped,
        )

    def _ticker(self, engine: Engine) -> Callable[[int], None]:
        before, total = self._work()

        def tick(done: int) -> None:
            # A signal may have come just before the engine cleared its flag: ask again.
            if self.signals.requested or self.failure is not None:
                engine.request_stop()
                return
            try:
                for callback in self.callbacks:
                    callback.on_tick(before + done, total)
            except BaseException as error:
                self.failure = error
                engine.request_stop()

        return tick

    def _request_stop(self) -> None:
        for engine in self.engines:
            engine.request_stop()

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            try:
                getattr(callback, hook)(*arguments)
            except BaseException as error:
                raise _CallbackError(error) from error


class _CallbackError(Exception):
    """Carries what a callback raised to the place where the run is saved."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
