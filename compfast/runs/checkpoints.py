"""Checkpoints: folders that are complete and verified, or that do not count.

A checkpoint folder holds group-000/{params,optimizer,progress}.safetensors ..., state.json and,
written last, manifest.json: the SHA-256 of each file, of the run's config.json and
tables.safetensors, and of every part of the metrics that belongs to it, sealed by a hash of its
own. Snapshots are the same with parameters only. Nothing here is ever unpickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compfast.config import MemberSpec
from compfast.engines.base import State
from compfast.errors import StorageError
from compfast.models.params import parameter_table
from compfast.storage import durable, tensorfile
from compfast.storage.durable import Digest
from compfast.storage.tensorfile import Array, Layout

FORMAT = 1
KEEP = 2  # checkpoints that stay
_MOMENTS = ("exp_avg", "exp_avg_sq")

Files = dict[str, dict[str, Array]]  # path inside the folder -> named arrays
Layouts = dict[str, Layout]  # path inside the folder -> what it must hold


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder whose every file was found to be what its manifest says."""

    path: Path
    number: int
    state: dict[str, Any]  # the loop's scalars
    parts: dict[str, Digest]  # the metrics parts that belong to it


def group_folder(group: int) -> str:
    return f"group-{group:03d}"


def parameter_layout(specs: Sequence[MemberSpec]) -> Layout:
    """The stacked parameters of one group, [M, *shape] each."""
    table = parameter_table(specs[0].model)
    return {tensor.name: ("F32", (len(specs), *tensor.shape)) for tensor in table}


def state_files(group: int, state: State) -> Files:
    """A group's engine state as two files."""
    optimizer: dict[str, Array] = {"step": state.step, "status": state.status}
    for moment in _MOMENTS:
        optimizer |= {f"{moment}.{name}": a for name, a in getattr(state, moment).items()}
    folder = group_folder(group)
    return {
        f"{folder}/params.safetensors": dict(state.params),
        f"{folder}/optimizer.safetensors": optimizer,
    }


def state_layouts(group: int, specs: Sequence[MemberSpec]) -> Layouts:
    """What `state_files` writes for these members."""
    params, members = parameter_layout(specs), (len(specs),)
    optimizer: Layout = {"step": ("I64", members), "status": ("U8", members)}
    for moment in _MOMENTS:
        optimizer |= {f"{moment}.{name}": kind for name, kind in params.items()}
    folder = group_folder(group)
    return {
        f"{folder}/params.safetensors": params,
        f"{folder}/optimizer.safetensors": optimizer,
    }


def read_state(folder: Path, group: int, specs: Sequence[MemberSpec]) -> State:
    """A group's engine state out of a verified checkpoint."""
    arrays = [
        tensorfile.read(folder / name, layout)
        for name, layout in state_layouts(group, specs).items()
    ]
    params, optimizer = arrays
    first, second = ({name: optimizer[f"{m}.{name}"] for name in params} for m in _MOMENTS)
    return State(params, first, second, optimizer["step"], optimizer["status"])


def write(
    final: Path,
    files: Mapping[str, Mapping[str, Array]],
    state: Mapping[str, Any],
    outside: Mapping[str, Any] | None = None,
) -> Path:
    """Write a folder under a temporary name and rename it to `final`, which is returned.

    `outside`: further entries of the manifest (digests of files beyond this folder). Raises
    StorageError; then nothing stands at `final` and what was written is removed.
    """
    temporary = final.with_name(f".tmp-{final.name}")
    durable.discard(temporary)
    try:
        digests = {}
        for name, arrays in files.items():
            path = temporary / name
            durable.make_folder(path.parent)
            digests[name] = durable.write_new(path, tensorfile.chunks(arrays))
        path = temporary / "state.json"
        digests["state.json"] = durable.write_new(path, [durable.json_bytes(state)])
        manifest = {"format": FORMAT, "name": final.name, "files": _entries(digests)}
        manifest |= outside or {}
        manifest["seal"] = _seal(manifest)
        durable.write_new(temporary / "manifest.json", [durable.json_bytes(manifest)])
        durable.publish_folder(temporary, final)
    except StorageError:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary)
        raise
    return final


def outside_entries(parts: Mapping[str, Digest], fixed: Mapping[str, Digest]) -> dict[str, Any]:
    """The manifest's entries for config.json and the tables (`fixed`) and the metrics parts."""
    return {"run": _entries(fixed), "metrics": _entries(parts)}


