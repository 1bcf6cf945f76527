"""What does not survive a fork, found out before it hangs.

A forked child has the parent's memory but none of its threads. Our own threads end with each call;
polars keeps its pool from the first table to the end of the process, and a child that waits for
it waits for ever.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from compfast.errors import UsageError

_TASKS = Path("/proc/self/task")

_used = False  # this process, or one above it, had tables to make, read or write
_running = False  # the pool, at the moment of a fork
_lost = False  # this process was forked from one in which the pool ran


def tables_ahead() -> None:
    """Call before polars works; raises UsageError in a process in which it would never answer."""
    global _used
    if _lost:
        raise UsageError(
            "this process was forked from one that had used polars, whose threads do not survive"
            " a fork; start it with multiprocessing's 'spawn' or 'forkserver' instead"
        )
    _used = True


def _before() -> None:
    global _running
    _running = _used or _pool_seen()


def _in_child() -> None:
    global _lost
    _lost = _lost or _running


def _pool_seen() -> bool:
    """Whether polars has started its pool, for somebody else; unknown (False) without /proc."""
    try:
        tasks = list(_TASKS.iterdir())
    except OSError:
        return False
    return any(re.fullmatch(r"polars-\d+\n", _name(task)) for task in tasks)


def _name(task: Path) -> str:
    try:
        return (task / "comm").read_text()
    except OSError:  # the thread has ended meanwhile
        return ""


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)
