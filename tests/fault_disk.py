"""Faults of the disk: power loss, damaged files, no room, no permission."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from fault_tools import (
    check,
    check_resumed,
    check_sentence,
    fast_disk,
    short_config,
    undisturbed,
)
from power_loss import Disk, Operation, note, recorded
from small_runs import interrupted_at, numbers

import compfast
from compfast.storage import durable

OPERATIONS = ("open_file", "write", "sync", "rename")


class Crash(BaseException):
    """The machine stops here."""


@contextlib.contextmanager
def failing(
    count: int, error: BaseException, operations: tuple[str, ...] = OPERATIONS
) -> Iterator[None]:
    """Let the operation number `count` (from 0) and every later one raise `error`."""
    left = count

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise error
            return original(*arguments)

        return operation

    wrapped: dict[str, Any] = {name: wrap(getattr(durable, name)) for name in operations}
    with mock.patch.multiple(durable, **wrapped):
        yield


def power_loss_strict(folder: Path, random: Random) -> None:
    """Nothing is on disk but what a sync covered."""
    _lose_power(*_first_log(), folder, random, None)


def power_loss_any(folder: Path, random: Random) -> None:
    """Of the rest, any part: names without bytes, bytes cut off, zeros."""
    _lose_power(*_first_log(), folder, random, random)


def power_loss_resuming(folder: Path, random: Random) -> None:
    """The same while a stopped run is taken up again, which also removes files."""
    _lose_power(*_second_log(), folder, random, random.choice((None, random)))


def power_loss_unsynced(pattern: str, folder: Path, random: Random) -> None:
    """The control: as if files or folders of such names were never synced."""
    base, log = _first_log()
    left = [o for o in log if o.kind != "sync" or not fnmatch(o.path.name, pattern)]
    assert len(left) < len(log)
    _lose_power(base, left, folder, random, None)


class _Notes(compfast.Callback):
    """Notes in the log which checkpoints were reported as complete."""

    def __init__(self, log: list[Operation]) -> None:
        self.log = log

    def on_checkpoint(self, path: Path) -> None:
        note(self.log, path.name)


@functools.cache
def _first_log() -> tuple[Path, list[Operation]]:
    """A whole run, in a folder that is empty before."""
    base = Path(tempfile.mkdtemp(prefix="compfast-log-"))
    with recorded() as log:
        compfast.train(short_config(), base / "here" / "run", [_Notes(log)])
    shutil.rmtree(base / "here")
    return base, log


@functools.cache
def _second_log() -> tuple[Path, list[Operation]]:
    """A run that is taken up again after its first checkpoint."""
    base = Path(tempfile.mkdtemp(prefix="compfast-log-"))
    (base / "here").mkdir()
    path = base / "here" / "run"
    interrupted_at(path, short_config(), 10)
    stray = path / "checkpoints" / ".tmp-000003"
    stray.mkdir()
    (stray / "state.json").write_text("{")
    before = base / "before"
    shutil.copytree(path, before)
    with recorded() as log:
        note(log, f"{max(numbers(path)):06d}")
        compfast.train(None, path, [_Notes(log)], resume=True)
    shutil.rmtree(path)
    shutil.move(before, path)
    return base, log


def _lose_power(
    base: Path, log: list[Operation], folder: Path, random: Random, rest: Random | None
) -> None:
    moment = random.randint(0, len(log))
    disk = Disk(base)
    for operation in log[:moment]:
        disk.apply(operation)
    disk.after_power_loss(rest, folder / "disk")
    path = folder / "disk" / "here" / "run"
    promised = [int(str(o.path)) for o in log[:moment] if o.kind == "note"]
    found = numbers(path)
    if promised:
        newest = compfast.load(path).checkpoint
        assert newest is not None, f"moment {moment}: checkpoint {promised[-1]} is gone"
        assert newest.number >= promised[-1], f"moment {moment}: {promised} but {found}"
    try:
        check_resumed(short_config(), path)
    except Exception as error:
        raise AssertionError(f"moment {moment} of {len(log)}: {error}") from error


def damaged_file(folder: Path, random: Random) -> None:
    """One file of a stopped run is not what was written."""
    path = folder / "run"
    config = short_config()
    with fast_disk():
        interrupted_at(path, config, 20)
    newest = max(numbers(path))
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size)
    file = random.choice(files)
    said = _damage(file, random)
    place = file.relative_to(path).parts
    before = _content(path)
    said = f"{'/'.join(place)} {said}"
    skipped: list[str] = []

    class Look(compfast.Callback):
        def on_start(self, run: Any, outline: Any) -> None:
            skipped.extend(outline.skipped)
            assert outline.resumed_at is not None

    refused = ""
    try:
        with fast_disk():
            run = compfast.train(None, path, [Look()], resume=True)
    except compfast.CompfastError as error:
        refused = str(error)
    if refused:
        # What both checkpoints need cannot be had from anywhere else.
        check_sentence(refused, *([] if place[0] == "config.json" else [file.name]))
        assert place[0] in ("config.json", "tables.safetensors", "metrics"), said
        assert _content(path) == before, f"{said}: something was removed"
        return
    if place[0] == "checkpoints" and place[1] == f"{newest:06d}":
        assert len(skipped) == 1, said
        assert file.name in skipped[0], said
        assert f"{newest:06d} was skipped" in skipped[0], said
    elif place[0] == "metrics":
        assert len(skipped) == 1, said
    else:
        assert not skipped, said
    if place[0] == "snapshots":
        try:
            run.params(0, 12)
        except compfast.StorageError as error:
            check_sentence(str(error))
            shutil.rmtree(path / "snapshots" / "00000012")
            shutil.copytree(_snapshot(), path / "snapshots" / "00000012")
    check(config, compfast.load(path))


def _snapshot() -> Path:
    return undisturbed(short_config()).path / "snapshots" / "00000012"


def _damage(file: Path, random: Random) -> str:
    content = bytearray(file.read_bytes())
    kind = random.choice(("flipped", "cut", "zeroed", "longer", "missing"))
    if kind == "missing":
        file.unlink()
        return kind
    place = random.randrange(len(content))
    if kind == "flipped":
        content[place] ^= 1 << random.randrange(8)
    elif kind == "cut":
        del content[place:]
    elif kind == "zeroed":
        content[place:] = bytes(len(content) - place)
        content[place] = 0 if content[place] else 1
    else:
        content += random.randbytes(random.randint(1, 99))
    if bytes(content) == file.read_bytes():
        content[place] ^= 255
    file.write_bytes(content)
    return f"{kind} at {place}"


def _content(path: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def full_disk(folder: Path, random: Random) -> None:
    """From one operation on every other fails too; then there is room again."""
    path, config = folder / "run", short_config()
    code = random.choice((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS))
    with fast_disk():
        try:
            with failing(random.randrange(180), OSError(code, os.strerror(code))):
                compfast.train(config, path)
        except compfast.StorageError as error:
            check_sentence(str(error), os.strerror(code))
        if (path / "config.json").exists():
            compfast.load(path)  # whatever stands is readable
    check_resumed(config, path)


def read_only(folder: Path, random: Random) -> None:
    """The run folder loses its write permission at some checkpoint, or before the run."""
    path, config = folder / "run", short_config()
    undisturbed(config)  # imports what nobody may not read
    path.mkdir()
    at = random.randrange(3)

    class Turn(compfast.Callback):
        def on_checkpoint(self, saved: Path) -> None:
            if saved.name == f"{at:06d}":
                _permit(path, False)

    with _unprivileged(folder), fast_disk():
        if at == 0:
            _permit(path, False)
        for again in (False, True):
            if again and at == 0:
                continue
            try:
                given = None if again else config
                compfast.train(given, path, [Turn()], resume=again)
            except compfast.StorageError as error:
                check_sentence(str(error), "Permission denied")
            else:
                raise AssertionError("the run went on in a folder that cannot be written")
            if at:
                run = compfast.load(path)  # reading needs no permission to write
                assert run.params(0)
                assert run.metrics.height
    _permit(path, True)
    check_resumed(config, path)


def _permit(path: Path, write: bool) -> None:
    for folder in (path, *(p for p in path.rglob("*") if p.is_dir())):
        folder.chmod(0o755 if write else 0o555)


@contextlib.contextmanager
def _unprivileged(folder: Path) -> Iterator[None]:
    """Root may write anywhere: be nobody for a while."""
    if os.geteuid():
        yield
        return
    nobody = 65534
    for path in (folder, *folder.rglob("*")):
        os.chown(path, nobody, nobody)
    os.seteuid(nobody)
    try:
        yield
    finally:
        os.seteuid(0)
