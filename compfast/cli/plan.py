"""What will be trained, in one line, before it is: size, engine, memory and time."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compfast.cli.output import duration
from compfast.config import Config, MemberSpec
from compfast.config.labels import extent, listed
from compfast.engines import make_engine, resolve_engine
from compfast.engines.cores import usable_cores
from compfast.ensembles.grid import member_count
from compfast.ensembles.groups import member_groups
from compfast.ensembles.schedule import make_tables
from compfast.models.params import parameter_count
from compfast.tasks import make_task

# Parameters and both moments, held once by the engine and once more while a checkpoint is written.
_COPIES = 6
_MEASURED_SECONDS = 1.0  # spent on measuring, over all groups, beyond one step of each


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will be; time and memory are estimates."""

    members: int
    parameters: tuple[int, int]  # least and most of a member
    engine: str
    isa: str
    precision: str
    threads: int
    decided: str  # what set that number of threads; empty where the config did
    host: bool  # batches come from the task in Python; no engine draws them
    bytes: int
    seconds: float  # of the whole run, from steps measured on this machine just now

    def line(self, remaining: float = 1.0) -> str:
        """`remaining`: the share of the run that is still to be done."""
        least, most = self.parameters
        each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        seconds = self.seconds * remaining
        time_left = f"about {duration(seconds)}" if seconds >= 1 else duration(seconds)
        isa = f" ({self.isa})" if self.isa else ""
        decided = f" ({self.decided})" if self.decided else ""
        host = ", batches from the host" if self.host else ""
        return (
            f"{self.members} member{'s' if self.members > 1 else ''},"
            f" {each} parameters each, {self.engine} engine{isa},"
            f" {self.precision}, {self.threads} thread{'s' if self.threads > 1 else ''}{decided}"
            f"{host}, about {_size(self.bytes)}, {time_left}"
        )


def plan(config: Config) -> Plan:
    """Builds a few members of each shape, times some steps and scales; raises UsageError."""
    engine = resolve_engine(config.run.engine, config.run.device)
    groups = member_groups(config)
    cores = usable_cores()
    seconds, isa = 0.0, ""
    for specs in groups:
        each, isa = _member_step(engine, specs, config, _MEASURED_SECONDS / len(groups))
        seconds += each * len(specs) * specs[0].training.steps
    counts = [parameter_count(specs[0].model) for specs in groups]
    numbers = sum(count * len(specs) for count, specs in zip(counts, groups, strict=True))
    return Plan(
        members=sum(len(specs) for specs in groups),
        parameters=(min(counts), max(counts)),
        engine=engine,
        isa="" if isa == engine else isa,
        precision=config.training.precision,
        threads=config.run.threads or cores.count,
        decided="" if config.run.threads else cores.decided,
        host=any(make_task(specs[0].task).stream() is None for specs in groups),
        bytes=_resident() + 4 * _COPIES * numbers,
        seconds=seconds,
    )


def grid_line(config: Config) -> str:
    """The axes of the sweep, outermost first."""
    parts = []
    if config.sample:
        drawn = (f"{path} ({extent(values)})" for path, values in config.sample)
        parts.append(f"{config.points} points of {', '.join(drawn)}")
    for path, values in config.sweep:
        parts.append(f"{len(values)} of {path} ({listed(values)})")
    total = member_count(config)
    i, n = config.run.shard
    shard = "" if n == 1 else f"; this is shard {i}/{n}"
    return f"grid: {' x '.join(parts)} = {total} members{shard}"


def _member_step(
    engine: str, specs: Sequence[MemberSpec], config: Config, budget: float
) -> tuple[float, str]:
    """Seconds a member step takes when all threads are busy, and the engine's ISA."""
    threads = config.run.threads or usable_cores().count
    few = list(specs[:threads])
    made = make_engine(
        engine, few, make_tables(few), device=config.run.device, threads=config.run.threads
    )
    made.initialise()
    steps, elapsed = _timed(made.advance, 0, 1)
    last = specs[0].training.steps
    done = 1
    while elapsed < budget and done < last:
        # the first step also pays for page faults, so a longer stretch replaces it
        until = min(last, done + max(1, 2 * steps))
        steps, elapsed = _timed(made.advance, done, until)
        done = until
    return elapsed / steps / len(few), made.isa


def _timed(advance: object, done: int, until: int) -> tuple[int, float]:
    assert callable(advance)
    start = time.perf_counter()
    advance(until)
    return until - done, time.perf_counter() - start


def _resident() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{max(1, round(count / 2**20))} MiB"
