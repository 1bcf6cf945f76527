"""How many threads this process can run at once: the cores that it may use, not the machine's.

Of these the smallest counts: the machine's cores; the affinity mask (taskset, cpusets); the CPU
quota of the control group and of all above it, in version 2 and version 1; SLURM_CPUS_PER_TASK.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SLURM = "SLURM_CPUS_PER_TASK"
_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Cores:
    """`count` cores; `decided` says in a few words what set that number."""

    count: int
    decided: str


def usable_cores(root: Path = _ROOT) -> Cores:
    """At least 1. `root` stands for / in the paths of /proc and /sys.

    A file that is missing or makes no sense sets no limit, and a SLURM_CPUS_PER_TASK that is no
    positive number of CPUs is named in `decided` and sets none.
    """
    found = [Cores(os.cpu_count() or 1, "all cores")]
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        found.append(Cores(len(os.sched_getaffinity(0)), "affinity"))
    quota = cpu_quota(root)
    if quota is not None:
        # A thread more than the quota pays for would stop all of them in each period, so it is
        # rounded down.
        found.append(Cores(max(1, math.floor(quota)), f"cgroup quota of {quota:g} CPUs"))
    note, given = "", os.environ.get(_SLURM)
    if given is not None and re.fullmatch("[0-9]{1,9}", given) and int(given):
        found.append(Cores(int(given), _SLURM))
    elif given is not None:
        note = f"; {_SLURM} is {given!r}, which is no number of CPUs"
    least = min(found, key=lambda cores: cores.count)  # the first of equals
    return Cores(least.count, least.decided + note)


def cpu_quota(root: Path = _ROOT) -> float | None:
    """CPUs that this process's control groups let it use, the least of all levels; None: no limit.

    Groups are looked for where systems mount them: /sys/fs/cgroup, its folders unified, cpu and
    cpu,cpuacct. A container may see its own group there as the topmost one, under no path.
    """
    top, quotas = root / "sys/fs/cgroup", []
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            quotas += [
                _quota_v2(level)
                for mount in (top, top / "unified")
                for level in _levels(mount, path)
            ]
        elif "cpu" in controllers.split(","):
            quotas += [
                _quota_v1(level)
                for mount in dict.fromkeys((top / controllers, top / "cpu"))
                for level in _levels(mount, path)
            ]
    return min((quota for quota in quotas if quota is not None), default=None)


def _levels(mount: Path, path: str) -> Iterator[Path]:
    """The folder of a group and of every group above it."""
    parts = [part for part in path.split("/") if part]
    if ".." in parts:  # outside of what this process sees of the tree
        parts = []
    for length in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:length])


def _quota_v2(group: Path) -> float | None:
    """cpu.max: "QUOTA PERIOD" in microseconds, or "max PERIOD"."""
    return _ratio(*" ".join(_lines(group / "cpu.max")).split()[:2])


def _quota_v1(group: Path) -> float | None:
    files = ("cpu.cfs_quota_us", "cpu.cfs_period_us")  # a quota of -1 is none
    return _ratio(*("".join(_lines(group / name)).strip() for name in files))


def _ratio(quota: str = "", period: str = "") -> float | None:
    try:
        spent, of = int(quota), int(period)
    except ValueError:
        return None
    return spent / of if spent > 0 and of > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):  # ValueError: not text
        return []