def verify(
    folder: Path,
    layouts: Layouts,
    run: Path | None = None,
    trust_links: bool = False,
    with_metrics: bool = True,
) -> Checkpoint:
    """Check every file of a checkpoint or snapshot against its manifest and the configuration.

    With `run`, also the files outside of it: configuration, tables and (`with_metrics`) metrics
    parts; with `trust_links` files may be links to anywhere. Raises StorageError with the first
    thing that is wrong.
    """
    manifest = durable.read_json(folder / "manifest.json")
    try:
        seal = manifest.pop("seal", None)
        if seal != _seal(manifest) or manifest["format"] != FORMAT:
            raise StorageError(f"{folder}/manifest.json is damaged or of another format")
        if manifest["name"] != folder.name:
            raise StorageError(f"{folder} was written as {manifest['name']}")
        files, parts = _digests(manifest["files"]), _digests(manifest.get("metrics", {}))
        fixed = _digests(manifest.get("run", {}))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise StorageError(f"{folder}/manifest.json lacks or misuses {error}") from error
    if files.keys() != layouts.keys() | {"state.json"}:
        odd = sorted(files.keys() ^ (layouts.keys() | {"state.json"}))[0]
        raise StorageError(f"{folder}/manifest.json does not fit the run: {odd}")
    paths = {name: durable.inside(folder, name, trust_links) for name in files}
    for name, layout in layouts.items():
        tensorfile.check_layout(paths[name], layout)
    for name, digest in files.items():
        _check(paths[name], digest)
    if run is not None:
        for name, digest in fixed.items():
            _check(durable.inside(run, name, trust_links), digest)
        for name, digest in parts.items() if with_metrics else ():
            _check(durable.inside(run / "metrics", name, trust_links), digest)
    number = int(folder.name) if _is_number(folder.name) else -1
    return Checkpoint(folder, number, durable.read_json(folder / "state.json"), parts)


def newest(
    run: Path, layouts: Layouts, with_metrics: bool = True, trust_links: bool = False
) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The newest checkpoint of a run that verifies, and a sentence for each that was skipped."""
    skipped: list[str] = []
    for folder in reversed(numbered(run / "checkpoints")):
        try:
            found = verify(folder, layouts, run if with_metrics else None, trust_links)
            _check_scalars(found)
            return found, tuple(skipped)
        except StorageError as error:
            skipped.append(f"checkpoint {folder.name} was skipped: {error}")
    return None, tuple(skipped)


def numbered(folder: Path) -> list[Path]:
    """The finished checkpoints (or snapshots) in a folder, by number."""
    if not folder.is_dir():
        return []
    with durable.guarded("read", folder):
        found = [path for path in folder.iterdir() if _is_number(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def _is_number(name: str) -> bool:
    """Plain digits: others (²) are digits to `str` that `int` refuses."""
    return name.isascii() and name.isdecimal()


def prune(run: Path, kept: Sequence[Checkpoint]) -> None:
    """Remove the checkpoints and metrics parts that none of `kept` needs."""
    names = {checkpoint.path.name for checkpoint in kept}
    for folder in numbered(run / "checkpoints"):
        if folder.name not in names:
            durable.retire_folder(folder)
    parts = {name for checkpoint in kept for name in checkpoint.parts}
    remove_unnamed_parts(run, parts)


def remove_unnamed_parts(run: Path, named: set[str]) -> None:
    with durable.guarded("read", run / "metrics"):
        found = list((run / "metrics").iterdir())
    for path in found:
        if path.name not in named:
            durable.discard(path)


def event_of(folder: Path) -> int:
    """The last step that a checkpoint's run had settled, -1 before step 0; it is not verified."""
    return _event(folder, durable.read_json(folder / "state.json"))


def _check_scalars(checkpoint: Checkpoint) -> None:
    _event(checkpoint.path, checkpoint.state)


def _event(folder: Path, state: Mapping[str, Any]) -> int:
    event, finished = state.get("event"), state.get("finished")
    if type(event) is not int or not -1 <= event < 2**53 or type(finished) is not bool:
        raise StorageError(f"{folder}/state.json does not say how far the run was")
    return event


def _check(path: Path, expected: Digest) -> None:
    with durable.guarded("read", path):
        size = path.stat().st_size
    if size != expected.bytes:
        raise StorageError(f"{path} has {size} bytes, its manifest says {expected.bytes}")
    if durable.digest_of(path) != expected:
        raise StorageError(f"{path} is damaged: its SHA-256 is not the manifest's")


def _entries(digests: Mapping[str, Digest]) -> dict[str, Any]:
    return {name: dataclasses.asdict(digest) for name, digest in digests.items()}


def _digests(entries: Mapping[str, Any]) -> dict[str, Digest]:
    return {name: Digest(e["sha256"], e["bytes"]) for name, e in entries.items()}


def _seal(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
