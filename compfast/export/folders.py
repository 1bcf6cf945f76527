"""A member as a folder of its own: weights, config.json and a card; nothing of the run is needed.

model.safetensors   its weights by name, float32
config.json         its resolved spec and task, its verdict and scores, what it was trained with
README.md           the same for people
"""

from __future__ import annotations

import hashlib
from os import PathLike
from pathlib import Path

from compfast.config.paths import user_path
from compfast.errors import StorageError, UsageError
from compfast.export.card import FORMAT, card, facts
from compfast.runs.reading import Run
from compfast.storage import durable, tensorfile

WEIGHTS = "model.safetensors"


def folder(
    run: Run,
    member: int,
    path: str | PathLike[str],
    step: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a member into the folder `path`, which `compfast.from_pretrained` reads; its path.

    `step`: a snapshot's weights; None: the newest. A folder that is there is replaced only with
    `overwrite`, and only where it holds an exported member. It is there whole or not at all.
    Raises UsageError for a member or step that is not there and a folder that is in use,
    StorageError where writing fails.
    """
    final = user_path(path)
    _check_free(final, overwrite)
    files = member_files(run, member, step)
    durable.make_root(final.parent)
    temporary, old = (final.with_name(f".{word}-{final.name}") for word in ("tmp", "gone"))
    durable.discard(temporary)
    try:
        durable.make_folder(temporary)
        for name, content in files.items():
            durable.write_new(temporary / name, [content])
        if final.exists():
            durable.discard(old)
            with durable.guarded("replace", final):
                durable.rename(final, old)
        durable.publish_folder(temporary, final)
    except StorageError:
        if old.exists() and not final.exists():
            durable.rename(old, final)
        durable.discard(temporary)
        raise
    durable.discard(old)
    return final


def member_files(run: Run, member: int, step: int | None) -> dict[str, bytes]:
    """The files of a member's folder, config.json with the digest of the weights."""
    weights = b"".join(tensorfile.chunks(run.params(member, step)))
    described = facts(run, member, step)
    page = card(run, described)
    digest = {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}
    described["weights"] = {"file": WEIGHTS, **digest}
    return {
        WEIGHTS: weights,
        "config.json": durable.json_bytes(described),
        "README.md": page.encode(),
    }


def _check_free(path: Path, overwrite: bool) -> None:
    """Raise UsageError unless a folder can be written here."""
    with durable.guarded("read", path):
        if not path.exists():
            return
        entries = [entry.name for entry in path.iterdir()] if path.is_dir() else None
    if entries is None:
        raise UsageError(f"{path} is a file; a member is written as a folder")
    if not entries:
        return
    if not overwrite:
        raise UsageError(f"{path} is not empty; give another folder, or overwrite=True")
    own = "config.json" in entries and _is_member(path)
    if not own or set(entries) - {WEIGHTS, "config.json", "README.md"}:
        raise UsageError(
            f"{path} holds something else than an exported member, which overwrite=True does not"
            " replace; give another folder"
        )


def _is_member(path: Path) -> bool:
    try:
        return durable.read_json(path / "config.json").get("format") == FORMAT
    except StorageError:
        return False
