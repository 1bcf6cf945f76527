"""Work on members beside each other: one piece after the other on every core."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from compfast.engines.cores import usable_cores

T = TypeVar("T")
Item = TypeVar("Item")
Tick = Callable[[int, int], None]  # called with pieces of work done, and all of them

_AHEAD = 2  # pieces in work for each core


def each_work(
    work: Callable[[Item], T], items: Sequence[Item], whose: str, progress: Tick | None = None
) -> Iterator[T]:
    """`work(item)` of each item in order, as they come, one a core.

    It is called in a thread that has none of the caller's PyTorch settings; `progress` in the
    caller's. Two pieces a core are in work or waiting to be taken, so that what the caller does not
    keep needs no memory. Raises UsageError where this process rounds the operands of products.
    """
    from compfast.engines.aside import clean_threads, require_exact_products

    cores = usable_cores().count
    with clean_threads(cores) as pool:
        pool.submit(require_exact_products, whose, "").result()
        waiting = collections.deque(pool.submit(work, item) for item in items[: _AHEAD * cores])
        rest = iter(items[_AHEAD * cores :])
        try:
            for done in range(1, len(items) + 1):
                found = waiting.popleft().result()
                for item in rest:
                    waiting.append(pool.submit(work, item))
                    break
                if progress is not None:
                    progress(done, len(items))
                yield found
        finally:
            for future in waiting:
                future.cancel()
