"""What config.json says of a run, and which changes a resumption may make to it."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from compfast.config import Axis, Config
from compfast.config.labels import brief
from compfast.config.settings import AXES, to_dict
from compfast.errors import UsageError
from compfast.runs.checkpoints import FORMAT
from compfast.runs.parents import as_started, reachable
from compfast.runs.reading import Run

# Fields of [run] that a resumption may change: none of them changes a bit of a member.
RESUMABLE = ("threads", "checkpoint_every", "snapshots", "report_every", "quiet")


def describe(config: Config, engine: str, isa: str) -> dict[str, Any]:
    """The content of config.json."""
    versions = {name: installed_version(name) for name in ("compfast", "numpy", "torch")}
    return {
        "format": FORMAT,
        "config": to_dict(config),
        "engine": engine,
        "isa": isa,
        "versions": {**versions, "python": platform.python_version()},
        "commit": source_commit(),
        "command": list(sys.argv),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def resumed_config(run: Run, given: Config | None) -> Config:
    """The stored config with what a resumption may change; UsageError for a contradiction."""
    stored = run.config
    if given is None:
        return stored
    change = difference(stored, as_started(stored, given))
    if change is not None:
        raise UsageError(f"{run.path} was started with another {change}")
    for name, allowed in (
        ("engine", ("auto", run.info["engine"])),
        ("device", ("auto", stored.run.device)),
        ("shard", (stored.run.shard,)),
    ):
        value = getattr(given.run, name)
        if value not in allowed:
            raise UsageError(
                f"{run.path} was started with {name} {allowed[-1]}; it cannot go on with {value}"
            )
    changes = {name: getattr(given.run, name) for name in RESUMABLE}
    changed = dataclasses.replace(stored, run=dataclasses.replace(stored.run, **changes))
    return dataclasses.replace(changed, run=reachable(changed))


def difference(stored: Config, given: Config) -> str | None:
    """Where two configs first differ outside of [run], as text; None where they do not."""
    for field in dataclasses.fields(Config):
        old, new = getattr(stored, field.name), getattr(given, field.name)
        if field.name == "run" or old == new:
            continue
        if field.name in AXES:
            return f"[{field.name}]: {_axes_difference(old, new)}"
        names = (f.name for f in dataclasses.fields(old))
        name = next(n for n in names if getattr(old, n) != getattr(new, n))
        return (
            f"[{field.name}]: {name} {brief(getattr(old, name))}, not {brief(getattr(new, name))}"
        )
    return None


def _axes_difference(old: Sequence[Axis], new: Sequence[Axis]) -> str:
    """Where two sweeps or samples first differ: axes, their lengths, or a value."""
    if [path for path, _ in old] != [path for path, _ in new]:
        named = (" x ".join(path for path, _ in axes) or "nothing" for axes in (old, new))
        return ", not ".join(named)
    path, own, given = next(
        (path, own, given) for (path, own), (_, given) in zip(old, new, strict=True) if own != given
    )
    if len(own) != len(given):
        return f"{len(own)} values of {path}, not {len(given)}"
    place = next(i for i, pair in enumerate(zip(own, given, strict=True)) if pair[0] != pair[1])
    return f"value {place + 1} of {path} {brief(own[place])}, not {brief(given[place])}"


def installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@functools.cache  # a commit that is made while the process lives is not what it runs
def source_commit() -> str | None:
    """The commit of the source tree that runs; None where it is no git checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
