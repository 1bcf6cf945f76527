"""What a disk holds after the power fails: a log of writes, replayed up to a moment.

`recorded` notes every operation through which `compfast.storage.durable` changes the disk. `Disk`
replays them on a model in which a file's bytes are safe once the file is synced, and a name
(created, renamed or removed) once its folder is. Everything else may be there or not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from unittest import mock

from compfast.storage import durable


@dataclass(frozen=True, slots=True)
class Operation:
    kind: str  # create, write, sync, rename, mkdir, remove; note: a mark without effect
    path: Path
    data: bytes = b""
    target: Path = Path()


def note(log: list[Operation], text: str) -> None:
    """Mark this moment of a log."""
    log.append(Operation("note", Path(text)))


@contextlib.contextmanager
def recorded() -> Iterator[list[Operation]]:
    """The operations on disk of everything inside, in order."""
    log: list[Operation] = []
    open_file, write, rename = durable.open_file, durable.write, durable.rename
    make_folder, discard = durable.make_folder, durable.discard

    def path_of(descriptor: int) -> Path:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))

    def opened(path: Path, flags: int) -> int:
        if flags & os.O_CREAT and not path.exists():
            log.append(Operation("create", path.absolute()))
        return open_file(path, flags)

    def written(descriptor: int, data: memoryview) -> int:
        count = write(descriptor, data)
        log.append(Operation("write", path_of(descriptor), bytes(data[:count])))
        return count

    def renamed(source: Path, target: Path) -> None:
        log.append(Operation("rename", source.absolute(), target=target.absolute()))
        rename(source, target)

    def made(path: Path) -> None:
        missing = [p for p in (path, *path.parents) if not p.exists()]
        log.extend(Operation("mkdir", p.absolute()) for p in reversed(missing))
        make_folder(path)

    def discarded(path: Path) -> None:
        if path.exists():
            log.append(Operation("remove", path.absolute()))
        discard(path)

    def synced(descriptor: int) -> None:
        log.append(Operation("sync", path_of(descriptor)))

    with mock.patch.multiple(
        durable,
        open_file=opened,
        write=written,
        sync=synced,
        rename=renamed,
        make_folder=made,
        discard=discarded,
    ):
        yield log


@dataclass(slots=True, eq=False)
class _File:
    data: bytes = b""
    safe: bytes = b""

    def sync(self) -> None:
        self.safe = self.data


@dataclass(slots=True, eq=False)
class _Folder:
    names: dict[str, _File | _Folder] = field(default_factory=dict)
    safe: dict[str, _File | _Folder] = field(default_factory=dict)
    unsafe: list[dict[str, _File | _Folder]] = field(default_factory=list)  # after each change

    def change(self, name: str, node: _File | _Folder | None) -> None:
        if node is None:
            del self.names[name]
        else:
            self.names[name] = node
        self.unsafe.append(dict(self.names))

    def sync(self) -> None:
        self.safe, self.unsafe = dict(self.names), []


class Disk:
    """A model of the folder `root`, whose present content is safe."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._top = _read(root)

    def apply(self, operation: Operation) -> None:
        path = operation.path
        if operation.kind == "note" or not path.is_relative_to(self.root):
            return
        if operation.kind == "write":
            file = self._find(path)
            assert isinstance(file, _File)
            file.data += operation.data
        elif operation.kind == "sync":
            self._find(path).sync()
        elif operation.kind == "rename":
            folder = self._folder(path.parent)
            assert operation.target.parent == path.parent
            node = folder.names.pop(path.name)
            folder.change(operation.target.name, node)
        elif operation.kind == "remove":
            _empty(self._find(path))
            self._folder(path.parent).change(path.name, None)
        else:
            made: _File | _Folder = _File() if operation.kind == "create" else _Folder()
            self._folder(path.parent).change(path.name, made)

    def after_power_loss(self, random: Random | None, target: Path) -> None:
        """Write what is left into the new folder `target`.

        Without `random` nothing is left but what is safe; with it, each folder shows the names
        of some moment since it was synced, and each file some of the bytes written since.
        """
        _write(self._top, random, target)

    def _find(self, path: Path) -> _File | _Folder:
        node: _File | _Folder = self._top
        for name in path.relative_to(self.root).parts:
            assert isinstance(node, _Folder)
            node = node.names[name]
        return node

    def _folder(self, path: Path) -> _Folder:
        node = self._find(path)
        assert isinstance(node, _Folder)
        return node


def _read(path: Path) -> _Folder:
    folder = _Folder()
    for entry in path.iterdir():
        if entry.is_dir():
            folder.names[entry.name] = _read(entry)
        else:
            content = entry.read_bytes()
            folder.names[entry.name] = _File(content, content)
    folder.sync()
    return folder


def _empty(node: _File | _Folder) -> None:
    """A tree is removed leaf by leaf, and each removal may be on disk before the others."""
    if isinstance(node, _Folder):
        for name in list(node.names):
            _empty(node.names[name])
            node.change(name, None)


def _write(node: _File | _Folder, random: Random | None, target: Path) -> None:
    if isinstance(node, _File):
        target.write_bytes(_left_of(node, random))
        return
    target.mkdir()
    names = node.safe if random is None else random.choice([node.safe, *node.unsafe])
    for name, inner in names.items():
        _write(inner, random, target / name)


def _left_of(file: _File, random: Random | None) -> bytes:
    """Bytes that were not synced may be there, cut off, or zeros."""
    if random is None or file.safe == file.data:
        return file.safe
    cut = random.randint(len(file.safe), len(file.data))
    zeros = bytes(random.choice((0, len(file.data) - cut)))
    return random.choice((file.safe, file.data, file.data[:cut] + zeros))
