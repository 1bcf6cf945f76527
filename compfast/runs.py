"""Reading a run folder: `load(path)` gives its members, metrics, parameters and models.

Also what config.json says of a run, and which changes a resumption may make to it.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import platform
import subprocess
import sys
from collections.abc import Sequence
from functools import cached_property
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from compfast import checkpoints, storage, tensorfile
from compfast.checkpoints import FORMAT, Checkpoint, Layouts, group_folder
from compfast.config import Axis, Config, MemberSpec
from compfast.engines import ENGINES
from compfast.engines.base import Float32
from compfast.errors import StorageError, UsageError
from compfast.grid import groups, member_count, member_specs, shard_range
from compfast.labels import labels
from compfast.members import column_of
from compfast.progress import progress_layout
from compfast.settings import from_dict, to_dict
from compfast.tables import read_members, read_metrics
from compfast.tasks import Exam, make_task

if TYPE_CHECKING:
    from compfast.models.transformer import Transformer

Groups = list[list[MemberSpec]]

# Fields of [run] that a resumption may change: none of them changes a bit of a member.
RESUMABLE = ("threads", "checkpoint_every", "snapshots", "report_every", "quiet")


class Run:
    """One run folder, finished or not, as it stands when it is first asked."""

    def __init__(
        self, path: Path, config: Config, info: dict[str, Any], trust_links: bool = False
    ) -> None:
        self.path = path
        self.trust_links = trust_links  # files may be links to outside of the folder
        self.config = config
        self.info = info  # config.json: versions, commit, engine, isa, command, created

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def groups(self) -> Groups:
        """The specs of this folder's members, by shape; files of a group go by its index."""
        return member_groups(self.config)

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint whose files are whole; None before the first one."""
        found, skipped = checkpoints.newest(
            self.path, run_layouts(self.groups), False, self.trust_links
        )
        if found is None and skipped:
            raise StorageError(f"no checkpoint of {self.path} can be used: {'; '.join(skipped)}")
        return found

    @property
    def finished(self) -> bool:
        return self.checkpoint is not None and bool(self.checkpoint.state["finished"])

    @property
    def step(self) -> int:
        """The last step at which all members were logged, examined or saved."""
        return int(self.checkpoint.state["event"]) if self.checkpoint is not None else 0

    @cached_property
    def members(self) -> pl.DataFrame:
        """One row a member, in member order (columns: compfast.members)."""
        return read_members(self.path / "members.parquet", self.config)

    @cached_property
    def metrics(self) -> pl.DataFrame:
        """The long table (member, step, loss, grad_norm, lr, scores, verdict), sorted."""
        parts = self.checkpoint.parts if self.checkpoint is not None else {}
        if not parts:
            raise UsageError(f"{self.path} has no metrics yet: its first checkpoint is not reached")
        return read_metrics([self.path / "metrics" / name for name in parts], self.config)

    def params(self, member: int, step: int | None = None) -> dict[str, Float32]:
        """A member's parameters by name: the newest saved, or those of a snapshot.

        Raises UsageError for a member or step that is not there.
        """
        group, row = self._place(member)
        file = f"{group_folder(group)}/params.safetensors"
        if step is None:
            if self.checkpoint is None:
                raise UsageError(f"{self.path} has no checkpoint yet, so there are no parameters")
            folder = self.checkpoint.path
        else:
            folder = self._snapshot(step)
        return tensorfile.read_row(folder / file, row)

    def model(self, member: int, step: int | None = None) -> Transformer:
        """A member as a plain module in evaluation mode: tokens [B, T] -> logits [B, T, V]."""
        from compfast.models.transformer import Transformer

        group, row = self._place(member)
        model = self.groups[group][row].model
        return Transformer.holding(model, self.params(member, step)).eval()

    @property
    def snapshots(self) -> list[int]:
        """Steps whose parameters are kept."""
        return [int(path.name) for path in checkpoints.numbered(self.path / "snapshots")]

    def to_xarray(self) -> Any:
        """The members table as an `xarray.Dataset` whose dimensions are the sweep's axes.

        Levels that are lists, or None among them, go by the texts that a report has for them
        ("[[4,3]]", "none"), since an index holds neither. Raises UsageError without xarray, and
        for a shard, which is no full grid.
        """
        try:
            xarray = importlib.import_module("xarray")
        except ImportError:
            raise UsageError(
                "to_xarray needs the package xarray, which is not installed: pip install xarray"
            ) from None
        if self.config.run.shard[1] > 1:
            raise UsageError(f"{self.path} is one shard of a sweep; to_xarray needs all of them")
        axes = {column_of(path): list(values) for path, values in self.config.sweep}
        shape = tuple(len(values) for values in axes.values())
        names = [name for name in self.members.columns if name not in axes]
        variables = {n: (tuple(axes), _values(self.members[n]).reshape(shape)) for n in names}
        coordinates = {
            name: labels(values) if any(_odd(v) for v in values) else values
            for name, values in axes.items()
        }
        return xarray.Dataset(variables, coords=coordinates, attrs={"run": str(self.path)})

    def _place(self, member: int) -> tuple[int, int]:
        if member not in self._places:
            known = sorted(self._places)
            raise UsageError(
                f"member {member} is not in {self.path}; it holds {known[0]} to {known[-1]}"
            )
        return self._places[member]

    @cached_property
    def _places(self) -> dict[int, tuple[int, int]]:
        return {
            s.member: (g, r) for g, group in enumerate(self.groups) for r, s in enumerate(group)
        }

    def _snapshot(self, step: int) -> Path:
        if step not in self.snapshots:
            kept = ", ".join(map(str, self.snapshots)) or "none"
            raise UsageError(f"{self.path} has no snapshot of step {step}; it has {kept}")
        if step not in self._verified:
            folder = self.path / "snapshots" / f"{step:08d}"
            layouts = snapshot_layouts(self.groups)
            found = checkpoints.verify(folder, layouts, trust_links=self.trust_links)
            self._verified[step] = found.path
        return self._verified[step]

    @cached_property
    def _verified(self) -> dict[int, Path]:
        return {}


def load(path: str | PathLike[str], trust_links: bool = False) -> Run:
    """The run in a folder; raises UsageError where there is none, StorageError if unreadable.

    With `trust_links` its files may be symbolic links to outside of the folder, as git-annex and
    DVC make them; otherwise those are refused.
    """
    folder = storage.user_path(path)
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is not a run folder: it has no config.json")
    info = storage.read_json(folder / "config.json")
    if info.get("format") != FORMAT or not isinstance(info.get("config"), dict):
        raise UsageError(f"{folder} was written in another format than this version reads")
    for name, valid in (
        ("engine", info.get("engine") in ENGINES),
        ("isa", _word(info.get("isa"))),
        ("versions", _texts(info.get("versions"))),
        ("commit", isinstance(info.get("commit"), str | None)),
        ("created", isinstance(info.get("created"), str)),
    ):
        if not valid:
            raise StorageError(f"{folder}/config.json has no valid {name}: {info.get(name)!r}")
    return Run(folder, from_dict(info["config"]), info, trust_links)


def _word(value: Any) -> bool:
    return isinstance(value, str) and value.replace("_", "").isalnum()


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str | None) for v in value.values())


def member_groups(config: Config) -> Groups:
    """The specs that a config's shard trains, by shape; raises UsageError for an empty shard."""
    members = member_count(config)
    chosen = shard_range(members, *config.run.shard)
    if not len(chosen):
        i, n = config.run.shard
        raise UsageError(f"shard {i}/{n} of {members} members is empty; use fewer shards")
    return groups(member_specs(config, chosen))


