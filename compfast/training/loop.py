"""The training loop: from event to event, all members side by side.

Events are absolute steps: multiples of log_every, eval_every and checkpoint_every, snapshots, and
the end. All groups are advanced to the next event, then logged, examined and frozen, then saved.
What a member does at an event depends on its own row only, so where a run was stopped, how
often it was saved and who trains beside it changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import polars as pl

from compfast.config import Config, RunConfig
from compfast.config.paths import user_path
from compfast.config.settings import from_dict
from compfast.engines import make_engine, resolve_engine
from compfast.engines.base import DIVERGED, Engine, State
from compfast.ensembles.groups import Groups, member_groups
from compfast.ensembles.schedule import Tables, make_tables
from compfast.errors import AllDivergedError, Interrupted, OutOfMemory, UsageError
from compfast.models.params import parameter_count
from compfast.runs import checkpoints
from compfast.runs.checkpoints import Files, group_folder
from compfast.runs.description import describe, resumed_config
from compfast.runs.folder import RunFolder, default_out, refuse_used
from compfast.runs.layouts import exams_of, run_layouts, table_arrays
from compfast.runs.parents import starting
from compfast.runs.reading import Run, load
from compfast.solutions import DIVERGED as DIVERGED_LABEL
from compfast.storage import tensorfile
from compfast.training.callbacks import Callback, Outline, as_callbacks
from compfast.training.inherited import Inheritance, Taken
from compfast.training.interrupts import StopSignals
from compfast.training.progress import Progress, check_exam, conform, members_of, metrics_schema
from compfast.training.start import inherited, resolved


def train(
    config: Config | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    callbacks: Callback | Iterable[Callback] | None = (),
    resume: bool = False,
    start_from: str | PathLike[str] | None = None,
) -> Run:
    """Train an ensemble into the folder `out` (default: runs/TASK-UTC-RANDOM) and load it.

    `config` may be a mapping of sections; `callbacks` one or several objects with any of the
    hooks of compfast.Callback. Everything given is checked before anything is written.
    With `resume`, `out` is a run that was stopped: its own config counts, `config` may be left
    out or change [run] only (threads, cadence of checkpoints, snapshots, report, quiet); a
    finished run is returned untouched. With `start_from`, RUN or RUN@STEP, members start from
    those of another run, and a mapping, or no config, changes fields of that run's own config
    (the section `start` of a config says the same). Raises UsageError for what cannot be trained,
    StorageError, Interrupted after a signal, OutOfMemory, and AllDivergedError after a complete
    run in which no member stayed finite.
    """
    hooks = as_callbacks(callbacks)
    path = None if out is None else user_path(out)
    if not isinstance(config, Config | Mapping | None):
        raise UsageError(f"config is {config!r}; it must be a compfast.Config or a mapping")
    if start_from is not None:
        if resume:
            raise UsageError("a resumed run knows what it started from; start_from is not needed")
        config = starting(config, start_from)
    chosen = from_dict(config) if isinstance(config, Mapping) else config
    try:
        return _train(chosen, path, hooks, resume)
    except MemoryError as error:
        raise OutOfMemory from error


def _train(
    config: Config | None, out: Path | None, callbacks: Sequence[Callback], resume: bool
) -> Run:
    if resume:
        if out is None:
            raise UsageError("resume needs the folder of the run to go on with")
        return _resume(out, config, callbacks)
    if config is None:
        raise UsageError("train needs a config; only a resumed run brings its own")
    path = out if out is not None else default_out(config.task.name)
    refuse_used(path)
    config = resolved(config)
    groups = member_groups(config)
    check_snapshots(config, groups)
    for specs, exam in zip(groups, exams_of(groups), strict=True):
        check_exam(specs, exam)
    name = resolve_engine(config.run.engine, config.run.device)
    start = inherited(config)
    tables = _tables(groups, start)
    engines = _engines(name, groups, tables, config.run)
    taken = None if start is None else start.take(engines, groups, tables)
    with RunFolder.create(path, describe(config, name, engines[0].isa)) as folder:
        folder.write_tables(table_arrays(tables))
        loop = _Loop(folder, config, groups, engines, tables, callbacks)
        loop.begin(taken)
        return loop.run()


def hold(config: Config, path: Path, states: Sequence[State], origin: Mapping[str, Any]) -> Run:
    """A run that stands before its step 0 with these weights, a state a group, as if stopped there.

    `origin` goes into its config.json. Raises what `train` does for a config and a folder.
    """
    refuse_used(path)
    groups = member_groups(config)
    check_snapshots(config, groups)
    exams = exams_of(groups)
    for specs, exam in zip(groups, exams, strict=True):
        check_exam(specs, exam)
    name = resolve_engine(config.run.engine, config.run.device)
    tables = _tables(groups, None)
    engines = _engines(name, groups, tables, config.run)
    for engine, state in zip(engines, states, strict=True):
        engine.load(state)
    progress = [Progress.fresh(*part) for part in zip(groups, exams, tables, strict=True)]
    with RunFolder.create(path, {**describe(config, name, engines[0].isa), **origin}) as folder:
        folder.write_tables(table_arrays(tables))
        _Loop(folder, config, groups, engines, tables, ()).begin(Taken(-1, progress))
    return load(path)


def _resume(path: Path, given: Config | None, callbacks: Sequence[Callback]) -> Run:
    run = load(path)
    config = resumed_config(run, given)
    if "cluster" in run.info and not run.finished:
        raise UsageError(f"{path} was started on a cluster; go on with --cluster ray[:ADDRESS]")
    groups = member_groups(config)
    check_snapshots(config, groups)
    with RunFolder.reopen(path, run_layouts(groups)) as folder:
        checkpoint = folder.checkpoint
        if checkpoint is not None and checkpoint.state["finished"]:
            return load(path)
        start = inherited(config) if checkpoint is None else None
        tables = folder.read_tables(groups)
        if tables is None:
            tables = _tables(groups, start)
            folder.write_tables(table_arrays(tables))
        engines = _engines(run.info["engine"], groups, tables, config.run)
        if engines[0].isa != run.info["isa"]:
            where = "go on where it began"
            if run.info["engine"] == "native":
                where = f"set COMPFAST_ISA={run.info['isa']}"
            raise UsageError(
                f"{path} was trained with {run.info['isa']} instructions, this process would use"
                f" {engines[0].isa}, which gives other bits; {where}"
            )
        loop = _Loop(folder, config, groups, engines, tables, callbacks)
        if checkpoint is not None:
            loop.restore(checkpoint)
        else:
            loop.begin(None if start is None else start.take(engines, groups, tables))
        return loop.run(resumed=True)


@dataclass(slots=True)
class _Loop:
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


def _tables(groups: Groups, start: Inheritance | None) -> list[Tables]:
    moments_from = 0 if start is None else start.moments_from
    return [make_tables(specs, moments_from) for specs in groups]


def _engines(name: str, groups: Groups, tables: list[Tables], run: RunConfig) -> list[Engine]:
    pairs = zip(groups, tables, strict=True)
    return [make_engine(name, s, t, device=run.device, threads=run.threads) for s, t in pairs]


def check_snapshots(config: Config, groups: Groups) -> None:
    steps = max(specs[0].training.steps for specs in groups)
    late = [step for step in config.run.snapshots if step > steps]
    if late:
        raise UsageError(f"run.snapshots has step {late[0]}; training ends at step {steps}")
