"""Another run as a beginning: which of its checkpoints or snapshots, and what that holds.

A snapshot has parameters only. Which members had stopped before it is known from the newest
checkpoint, where they stand as they stopped.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compfast.config import Config, MemberSpec, RunConfig, StartConfig
from compfast.config.paths import user_path
from compfast.config.settings import Settings, apply, from_dict, to_dict
from compfast.engines.base import ACTIVE, DIVERGED, Int64
from compfast.errors import StorageError, UsageError
from compfast.runs import checkpoints
from compfast.runs.checkpoints import group_folder
from compfast.runs.layouts import read_tables, run_layouts, snapshot_layouts
from compfast.runs.reading import Run, load
from compfast.storage import durable, tensorfile
from compfast.storage.tensorfile import Array

Status = NDArray[np.uint8]

DERIVED_SIZES = ("vocab_size", "max_positions")  # of a model, from its task where not given


class Parent:
    """One checkpoint or snapshot of a run; nothing of it is verified before `verify`."""

    def __init__(self, run: Run, folder: Path, event: int) -> None:
        self.run = run
        self.folder = folder
        self.event = event  # the last step that was settled; -1: none yet
        self.snapshot = folder.parent.name == "snapshots"
        newest = checkpoints.numbered(run.path / "checkpoints")[-1:] if self.snapshot else [folder]
        self._book = newest[0] if newest else None  # the checkpoint that tells how members stood

    @property
    def step(self) -> int:
        return max(0, self.event)

    def __str__(self) -> str:
        return f"{self.run.path} at step {self.step}"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest, which holds those of all files."""
        return durable.digest_of(self.folder / "manifest.json").sha256

    @cached_property
    def specs(self) -> dict[int, MemberSpec]:
        return {spec.member: spec for group in self.run.groups for spec in group}

    @cached_property
    def moments_from(self) -> int:
        """The step at which the moments were zero."""
        if self.snapshot:
            return self.step
        tables = read_tables(self.run.path / "tables.safetensors", self.run.groups)
        return tables[0].moments_from

    def standing(self, specs: Sequence[MemberSpec]) -> tuple[Int64, Status]:
        """Steps done [M] and status [M] of the members of these labels."""
        count = len(specs)
        step, status = np.full(count, self.step, np.int64), np.full(count, ACTIVE, np.uint8)
        if self._book is None:
            return step, status
        found = self._rows(self._book, "optimizer", specs, ("step", "status"))
        if not self.snapshot:
            return found["step"], found["status"]
        # The step that failed comes after the snapshot of its number, a stop rule before it.
        late = found["step"] - (found["status"] != DIVERGED) >= self.step
        stopped = (found["status"] != ACTIVE) & ~late
        return np.where(stopped, found["step"], step), np.where(stopped, found["status"], status)

    def params(self, specs: Sequence[MemberSpec]) -> dict[str, Array]:
        return self._rows(self.folder, "params", specs)

    def moment(self, which: str, specs: Sequence[MemberSpec]) -> dict[str, Array]:
        """exp_avg or exp_avg_sq of a checkpoint by the names of `params`."""
        names = [f"{which}.{name}" for name in checkpoints.parameter_layout(specs)]
        found = self._rows(self.folder, "optimizer", specs, names)
        return {name.removeprefix(f"{which}."): array for name, array in found.items()}

    def progress(self, specs: Sequence[MemberSpec], names: Collection[str]) -> dict[str, Array]:
        """Arrays of compfast.training.progress, for members whose arrays have one shape."""
        assert self._book is not None
        return self._rows(self._book, "progress", specs, names)

    def verify(self) -> None:
        """Raise StorageError unless every file of it is what its manifest says."""
        try:
            if self.snapshot:
                checkpoints.verify(self.folder, snapshot_layouts(self.run.groups))
            if self._book is not None:
                layouts = run_layouts(self.run.groups)
                checkpoints.verify(self._book, layouts, self.run.path, with_metrics=False)
        except StorageError as error:
            gone = not all(folder.exists() for folder in (self.folder, self._book) if folder)
            why = "it is being trained and removed this checkpoint" if gone else str(error)
            raise StorageError(f"nothing can start from {self}: {why}") from error

    def _rows(
        self,
        folder: Path,
        file: str,
        specs: Sequence[MemberSpec],
        names: Collection[str] | None = None,
    ) -> dict[str, Array]:
        """Rows of a file of every group, put together in the order of `specs`."""
        rows: dict[int, list[tuple[int, int]]] = {}  # group -> (place in specs, row)
        for place, spec in enumerate(specs):
            group, row = self._places[spec.member]
            rows.setdefault(group, []).append((place, row))
        whole: dict[str, Array] = {}
        for group, pairs in rows.items():
            places, own = np.array(pairs).T
            span = range(own.min(), own.max() + 1)
            path = folder / group_folder(group) / f"{file}.safetensors"
            for name, array in tensorfile.read_rows(path, span, names).items():
                if name not in whole:
                    whole[name] = np.empty((len(specs), *array.shape[1:]), array.dtype)
                whole[name][places] = array[own - span.start]
        return whole

    @cached_property
    def _places(self) -> dict[int, tuple[int, int]]:
        groups = enumerate(self.run.groups)
        return {s.member: (g, r) for g, group in groups for r, s in enumerate(group)}


