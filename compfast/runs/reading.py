"""Reading a run folder: `load(path)` gives its members, metrics, parameters and models.

Also what config.json says of a run, and which changes a resumption may make to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.config import Config, MemberSpec
from compfast.config.paths import user_path
from compfast.config.settings import from_dict
from compfast.engines import ENGINES
from compfast.engines.base import Float32, Int32
from compfast.ensembles.groups import Groups, member_groups
from compfast.errors import StorageError, UsageError
from compfast.models.families import family_of
from compfast.runs import checkpoints, generation, labelled, selecting, stacks
from compfast.runs.checkpoints import FORMAT, Checkpoint, group_folder
from compfast.runs.layouts import run_layouts, snapshot_layouts
from compfast.runs.stacks import Stack
from compfast.runs.tables import labels_of, read_members, read_metrics
from compfast.storage import durable, tensorfile

_PLACE = ("group", "row")
_SHOWN = 8  # members that a sentence names


class Run:
    """One run folder, finished or not, as it stands when it is first asked; `load` gives it.

    `path` is the folder, `config` the resolved `Config`, `info` what config.json holds beside it:
    versions, commit, engine, isa, command line, when it was created. Everything else raises
    StorageError where a file cannot be read.
    """

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
        """The newest checkpoint whose files are whole; None before the first one.

        Raises StorageError where there are checkpoints and none is whole.
        """
        found, skipped = checkpoints.newest(
            self.path, run_layouts(self.groups), False, self.trust_links
        )
        if found is None and skipped:
            raise StorageError(f"no checkpoint of {self.path} can be used: {'; '.join(skipped)}")
        return found

    @property
    def finished(self) -> bool:
        """Whether every member was trained to its end."""
        return self.checkpoint is not None and bool(self.checkpoint.state["finished"])

    @property
    def step(self) -> int:
        """The last step at which all members were logged, examined or saved."""
        return max(0, self.checkpoint.state["event"]) if self.checkpoint is not None else 0

    @cached_property
    def members(self) -> pl.DataFrame:
        """One row a member, in member order (columns: compfast.ensembles.table).

        `verdict` and the scores, shares in [0, 1], are null before the first exam.
        """
        return read_members(self.path / "members.parquet", self.config)

    @cached_property
    def metrics(self) -> pl.DataFrame:
        """The long table (member, step, loss, grad_norm, lr, scores, verdict), sorted.

        `loss` (nats, or a squared error) and `grad_norm` (before clipping) are means over the
        window of `training.log_every` steps that ends at `step`; scores are there where an exam
        was. Raises UsageError before the first checkpoint.
        """
        parts = self.checkpoint.parts if self.checkpoint is not None else {}
        if not parts:
            raise UsageError(f"{self.path} has no metrics yet: its first checkpoint is not reached")
        return read_metrics([self.path / "metrics" / name for name in parts], self.config)

    def params(self, member: int, step: int | None = None) -> dict[str, Float32]:
        """A member's parameters by name, float32: the newest saved, or those of a snapshot.

        Raises UsageError for a member or step that is not there.
        """
        group, row = self._place(member)
        return tensorfile.read_row(self._params_file(group, step), row)

    def stacked(self, group: int, name: str, step: int | None = None) -> Float32:
        """One tensor [M, *shape] of all members of `groups[group]`, in their order there.

        As saved last, or at a snapshot. Raises UsageError for a step that is not there.
        """
        return tensorfile.read_array(self._params_file(group, step), name)

    def filter(self, *expressions: pl.Expr, **columns: Any) -> View:
        """Those members for which everything holds, as a run that knows no others.

        `columns` are of the members table: a value, a list of values, a range (lo, hi) with both
        ends, None for what is missing; `expressions` are of polars. A value that nobody has gives
        a view of no member. Raises UsageError for columns that there are not, and for verdicts
        and types that a column cannot have.
        """
        kept = selecting.selected(
            self.members, expressions, columns, labels_of(self.config), self.path
        )
        return View(self, kept["member"].to_list())

    def iter(
        self, *expressions: pl.Expr, step: int | Literal["all"] | None = None, **columns: Any
    ) -> Iterator[tuple[int, int, Any]]:
        """(member, step, module) of the members that `filter` would keep, one after the other.

        `step`: a snapshot's; None: the newest weights; "all": every snapshot of a member in turn,
        then its newest weights where those are later. Raises as `filter`, `model` and `params` do.
        """
        chosen = self.filter(*expressions, **columns) if expressions or columns else self
        steps: list[int | None] = [step] if step != "all" else list(self.snapshots)
        if step == "all" and self.step not in self.snapshots and self.checkpoint is not None:
            steps.append(None)
        for member in chosen.members["member"].to_list():
            for at in steps:
                yield member, self.step if at is None else at, chosen.model(member, at)

    def stack(self, names: Sequence[str] | None = None, step: int | None = None) -> list[Stack]:
        """Tensors [M, *shape] of all members by name, one record a shape; None: all tensors.

        A shape has those of the names that it knows. `step`: a snapshot's; None: the newest.
        Raises UsageError for a name that no member knows and a step that is not there.
        """
        return stacks.stacked(self.groups, names, lambda g, name: self.stacked(g, name, step))

    def spec(self, member: int) -> MemberSpec:
        """All settings of a member; raises UsageError for one that is not there."""
        group, row = self._place(member)
        return self.groups[group][row]

    def model(self, member: int, step: int | None = None) -> Any:
        """A member as its family's `nn.Module` in evaluation mode: tokens int [B, T], or vectors
        float32 [B, T, width], -> logits, or numbers, [B, T, V].

        `step`: a snapshot's weights; None: the newest. Raises UsageError for a member or step
        that is not there.
        """
        model = self.spec(member).model
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

    def probe(self, label: str | None = None, kind: str = "ridge", **how: Any) -> pl.DataFrame:
        """`compfast.analysis.probe` of this run, with all that it takes and raises."""
        # The room of analyses reads runs; it is asked for when somebody probes, not before.
        from compfast.analysis import probe

        chosen: Any = kind  # it checks
        return probe(self, label, chosen, **how)

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
        return labelled.dataset(self.members, self.config, self.path)

    def to_datatree(self) -> Any:
        """The run as an `xarray.DataTree`: the members at its root, at /metrics what was logged.

        There the sweep's axes come first, then `step`, all steps at which anybody has a row; who
        has none there has NaN, or "" for a verdict. Texts are plain, so that the tree can be
        written (to Zarr, to netCDF). Raises UsageError as `to_xarray` does, and before the first
        checkpoint.
        """
        return labelled.datatree(self.members, self.metrics, self.config, self.path)

    def _place(self, member: int) -> tuple[int, int]:
        if member not in self._places:
            raise UsageError(f"member {member} is not in {self._holds()}")
        return self._places[member]

    def _holds(self) -> str:
        known = sorted(self._places)
        return f"{self.path}; it holds {known[0]} to {known[-1]}"

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


class View(Run):
    """Some members of a run, which keep their numbers; its files are read, none is copied.

    Groups without a member are left out, so that `group` and `row` of its members count among
    what it has.
    """

    def __init__(self, run: Run, chosen: Sequence[int]) -> None:
        super().__init__(run.path, run.config, run.info, run.trust_links)
        self._whole: Run = run._whole if isinstance(run, View) else run
        self._chosen = frozenset(chosen)

    def __repr__(self) -> str:
        whole = len(self._whole.members)
        return f"View({len(self._chosen)} of {whole} members of {str(self.path)!r})"

    def _holds(self) -> str:
        known = ", ".join(map(str, sorted(self._chosen)[:_SHOWN])) or "none"
        more = f" and {len(self._chosen) - _SHOWN} more" if len(self._chosen) > _SHOWN else ""
        return f"this view of {self.path}; it has {known}{more}"

    @cached_property
    def groups(self) -> Groups:
        kept = [[s for s in specs if s.member in self._chosen] for specs in self._whole.groups]
        return [specs for specs in kept if specs]

    @property
    def checkpoint(self) -> Checkpoint | None:
        return self._whole.checkpoint

    @cached_property
    def members(self) -> pl.DataFrame:
        kept = self._whole.members.filter(pl.col("member").is_in(sorted(self._chosen)))
        places = [self._place(member) for member in kept["member"]]
        own = [pl.Series(n, [p[i] for p in places], pl.Int64) for i, n in enumerate(_PLACE)]
        return kept.with_columns(own)

    @cached_property
    def metrics(self) -> pl.DataFrame:
        return self._whole.metrics.filter(pl.col("member").is_in(sorted(self._chosen)))

    def params(self, member: int, step: int | None = None) -> dict[str, Float32]:
        self._place(member)
        return self._whole.params(member, step)

    def stacked(self, group: int, name: str, step: int | None = None) -> Float32:
        places = [self._whole._place(spec.member) for spec in self.groups[group]]
        rows = np.array([row for _, row in places])
        file = self._whole._params_file(places[0][0], step)
        stack: Float32 = tensorfile.read_array(file, name)[rows]
        return stack

    def to_xarray(self) -> Any:
        raise UsageError(f"{self!r} is no full grid; to_xarray needs the run itself")

    def to_datatree(self) -> Any:
        raise UsageError(f"{self!r} is no full grid; to_datatree needs the run itself")


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
