"""The memory that this process can have at most: what asks for more ends before it is taken.

A system that promises more memory than there is would end the process later, without a word.
"""

from __future__ import annotations

import os
from pathlib import Path

from compfast.errors import OutOfMemory

# The limit of a container or a job, of cgroup v2 and v1.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_limit() -> int | None:
    """Bytes of the machine, or of the container where they are fewer; None where nobody says."""
    found = [limit for path in _LIMITS if (limit := _read(path)) is not None]
    try:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (OSError, ValueError):
        return min(found, default=None)
    return min(found)


def has_room(needed: int) -> bool:
    """False where so many bytes are more than all memory."""
    limit = memory_limit()
    return limit is None or needed <= limit


def require_room(needed: int) -> None:
    """Raises OutOfMemory where so many bytes are more than all memory."""
    if not has_room(needed):
        raise OutOfMemory


def _read(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None