def find(start: StartConfig) -> Parent:
    """What `start` names; raises UsageError where it is not there, StorageError if unreadable.

    With a digest, exactly what was found before.
    """
    assert start.run is not None
    run = load(start.run)
    if start.step is None:
        return _newest(run)
    found = [place for place in _checkpoints(run) if place.step == start.step]
    snapshot = run.path / "snapshots" / f"{start.step:08d}"
    if start.step in run.snapshots:
        found.append(Parent(run, snapshot, start.step))
    if not found:
        raise UsageError(f"{run.path} has nothing of step {start.step}; it has {_places(run)}")
    for place in found:
        if start.digest in (None, place.digest):
            return place
    raise StorageError(
        f"{run.path} has another step {start.step} than this run started from: the digest of its"
        " manifest.json has changed"
    )


def _newest(run: Run) -> Parent:
    folders = checkpoints.numbered(run.path / "checkpoints")
    if not folders:
        others = f"; {run.path}@STEP starts from {_places(run)}" if run.snapshots else ""
        raise UsageError(f"{run.path} has no checkpoint yet to start from{others}")
    return Parent(run, folders[-1], checkpoints.event_of(folders[-1]))


def _checkpoints(run: Run) -> list[Parent]:
    """The checkpoints of a run that tell their step, oldest first."""
    found = []
    for folder in checkpoints.numbered(run.path / "checkpoints"):
        try:
            found.append(Parent(run, folder, checkpoints.event_of(folder)))
        except StorageError:  # not one that can be asked for by its step
            continue
    return found


def _places(run: Run) -> str:
    steps = sorted({place.step for place in _checkpoints(run)})
    said = [("checkpoints", steps), ("snapshots", run.snapshots)]
    parts = [f"{what} of steps {', '.join(map(str, of))}" for what, of in said if of]
    return " and ".join(parts) or "no checkpoint and no snapshot"


def parse_start(given: str | os.PathLike[str]) -> tuple[str, int | None]:
    """(RUN, STEP) of "RUN@STEP", or (RUN, None); a run folder's own name may have an @ in it."""
    text = str(user_path(given))
    run, _, step = text.rpartition("@")
    if (Path(text) / "config.json").is_file() or not re.fullmatch("[0-9]{1,16}", step):
        return text, None
    return run, int(step)


def settings_of(run: str) -> Settings:
    """The settings that a run starts from with its members: not where itself began, nor `quiet`."""
    data = to_dict(load(run).config)
    data.pop("start", None)
    data["run"].pop("quiet")  # how a process talks, not the run
    return data


def starting(config: Config | Mapping[str, Any] | None, given: str | os.PathLike[str]) -> Config:
    """A config that starts from RUN[@STEP]: a mapping changes fields of that run's own config."""
    run, step = parse_start(given)
    if isinstance(config, Config):
        start = dataclasses.replace(config.start, run=run, step=step)
        return dataclasses.replace(config, start=start)
    place = {"start": {"run": run, "step": step}}
    return from_dict(apply(apply(settings_of(run), config or {}), place))


def reachable(config: Config) -> RunConfig:
    """[run] without the snapshots that lie before the step that members go on from."""
    if config.start.step is None or config.start.mode == "restart":
        return config.run
    kept = tuple(step for step in config.run.snapshots if step > config.start.step)
    return dataclasses.replace(config.run, snapshots=kept)


def as_started(stored: Config, given: Config) -> Config:
    """`given` with what was filled in when the stored run started, where it asks for the same."""
    own, start = stored.start, given.start
    if own.run is None or (start.run, start.mode) != (own.run, own.mode):
        return given
    if start.step in (None, own.step) and start.digest in (None, own.digest):
        start = own
    sizes = {
        name: getattr(stored.model, name)
        for name in DERIVED_SIZES
        if getattr(given.model, name) is None
    }
    return dataclasses.replace(given, start=start, model=dataclasses.replace(given.model, **sizes))
