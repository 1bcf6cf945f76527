"""Joining shards: run folders of one sweep, each with a range of its members, become one run.

Every number of a member depends on its own row only, so the joined members, metrics, parameters
and moments are, bit for bit, those of one process that trained them all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from compfast.config import Config
from compfast.config.paths import user_path
from compfast.engines.base import State
from compfast.ensembles.grid import member_count, shard_range
from compfast.ensembles.groups import Groups, member_groups
from compfast.ensembles.schedule import Tables
from compfast.errors import StorageError, UsageError
from compfast.runs import checkpoints
from compfast.runs.checkpoints import Checkpoint, group_folder
from compfast.runs.description import describe, difference
from compfast.runs.folder import RunFolder
from compfast.runs.layouts import (
    SHARED_TABLES,
    exams_of,
    read_tables,
    run_layouts,
    snapshot_layouts,
    table_arrays,
)
from compfast.runs.reading import Run, load
from compfast.runs.tables import read_metrics
from compfast.storage import durable, tensorfile
from compfast.storage.tensorfile import Array
from compfast.training.progress import Progress, conform, members_of, metrics_schema

# Fields of [run] in which parts may differ: none of them changes what is merged.
_OWN = ("engine", "device", "threads", "checkpoint_every", "report_every", "shard", "quiet")


@dataclass(frozen=True, slots=True)
class Part:
    """A finished shard whose files were all found to be what its manifest says."""

    run: Run
    members: range
    checkpoint: Checkpoint


def merge(parts: Iterable[str | Path], out: str | Path) -> Run:
    """Join finished shards (in any order) into the run folder `out` and load it.

    Merging the same parts into `out` again changes nothing, or ends a merge that was cut off.
    Raises UsageError for parts that leave a member out or hold one twice, for parts of different
    configs, engines, instruction sets or versions, for unfinished ones, and where `out` holds
    something else; StorageError for damaged ones.
    """
    given = [parts] if isinstance(parts, (str, PathLike)) else parts
    found = verified_parts([load(path) for path in given])
    config, document = _description(found)
    path = user_path(out)
    if not (path / "config.json").is_file():
        with RunFolder.create(path, document) as folder:
            join(folder, config, found)
        return load(path)
    if load(path).info.get("parts") != document["parts"]:
        raise UsageError(f"{path} holds another run; give a new or an empty folder")
    with RunFolder.reopen(path, run_layouts(member_groups(config))) as folder:
        if folder.checkpoint is None:
            join(folder, config, found)
    return load(path)


def verified_parts(runs: Sequence[Run]) -> list[Part]:
    """The parts in member order, once it is sure that they make up one whole."""
    if not runs:
        raise UsageError("there is nothing to merge; give the run folders of all shards")
    ranges = [shard_range(member_count(r.config), *r.config.run.shard) for r in runs]
    ordered = sorted(zip(runs, ranges, strict=True), key=lambda pair: (pair[1].start, pair[1].stop))
    first = ordered[0][0]
    for run, _ in ordered[1:]:
        _same_sweep(first, run)
    expected, total = 0, member_count(first.config)
    for run, members in ordered:
        if members.start < expected:
            raise UsageError(f"member {members.start} of {run.path} is in another part too")
        if members.start > expected:
            break
        expected = members.stop
    if expected < total:
        raise UsageError(f"no part holds member {expected}; the sweep has {total}")
    return [_verified(run, members) for run, members in ordered]


def join(folder: RunFolder, config: Config, parts: Sequence[Part]) -> None:
    """Write everything that the parts hold into the folder of the whole, one checkpoint."""
    groups = member_groups(config)
    sources = _sources(groups, parts)
    tables = _tables(parts, sources)
    folder.write_tables(table_arrays(tables))
    roots = [part.checkpoint.path for part in parts]
    files = _Gathered(list(run_layouts(groups)), groups, sources, roots)
    progress = [
        Progress.fresh(*group) for group in zip(groups, exams_of(groups), tables, strict=True)
    ]
    for g, group in enumerate(progress):
        optimizer = files[f"{group_folder(g)}/optimizer.safetensors"]
        state = State({}, {}, {}, optimizer["step"], optimizer["status"])
        group.restore(files[f"{group_folder(g)}/progress.safetensors"], state)
    for step in config.run.snapshots:
        snapshots = [_snapshot(part, step) for part in parts]
        folder.snapshot(step, _Gathered(list(snapshot_layouts(groups)), groups, sources, snapshots))
    schema = metrics_schema(progress)
    rows = pl.concat([conform(frame, schema) for part in parts for frame in _metrics(part)])
    event = max(part.checkpoint.state["event"] for part in parts)
    state_json = {"event": event, "finished": True}
    folder.save(files, state_json, rows.sort("member", "step"), members_of(progress))


@dataclass(frozen=True, slots=True)
class _Source:
    """Rows [0, len(rows)) of one group of a part are these rows of a group of the whole."""

    part: int
    group: int  # its index in the part
    rows: np.ndarray[Any, Any]


class _Gathered(Mapping[str, Mapping[str, Array]]):
    """Files of the whole, each put together from the parts' when it is asked for.

    Never more than one is in memory, beside one of one part.
    """

    def __init__(
        self,
        names: Sequence[str],
        groups: Groups,
        sources: Sequence[Sequence[_Source]],
        roots: Sequence[Path],
    ) -> None:
        self._names = names
        self._groups = groups
        self._sources = sources
        self._roots = roots

    def __getitem__(self, name: str) -> dict[str, Array]:
        folder, _, file = name.partition("/")
        group = int(folder.rpartition("-")[2])
        whole: dict[str, Array] = {}
        for source in self._sources[group]:
            path = self._roots[source.part] / group_folder(source.group) / file
            for key, array in tensorfile.read(path).items():
                if key not in whole:
                    shape = (len(self._groups[group]), *array.shape[1:])
                    whole[key] = np.empty(shape, array.dtype)
                whole[key][source.rows] = array
        return whole

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _sources(groups: Groups, parts: Sequence[Part]) -> list[list[_Source]]:
    """For each group of the whole, where its rows are."""
    places = {s.member: (g, r) for g, specs in enumerate(groups) for r, s in enumerate(specs)}
    sources: list[list[_Source]] = [[] for _ in groups]
    for p, part in enumerate(parts):
        for g, specs in enumerate(part.run.groups):
            rows = np.array([places[spec.member][1] for spec in specs])
            sources[places[specs[0].member][0]].append(_Source(p, g, rows))
    return sources


def _tables(parts: Sequence[Part], sources: Sequence[Sequence[_Source]]) -> list[Tables]:
    """The whole's tables: schedules as every part has them, `std` by rows."""
    stored = [read_tables(part.run.path / "tables.safetensors", part.run.groups) for part in parts]
    whole: list[Tables] = []
    for group in sources:
        own = [stored[source.part][source.group] for source in group]
        for name in SHARED_TABLES:
            arrays = [getattr(table, name) for table in own]
            for source, array in zip(group, arrays, strict=True):
                if array.tobytes() != arrays[0].tobytes():
                    raise UsageError(
                        f"{parts[source.part].run.path} was trained with another table {name}"
                        f" than {parts[group[0].part].run.path}"
                    )
        std = np.empty((sum(len(s.rows) for s in group), own[0].std.shape[1]))
        for source, table in zip(group, own, strict=True):
            std[source.rows] = table.std
        whole.append(dataclasses.replace(own[0], std=std))
    return whole


