"""Tables of a run folder, which may come from anybody: believed once they fit the configuration.

The number of rows is read from a Parquet file's own index and compared with what the
configuration allows before anything of the size of its data is taken.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from compfast.config import Config
from compfast.config.plugins import task_class
from compfast.ensembles.grid import member_count, shard_range, sweep_size
from compfast.ensembles.table import column_of
from compfast.errors import StorageError
from compfast.runs.forks import tables_ahead
from compfast.solutions import DIVERGED, MIXED, OTHER, UNDERFIT
from compfast.storage import durable

_PLAIN = (pl.Int64, pl.Float64, pl.String, pl.Boolean)
_NUMBERS = ("loss", "grad_norm", "lr")


def read_parquet(path: Path, most: int | None = None) -> pl.DataFrame:
    """A table of at most `most` rows; raises StorageError where it is missing or damaged.

    And UsageError in a forked process that polars would never answer.
    """
    tables_ahead()
    content = durable.read_bytes(path)
    try:
        if most is not None:
            count = int(pl.scan_parquet(io.BytesIO(content)).select(pl.len()).collect().item())
            if count > most:
                raise StorageError(f"{path} has {count} rows; the run has at most {most}")
        return pl.read_parquet(io.BytesIO(content))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        if isinstance(error, StorageError):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StorageError(f"{path} is not a readable Parquet file: {reason}") from error


def read_members(path: Path, config: Config) -> pl.DataFrame:
    """The members table of a run; raises StorageError unless it is one of this configuration."""
    members = _members(config)
    frame = read_parquet(path, len(members))
    if len(frame) != len(members):
        raise StorageError(f"{path} has {len(frame)} rows; the run has {len(members)} members")
    _check_types(path, frame)
    _check_labels(path, frame, config)
    for name, wanted in _columns(config, members):
        if name not in frame or frame[name].to_list() != wanted:
            raise StorageError(f"{path}: its column {name} is not what the configuration says")
    return frame


def read_metrics(paths: list[Path], config: Config) -> pl.DataFrame:
    """The long table of a run, sorted; raises StorageError unless it fits this configuration."""
    members, training = _members(config), config.training
    # A window's row, an exam's row, and one when a member stops or diverges.
    events = training.steps // training.log_every + training.steps // training.eval_every + 4
    left, frames = len(members) * events, []
    for path in paths:
        frame = read_parquet(path, left)
        left -= len(frame)
        _check_types(path, frame)
        _check_labels(path, frame, config)
        for name in ("member", "step"):
            if name not in frame or frame[name].dtype != pl.Int64 or frame[name].has_nulls():
                raise StorageError(f"{path}: its column {name} does not hold whole numbers")
        if any(name not in frame or frame[name].dtype != pl.Float64 for name in _NUMBERS):
            raise StorageError(f"{path} lacks a column of numbers: {', '.join(_NUMBERS)}")
        if not frame["member"].is_between(members.start, members.stop - 1).all():
            raise StorageError(f"{path} has rows of members that are not in the run")
        frames.append(frame)
    if any(frame.schema != frames[0].schema for frame in frames):
        raise StorageError(f"{paths[0].parent} holds parts with different columns")
    return pl.concat(frames).sort("member", "step")


def labels_of(config: Config) -> set[str]:
    """Every verdict that a member of this configuration may get."""
    return {*task_class(config.task.name).candidates, MIXED, OTHER, UNDERFIT, DIVERGED}


def _members(config: Config) -> range:
    return shard_range(member_count(config), *config.run.shard)


def _columns(config: Config, members: range) -> Iterator[tuple[str, list[Any]]]:
    """What tells members apart: column and values, for axes of plain values (None is derived)."""
    yield "member", list(members)
    index = np.arange(members.start, members.stop)
    axes = {**dict(config.sample), **dict(config.sweep)}
    stride = sweep_size(config)
    for path, values in axes.items():
        if path not in dict(config.sample):
            stride //= len(values)
        if not any(value is None or isinstance(value, tuple) for value in values):
            yield column_of(path), [values[i] for i in index // stride % len(values)]
    for path, value in (("init.gamma", config.init.gamma), ("seed", 0)):
        if path not in axes:
            yield column_of(path), [value] * len(members)


def _check_types(path: Path, frame: pl.DataFrame) -> None:
    for name, kind in frame.schema.items():
        if kind not in _PLAIN:
            raise StorageError(f"{path}: its column {name!r} holds {kind}, which no run writes")


def _check_labels(path: Path, frame: pl.DataFrame, config: Config) -> None:
    kind = frame.schema.get("verdict")
    if kind != pl.String:
        raise StorageError(f"{path} has no column of verdicts")
    odd = set(frame["verdict"].drop_nulls().unique().to_list()) - labels_of(config)
    if odd:
        raise StorageError(f"{path} has a verdict that no member can get: {min(odd)!r}")