def exams_of(groups: Groups) -> list[Exam]:
    """Each group's exam; groups of one task share it."""
    made: dict[Any, Exam] = {}
    exams = []
    for specs in groups:
        key = (specs[0].task, specs[0].evaluation)
        if key not in made:
            made[key] = make_task(specs[0].task).exam(specs[0].evaluation)
        exams.append(made[key])
    return exams


def run_layouts(groups: Groups) -> Layouts:
    """What a checkpoint of these groups holds."""
    layouts: Layouts = {}
    for g, (specs, exam) in enumerate(zip(groups, exams_of(groups), strict=True)):
        layouts |= checkpoints.state_layouts(g, specs)
        layouts[f"{group_folder(g)}/progress.safetensors"] = progress_layout(specs, exam)
    return layouts


def snapshot_layouts(groups: Groups) -> Layouts:
    """What a snapshot of these groups holds."""
    return {
        f"{group_folder(g)}/params.safetensors": checkpoints.parameter_layout(specs)
        for g, specs in enumerate(groups)
    }


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
    change = difference(stored, given)
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
    return dataclasses.replace(stored, run=dataclasses.replace(stored.run, **changes))


def difference(stored: Config, given: Config) -> str | None:
    """Where two configs first differ outside of [run], as text; None where they do not."""
    for field in dataclasses.fields(Config):
        old, new = getattr(stored, field.name), getattr(given, field.name)
        if field.name == "run" or old == new:
            continue
        if field.name == "sweep":
            return f"[sweep]: {_axes_difference(old, new)}"
        names = (f.name for f in dataclasses.fields(old))
        name = next(n for n in names if getattr(old, n) != getattr(new, n))
        return f"[{field.name}]: {name} {getattr(old, name)}, not {getattr(new, name)}"
    return None


def _axes_difference(old: Sequence[Axis], new: Sequence[Axis]) -> str:
    """Where two sweeps that are not equal first differ: axes, their lengths, or a value."""
    if [path for path, _ in old] != [path for path, _ in new]:
        return ", not ".join(" x ".join(path for path, _ in sweep) for sweep in (old, new))
    path, own, given = next(
        (path, own, given) for (path, own), (_, given) in zip(old, new, strict=True) if own != given
    )
    if len(own) != len(given):
        return f"{len(own)} values of {path}, not {len(given)}"
    place = next(i for i, pair in enumerate(zip(own, given, strict=True)) if pair[0] != pair[1])
    return f"value {place + 1} of {path} {own[place]}, not {given[place]}"


def _values(column: pl.Series) -> np.ndarray[Any, Any]:
    array = column.to_numpy()
    return array.astype(object) if column.dtype == pl.String else array


def _odd(value: Any) -> bool:
    """Whether a value of an axis cannot be looked up in an index."""
    return value is None or isinstance(value, tuple)


def installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def source_commit() -> str | None:
    """The commit of the source tree that runs; None where it is no git checkout."""
    root = Path(__file__).resolve().parent.parent
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