def _verified(run: Run, members: range) -> Part:
    found, skipped = checkpoints.newest(run.path, run_layouts(run.groups))
    if found is None and skipped:
        raise StorageError(f"{run.path} cannot be merged: {'; '.join(skipped)}")
    if found is None or not found.state["finished"]:
        raise UsageError(f"{run.path} is not finished; go on with --resume {run.path}")
    return Part(run, members, found)


def _snapshot(part: Part, step: int) -> Path:
    folder = part.run.path / "snapshots" / f"{step:08d}"
    return checkpoints.verify(folder, snapshot_layouts(part.run.groups)).path


def _metrics(part: Part) -> list[pl.DataFrame]:
    paths = [part.run.path / "metrics" / name for name in part.checkpoint.parts]
    return [read_metrics(paths, part.run.config)] if paths else []


def _same_sweep(first: Run, run: Run) -> None:
    """Raise UsageError unless both are ranges of one sweep, trained to the same bits."""
    change = difference(first.config, run.config)
    if change is not None:
        raise UsageError(f"{first.path} and {run.path} are of different configs: {change}")
    for field in dataclasses.fields(run.config.run):
        one, other = (getattr(r.config.run, field.name) for r in (first, run))
        if field.name not in _OWN and one != other:
            raise UsageError(
                f"{first.path} and {run.path} are of different configs:"
                f" [run] {field.name} {one}, not {other}"
            )
    for name in ("engine", "isa"):
        if first.info[name] != run.info[name]:
            raise UsageError(
                f"{first.path} was trained with {name} {first.info[name]}, {run.path} with"
                f" {run.info[name]}, which gives other bits"
            )
    # The native engine uses no torch; its bits hang on the compfast that was built.
    for name in ("compfast", "torch") if run.info["engine"] == "eager" else ("compfast",):
        one, other = (r.info["versions"].get(name) for r in (first, run))
        if one != other:
            raise UsageError(
                f"{first.path} was trained with {name} {one}, {run.path} with {other},"
                " which may give other bits"
            )


def _description(parts: Sequence[Part]) -> tuple[Config, dict[str, Any]]:
    """The whole's config and config.json, which also names what it was made of."""
    first = parts[0].run
    own = dataclasses.replace(first.config.run, shard=(0, 1))
    config = dataclasses.replace(first.config, run=own)
    document = describe(config, first.info["engine"], first.info["isa"])
    document |= {name: first.info.get(name) for name in ("versions", "commit")}
    document["parts"] = [
        {
            "members": [part.members.start, part.members.stop],
            "commit": part.run.info.get("commit"),
            "created": part.run.info["created"],
            "seal": durable.read_json(part.checkpoint.path / "manifest.json")["seal"],
        }
        for part in parts
    ]
    return config, document
