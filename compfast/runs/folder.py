"""The writing side of a run folder: create it or take it up again, save, prune.

    config.json  tables.safetensors  members.parquet  metrics/part-*.parquet
    checkpoints/000123/  snapshots/00000500/  report/

A metrics part carries the number of the checkpoint that names it. Numbers are never used twice.
"""

from __future__ import annotations

import datetime
import io
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from compfast.ensembles.groups import Groups
from compfast.ensembles.schedule import Tables
from compfast.errors import StorageError, UsageError
from compfast.runs import checkpoints
from compfast.runs.checkpoints import Checkpoint, Layouts
from compfast.runs.forks import tables_ahead
from compfast.runs.layouts import read_tables
from compfast.runs.tables import read_parquet
from compfast.storage import durable, tensorfile
from compfast.storage.durable import Digest
from compfast.storage.tensorfile import Array

MERGE_AT = 32  # metrics parts that are merged into one
# What a run killed before its first file leaves, and what desktops and file systems put anywhere.
_UNCOUNTED = {".lock", ".config.json.tmp"}
_UNCOUNTED |= {".DS_Store", ".directory", "Thumbs.db", "desktop.ini", "lost+found"}


class RunFolder:
    """A run folder under this process's lock; use as a context manager."""

    def __init__(self, path: Path, lock: durable.Lock) -> None:
        self.path = path
        self.skipped: tuple[str, ...] = ()
        self._lock = lock
        self._fixed: dict[str, Digest] = {}
        self._parts: dict[str, Digest] = {}
        self._kept: list[Checkpoint] = []
        self._next = 1

    @classmethod
    def create(cls, path: Path, document: Mapping[str, Any]) -> RunFolder:
        """A new run: takes an absent or empty folder and writes config.json.

        Raises UsageError where there is something already, and in a forked process that polars
        would never answer; StorageError where writing fails.
        """
        tables_ahead()
        refuse_used(path)
        durable.make_root(path)
        folder = cls(path, durable.Lock(path))
        try:
            refuse_used(path)
            content = [durable.json_bytes(document)]
            folder._fixed["config.json"] = durable.replace_file(path / "config.json", content)
            folder._make_rooms()
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def reopen(cls, path: Path, layouts: Layouts) -> RunFolder:
        """A run to go on with, from `checkpoint` (its newest that verifies) or from step 0.

        Raises StorageError where checkpoints stand but none of them verifies, UsageError as
        `create` for a forked process.
        """
        tables_ahead()
        folder = cls(path, durable.Lock(path))
        try:
            folder._take_up(layouts)
        except BaseException:
            folder.close()
            raise
        return folder

    @property
    def checkpoint(self) -> Checkpoint | None:
        return self._kept[-1] if self._kept else None

    def write_tables(self, tables: Mapping[str, Array]) -> None:
        """Store the numbers that are computed once."""
        path = self.path / "tables.safetensors"
        self._fixed[path.name] = durable.replace_file(path, tensorfile.chunks(tables))

    def read_tables(self, groups: Groups) -> list[Tables] | None:
        """The stored numbers; None where the run was stopped before it wrote them."""
        path = self.path / "tables.safetensors"
        if not path.exists():
            return None
        self._fixed[path.name] = durable.digest_of(path)
        return read_tables(path, groups)

    def write_members(self, members: pl.DataFrame) -> None:
        durable.replace_file(self.path / "members.parquet", [parquet_bytes(members)])

    def save(
        self,
        files: Mapping[str, Mapping[str, Array]],
        state: Mapping[str, Any],
        rows: pl.DataFrame,
        members: pl.DataFrame,
    ) -> Path:
        """Close the metrics part with `rows` and write a checkpoint that names it."""
        number, self._next = self._next, self._next + 1
        parts, frames = dict(self._parts), [rows]
        if len(parts) >= MERGE_AT:
            frames = [read_parquet(self.path / "metrics" / name) for name in parts] + frames
            parts = {}
        try:
            merged = pl.concat(frames)
        except pl.exceptions.PolarsError as error:
            raise StorageError(f"{self.path}/metrics holds parts with other columns") from error
        if merged.height:
            name = f"part-{number:06d}.parquet"
            path = self.path / "metrics" / name
            parts[name] = durable.replace_file(path, [parquet_bytes(merged)])
        self.write_members(members)
        outside = checkpoints.outside_entries(parts, self._fixed)
        final = self.path / "checkpoints" / f"{number:06d}"
        checkpoints.write(final, files, state, outside)
        self._parts = parts
        self._kept = [*self._kept, Checkpoint(final, number, dict(state), parts)]
        self._kept = self._kept[-checkpoints.KEEP :]
        checkpoints.prune(self.path, self._kept)
        return final

    def snapshot(self, step: int, files: Mapping[str, Mapping[str, Array]]) -> Path:
        """Keep these parameters for ever; a whole one from before a kill stays."""
        final = self.path / "snapshots" / f"{step:08d}"
        if final.exists():
            layouts = {name: tensorfile.layout_of(arrays) for name, arrays in files.items()}
            try:
                return checkpoints.verify(final, layouts).path
            except StorageError:
                durable.retire_folder(final)
        return checkpoints.write(final, files, {"step": step})

    def close(self) -> None:
        self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _take_up(self, layouts: Layouts) -> None:
        self._make_rooms()
        found, self.skipped = checkpoints.newest(self.path, layouts)
        if found is None and self.skipped:
            raise StorageError(
                f"no checkpoint of {self.path} can be used ({'; '.join(self.skipped)});"
                " remove its checkpoints folder to start again from step 0"
            )
        for room in ("checkpoints", "metrics", "snapshots"):
            for path in (self.path / room).iterdir():
                if path.name.startswith("."):
                    durable.discard(path)
        numbers = [int(path.name) for path in checkpoints.numbered(self.path / "checkpoints")]
        self._next = max(numbers, default=0) + 1
        if found is not None:
            self._kept, self._parts = [found], dict(found.parts)
        checkpoints.remove_unnamed_parts(self.path, set(self._parts))
        self._fixed["config.json"] = durable.digest_of(self.path / "config.json")

    def _make_rooms(self) -> None:
        for room in ("metrics", "checkpoints", "snapshots", "report"):
            durable.make_folder(self.path / room)
        durable.sync_folder(self.path)


def refuse_used(path: Path) -> None:
    """Raise UsageError unless `path` is absent or an empty folder."""
    with durable.guarded("read", path):
        if not path.exists():
            return
        if not path.is_dir():
            raise UsageError(f"--out {path} is a file; it must be a new or an empty folder")
        if {entry.name for entry in path.iterdir()} - _UNCOUNTED:
            raise UsageError(
                f"--out {path} is not empty; give a new or an empty folder, or use --resume {path}"
            )


def default_out(task: str) -> Path:
    """Where a run goes when nobody says: runs/TASK-UTC-RANDOM in the working folder."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return Path("runs").absolute() / f"{task}-{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def parquet_bytes(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()
