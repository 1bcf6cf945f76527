"""Begin a run, or go on with a stopped one: everything is checked before anything is written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from compfast.config import Config, RunConfig
from compfast.config.paths import user_path
from compfast.config.settings import from_dict
from compfast.engines import make_engine, resolve_engine
from compfast.engines.base import Engine
from compfast.ensembles.groups import Groups, member_groups
from compfast.ensembles.schedule import Tables, make_tables
from compfast.errors import OutOfMemory, UsageError
from compfast.runs.description import describe, resumed_config
from compfast.runs.folder import RunFolder, default_out, refuse_used
from compfast.runs.layouts import exams_of, run_layouts, table_arrays
from compfast.runs.parents import starting
from compfast.runs.reading import Run, load
from compfast.training.callbacks import Callback, as_callbacks
from compfast.training.inherited import Start
from compfast.training.loop import Loop
from compfast.training.progress import check_exam
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
    config = resolved(config)
    with begun(config, path, inherited(config), callbacks=callbacks) as loop:
        return loop.run()


@contextlib.contextmanager
def begun(
    config: Config,
    path: Path,
    start: Start | None,
    said: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Iterator[Loop]:
    """A new run in an unused folder, its members at their beginning; None: their own.

    `said` goes into its config.json. Everything is checked before anything is written.
    """
    refuse_used(path)
    groups = member_groups(config)
    check_snapshots(config, groups)
    for specs, exam in zip(groups, exams_of(groups), strict=True):
        check_exam(specs, exam)
    name = resolve_engine(config.run.engine, config.run.device)
    tables = _tables(groups, start)
    engines = _engines(name, groups, tables, config.run)
    taken = None if start is None else start.take(engines, groups, tables)
    about = {**describe(config, name, engines[0].isa), **(said or {})}
    with RunFolder.create(path, about) as folder:
        folder.write_tables(table_arrays(tables))
        loop = Loop(folder, config, groups, engines, tables, callbacks)
        loop.begin(taken)
        yield loop


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
        loop = Loop(folder, config, groups, engines, tables, callbacks)
        if checkpoint is not None:
            loop.restore(checkpoint)
        else:
            loop.begin(None if start is None else start.take(engines, groups, tables))
        return loop.run(resumed=True)


def _tables(groups: Groups, start: Start | None) -> list[Tables]:
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
