"""Parts for benchmarks.gpu that measure nothing: they end well, raise, crash or hang."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

from benchmarks.gpu_rows import Row, Setting


def row(setting: Setting, what: str) -> Row:
    return Row(
        "none", "", "", "", "", what, 0, setting.d, setting.heads, setting.precision,
        setting.members, setting.batch, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
    )  # fmt: skip


def well(setting: Setting, failures: list[str]) -> Iterator[Row]:
    yield row(setting, "well")


def finds(setting: Setting, failures: list[str]) -> Iterator[Row]:
    yield row(setting, "finds")
    failures.append("its loss is off")


def raises(setting: Setting, failures: list[str]) -> Iterator[Row]:
    yield row(setting, "raises")
    raise RuntimeError("no memory")


def crashes(setting: Setting, failures: list[str]) -> Iterator[Row]:
    yield row(setting, "crashes")
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(setting: Setting, failures: list[str]) -> Iterator[Row]:
    """With a compiler of its own, which says where it is in the row."""
    child = subprocess.Popen(["sleep", "600"])
    yield row(setting, f"hangs {child.pid}")
    time.sleep(600)
