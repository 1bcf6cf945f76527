"""Where the parts of a sweep lie: a folder that all nodes see, or any place fsspec reaches.

A part is uploaded into a folder of a name of its own, then committed by one small file,
part-00003.json, written last and whole. What no commit names does not count, so a worker that
dies leaves nothing half done, and two that train one part leave two folders of the same bits, of
which one counts.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import secrets
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from compfast.errors import StorageError, UsageError
from compfast.runs import checkpoints
from compfast.runs.reading import Run
from compfast.storage import durable
from compfast.storage.durable import Digest, guarded


class Store(Protocol):
    """Files by name, "folder/file"; every failure is a StorageError."""

    root: str

    def write(self, name: str, content: bytes) -> None:
        """All or nothing, replacing what is there."""

    def read(self, name: str) -> bytes | None:
        """The content; None where there is no such file."""

    def put(self, source: Path, name: str) -> None: ...

    def get(self, name: str, target: Path) -> None: ...

    def remove(self, name: str) -> None:
        """A file or a folder ("" is the whole place) with all in it; nothing if it is absent."""


def open_store(url: str) -> Store:
    """The store at a path, a file:// URL or another URL that fsspec knows; raises UsageError."""
    protocol, separator, path = url.partition("://")
    if not separator:
        return LocalStore(Path(url))
    return LocalStore(Path(path)) if protocol == "file" else FsspecStore(url)


class LocalStore:
    """A folder of this machine or of a shared file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.root = str(self.folder)

    def write(self, name: str, content: bytes) -> None:
        # A name of its own for the temporary file: another node may be writing the same one.
        target = self.folder / name
        durable.make_folder(target.parent)
        temporary = target.with_name(f".{secrets.token_hex(6)}.tmp")
        durable.write_new(temporary, [content])
        with guarded("write", target):
            durable.rename(temporary, target)
        durable.sync_folder(target.parent)

    def read(self, name: str) -> bytes | None:
        path = self.folder / name
        with guarded("read", path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def put(self, source: Path, name: str) -> None:
        durable.make_folder((self.folder / name).parent)
        durable.write_new(self.folder / name, durable.blocks(source))

    def get(self, name: str, target: Path) -> None:
        with guarded("read", self.folder / name):
            shutil.copyfile(self.folder / name, target)

    def remove(self, name: str) -> None:
        durable.discard(self.folder / name)


class FsspecStore:
    """An object store or another remote place; the package for its protocol has to be there."""

    def __init__(self, url: str) -> None:
        try:
            core = importlib.import_module("fsspec.core")
            self._files, path = core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UsageError(f"the storage {url} cannot be used: {error}") from None
        self.root = url
        self._path = path.rstrip("/")

    def write(self, name: str, content: bytes) -> None:
        with guarded("write", Path(name)):
            self._files.pipe_file(self._at(name), content)

    def read(self, name: str) -> bytes | None:
        with guarded("read", Path(name)):
            try:
                content: bytes = self._files.cat_file(self._at(name))
            except FileNotFoundError:
                return None
            return content

    def put(self, source: Path, name: str) -> None:
        with guarded("write", Path(name)):
            self._files.put_file(str(source), self._at(name))

    def get(self, name: str, target: Path) -> None:
        with guarded("read", Path(name)):
            self._files.get_file(self._at(name), str(target))

    def remove(self, name: str) -> None:
        self._files.invalidate_cache()
        with guarded("remove", Path(name)):
            if self._files.exists(self._at(name)):
                self._files.rm(self._at(name), recursive=True)

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}" if name else self._path


@dataclass(frozen=True, slots=True)
class Commit:
    """What part-00003.json says."""

    folder: str
    finished: bool
    work: int  # member steps done
    verdicts: dict[str, int]
    files: dict[str, Digest]


def committed(store: Store, part: int) -> Commit | None:
    """What counts of a part; None before its first upload."""
    content = store.read(_commit_name(part))
    if content is None:
        return None
    document = durable.parsed_json(content, f"{store.root}/{_commit_name(part)}")
    try:
        files = {n: Digest(d["sha256"], d["bytes"]) for n, d in document["files"].items()}
        verdicts = dict(document["verdicts"])
        folder, finished, work = (document[name] for name in ("folder", "finished", "work"))
        # The folder is read and removed by its name, which must not lead elsewhere.
        if not re.fullmatch(f"{_stem(part)}-[0-9a-f]{{12}}", folder):
            raise ValueError(f"the folder {folder!r}")
        counts = (work, *verdicts.values())
        if type(finished) is not bool or any(type(n) is not int or n < 0 for n in counts):
            raise ValueError("a count")
        return Commit(folder, finished, work, verdicts, files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{store.root}/{_commit_name(part)} lacks or misuses {error}") from error


def commit(store: Store, part: int, run: Run) -> None:
    """Upload a run (its newest checkpoint only) and let it count.

    A finished part stays as it is: whoever comes later has the same bits or fewer steps.
    """
    before = committed(store, part)
    if before is not None and before.finished:
        return
    folder = f"{_stem(part)}-{secrets.token_hex(6)}"
    files = {}
    for path in _wanted(run.path):
        name = path.relative_to(run.path).as_posix()
        store.put(path, f"{folder}/{name}")
        files[name] = dataclasses.asdict(durable.digest_of(path))
    other = committed(store, part)  # uploading took a while
    if other is not None and other.finished:
        store.remove(folder)
        return
    document = {
        "folder": folder,
        "finished": run.finished,
        "work": int(run.members["steps"].sum()),
        "verdicts": verdict_counts(run),
        "files": files,
    }
    store.write(_commit_name(part), durable.json_bytes(document))
    if before is not None:
        store.remove(before.folder)


def verdict_counts(run: Run) -> dict[str, int]:
    """How many members carry each label; those without one are left out."""
    return dict(Counter(run.members["verdict"].drop_nulls().to_list()))


def fetch(store: Store, found: Commit, target: Path) -> None:
    """Copy a committed part into the new folder `target`; raises StorageError if it is damaged."""
    for name, digest in found.files.items():
        path = durable.inside(target, name)
        durable.make_folder(path.parent)
        store.get(f"{found.folder}/{name}", path)
        if durable.digest_of(path) != digest:
            raise StorageError(f"{store.root}/{found.folder}/{name} is damaged")


def _wanted(run: Path) -> list[Path]:
    """The files of a run folder that a part consists of."""
    newest = checkpoints.numbered(run / "checkpoints")[-1:]
    rooms = [*newest, run / "metrics", run / "snapshots"]
    found = [path for room in rooms for path in sorted(room.rglob("*"))]
    top = [run / name for name in ("config.json", "tables.safetensors", "members.parquet")]
    return [*top, *(path for path in found if path.is_file())]


def _stem(part: int) -> str:
    return f"part-{part:05d}"


def _commit_name(part: int) -> str:
    return f"{_stem(part)}.json"
