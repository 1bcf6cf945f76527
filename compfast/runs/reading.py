"""Reading a run folder: `load(path)` gives its members, metrics, parameters and models.

Also what config.json says of a run, and which changes a resumption may make to it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.config import Config
from compfast.config.labels import labels
from compfast.config.paths import user_path
from compfast.config.settings import from_dict
from compfast.engines import ENGINES
from compfast.engines.base import Float32, Int32
from compfast.ensembles.groups import Groups, member_groups
from compfast.ensembles.table import column_of
from compfast.errors import StorageError, UsageError
from compfast.models.families import family_of
from compfast.runs import checkpoints, generation
from compfast.runs.checkpoints import FORMAT, Checkpoint, group_folder
from compfast.runs.layouts import run_layouts, snapshot_layouts
from compfast.runs.tables import read_members, read_metrics
from compfast.storage import durable, tensorfile


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
        return max(0, self.checkpoint.state["event"]) if self.checkpoint is not None else 0

    @cached_property
    def members(self) -> pl.DataFrame:
        """One row a member, in member order (columns: compfast.ensembles.table)."""
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
        return tensorfile.read_row(self._params_file(group, step), row)

    def stacked(self, group: int, name: str, step: int | None = None) -> Float32:
        """One tensor [M, *shape] of all members of `groups[group]`, in their order there.

        As saved last, or at a snapshot. Raises UsageError for a step that is not there.
        """
        return tensorfile.read_array(self._params_file(group, step), name)

    def model(self, member: int, step: int | None = None) -> Any:
        """A member as its family's `nn.Module` in evaluation mode: tokens [B, T] -> logits
        [B, T, V]."""
        group, row = self._place(member)
        model = self.groups[group][row].model
        return family_of(model).holding(model, self.params(member, step)).eval()

    def generate(
        self,
        members: int | Sequence[int],
        prompts: Sequence[Sequence[int]] | NDArray[np.integer[Any]],
        max_new: int,
        *,
        end: int | None = None,
        step: int | None = None,
        engine: str | None = None,
    ) -> Int32:
        """What members say after each prompt, token by token the likeliest: int32 [N, max_new] of
        one member, [n, N, max_new] of several.

        `prompts` are lists of tokens, or an array [N, P]. After `end` a row holds -1. `step`: a
        snapshot's parameters in place of the newest; `engine`: another one than the run's. On
        native a row depends on its member and its prompt alone; elsewhere how many prompts there
        are may change how products are rounded. Raises UsageError for members, prompts and
        steps that are not there, for networks that cannot go on from a prompt, and for engines
        that cannot here.
        """
        chosen = generation.chosen_members(members)
        asked = generation.as_prompts(prompts, max_new, end)
        own = self.info["engine"], self.config.run.device
        where = generation.generating_engine(engine, *own)
        places = {member: self._place(member) for member in chosen}
        read = [(g, self.groups[g][r], self.params(m, step)) for m, (g, r) in places.items()]
        told = dict(zip(places, generation.generate(read, asked, *where), strict=True))
        lone = np.ndim(members) == 0
        return told[chosen[0]] if lone else np.stack([told[member] for member in chosen])

    @property
    def snapshots(self) -> list[int]:
        """Steps whose parameters are kept."""
        return [int(path.name) for path in checkpoints.numbered(self.path / "snapshots")]

    def to_xarray(self) -> Any:
        """The members table as an `xarray.Dataset` whose dimensions are the sweep's axes.

        A sample is one dimension more, `point`, along which its columns are coordinates.
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
        drawn = {column_of(path): list(values) for path, values in self.config.sample}
        if drawn:
            axes = {"point": list(range(self.config.points)), **axes}
        shape = tuple(len(values) for values in axes.values())
        names = [name for name in self.members.columns if name not in {**axes, **drawn}]
        variables = {n: (tuple(axes), _values(self.members[n]).reshape(shape)) for n in names}
        coordinates: dict[str, Any] = {
            name: labels(values) if any(_odd(v) for v in values) else values
            for name, values in {**axes, **drawn}.items()
        }
        coordinates |= {name: ("point", coordinates[name]) for name in drawn}
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

    def _params_file(self, group: int, step: int | None) -> Path:
        if step is not None:
            folder = self._snapshot(step)
        elif self.checkpoint is not None:
            folder = self.checkpoint.path
        else:
            raise UsageError(f"{self.path} has no checkpoint yet, so there are no parameters")
        return folder / group_folder(group) / "params.safetensors"

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
    folder = user_path(path)
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is not a run folder: it has no config.json")
    info = durable.read_json(folder / "config.json")
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


def _values(column: pl.Series) -> np.ndarray[Any, Any]:
    array = column.to_numpy()
    return array.astype(object) if column.dtype == pl.String else array


def _odd(value: Any) -> bool:
    """Whether a value of an axis cannot be looked up in an index."""
    return value is None or isinstance(value, tuple)
