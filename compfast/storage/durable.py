"""Files that survive a crash: the few operations through which a run folder is written.

Everything is written beside its place, synced, and renamed into it. `open_file`, `write`, `sync`
and `rename` are the only calls that change data on disk; a test replaces them to inject faults.
Every OSError becomes a StorageError of one sentence.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from compfast.errors import StorageError

Chunk = bytes | memoryview
_BLOCK = 1 << 22  # bytes read at once


def open_file(path: Path, flags: int) -> int:
    return os.open(path, flags, 0o644)


def write(descriptor: int, data: memoryview) -> int:
    return os.write(descriptor, data)


def sync(descriptor: int) -> None:
    os.fsync(descriptor)


def rename(source: Path, target: Path) -> None:
    os.replace(source, target)


@dataclass(frozen=True, slots=True)
class Digest:
    """What a manifest says of a file."""

    sha256: str
    bytes: int


@contextlib.contextmanager
def guarded(action: str, path: Path) -> Iterator[None]:
    """Turn an OSError into a StorageError that names what was tried, on what, and why not."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"cannot {action} {path}: {error.strerror or error}") from error


def write_new(path: Path, chunks: Iterable[Chunk]) -> Digest:
    """Create `path` with these bytes and sync it; raises StorageError, also where it exists."""
    digest, size = hashlib.sha256(), 0
    with guarded("write", path):
        descriptor = open_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            for chunk in chunks:
                digest.update(chunk)
                size += len(rest := memoryview(chunk).cast("B"))
                while rest:
                    rest = rest[write(descriptor, rest) :]
            sync(descriptor)
        finally:
            os.close(descriptor)
    return Digest(digest.hexdigest(), size)


def replace_file(path: Path, chunks: Iterable[Chunk]) -> Digest:
    """Put these bytes at `path`, all or nothing: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    discard(temporary)
    try:
        digest = write_new(temporary, chunks)
        with guarded("write", path):
            rename(temporary, path)
        sync_folder(path.parent)
    except StorageError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return digest


def publish_folder(temporary: Path, final: Path) -> None:
    """Rename a folder whose files are written and synced into its place."""
    for folder in [*(p for p in temporary.rglob("*") if p.is_dir()), temporary]:
        sync_folder(folder)
    with guarded("write", final):
        rename(temporary, final)
    sync_folder(final.parent)


def sync_folder(path: Path) -> None:
    with guarded("write", path):
        descriptor = open_file(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(path: Path) -> None:
    with guarded("create", path):
        path.mkdir(parents=True, exist_ok=True)


def make_root(path: Path) -> None:
    """Create a folder and those above it, under names that survive a power loss."""
    with guarded("create", path):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    make_folder(path)
    for folder in reversed(missing):
        sync_folder(folder.parent)


def discard(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    with guarded("remove", path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def retire_folder(path: Path) -> None:
    """Remove a folder so that no reader ever sees half of it."""
    gone = path.with_name(f".gone-{path.name}")
    discard(gone)
    with guarded("remove", path):
        rename(path, gone)
    discard(gone)


def read_bytes(path: Path) -> bytes:
    with guarded("read", path):
        return path.read_bytes()


def blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, piece by piece."""
    with guarded("read", path), open(path, "rb") as file:
        while block := file.read(_BLOCK):
            yield block


def digest_of(path: Path) -> Digest:
    digest, size = hashlib.sha256(), 0
    for block in blocks(path):
        digest.update(block)
        size += len(block)
    return Digest(digest.hexdigest(), size)


def json_bytes(value: Any) -> bytes:
    """JSON with a line end; NaN and infinity are refused, since they are no JSON."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises StorageError where there is none."""
    return parsed_json(read_bytes(path), path)


def parsed_json(content: bytes, source: Path | str) -> dict[str, Any]:
    """The JSON object in these bytes; raises StorageError, naming `source`, where it is none."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{source} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise StorageError(f"{source} holds no JSON object")
    return value


def inside(folder: Path, relative: Any, trust_links: bool = False) -> Path:
    """`folder / relative`; raises StorageError where that would leave the folder.

    With `trust_links` a symbolic link may lead out of it, as git-annex and DVC make them.
    """
    pure = PurePosixPath(relative) if isinstance(relative, str) else PurePosixPath("/")
    plain = pure.parts and not pure.is_absolute() and ".." not in pure.parts
    if not plain or "\0" in str(pure) or "\\" in str(pure):
        raise StorageError(f"{folder} names the file {relative!r}, which is outside of it")
    path = folder.joinpath(*pure.parts)
    if trust_links:
        return path
    with guarded("read", path):
        if not path.resolve().is_relative_to(folder.resolve()):
            raise StorageError(
                f"{folder} names the file {relative!r}, a link to outside of it;"
                " compfast.load(path, trust_links=True) follows it"
            )
    return path


class Lock:
    """An exclusive lock on a folder, held until `release` or the end of the process."""

    def __init__(self, folder: Path) -> None:
        path = folder / ".lock"
        with guarded("lock", folder):
            self._descriptor = open_file(path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self.release()
                raise StorageError(f"{folder} is in use by another process") from error
            except OSError:
                self.release()
                raise

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
