"""What the faults share: reference runs, a run to take up again, and how loss is told."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from small_runs import assert_same_run, saved_arrays, small_config

import compfast
from compfast.config import Config
from compfast.runs.reading import Run


class Missed(Exception):
    """The fault did not come in time."""


def short_config() -> Config:
    """Three members, 24 steps, three checkpoints and a snapshot between two of them."""
    return small_config(steps=24, run={"checkpoint_every": 8, "snapshots": (12,)})


@contextlib.contextmanager
def fast_disk() -> Iterator[None]:
    """No waiting for a disk whose failure is not what is tried."""
    # a mock would keep every call
    with mock.patch("compfast.storage.durable.sync", lambda descriptor: None):  # noqa: PT008
        yield


@functools.cache
def undisturbed(config: Config) -> Run:
    """The run as it is when nothing happens to it."""
    folder = Path(tempfile.mkdtemp(prefix="compfast-whole-"))
    with fast_disk():
        run = compfast.train(config, folder / "run")
    saved_arrays(run)
    return run


def check(config: Config, run: Run) -> None:
    """Fails unless the run has every bit of the undisturbed one, snapshots included."""
    whole = undisturbed(config)
    assert_same_run(whole, run)
    assert run.snapshots == whole.snapshots
    for step in whole.snapshots:
        for name, array in whole.params(0, step).items():
            assert run.params(0, step)[name].tobytes() == array.tobytes(), f"{name} at {step}"


def check_resumed(config: Config, path: Path) -> None:
    """Take the run up again, or start it where no config.json came to be; compare all bits."""
    with fast_disk():
        if (path / "config.json").exists():
            run = compfast.train(None, path, resume=True)
        else:
            run = compfast.train(config, path)
    check(config, run)
    hidden = [p.name for p in path.rglob(".*")]
    assert hidden == [".lock"], f"left behind: {hidden}"


def check_sentence(text: str, *words: str) -> None:
    """Fails unless this is one sentence, and these words are in it."""
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert "Traceback" not in text
    assert all(word in text for word in words), text
