"""Costly measures: one piece of work after the other on every core, and what it will take."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from compfast.engines.cores import usable_cores

T = TypeVar("T")
Item = TypeVar("Item")
Progress = Callable[[int, int], None]  # called with pieces of work done, and all of them

_AHEAD = 2  # pieces in work for each core


@dataclass(frozen=True, slots=True)
class Effort:
    """What a measure is about to take, told from a first product that was timed."""

    what: str  # of the products
    products: int  # of all members together, at most
    seconds: float  # of all of them, on `cores` cores
    cores: int

    def __str__(self) -> str:
        of = "core" if self.cores == 1 else "cores"
        return f"at most {_spelt(self.seconds)}: {self.products} {self.what} on {self.cores} {of}"


def effort_of(what: str, parts: Sequence[tuple[int, float]], works: int) -> Effort:
    """From how many products there are of each kind and the seconds that one takes.

    They are in `works` pieces, of which a core has one at a time.
    """
    cores = max(1, min(usable_cores().count, works))
    seconds = sum(count * each for count, each in parts) / cores
    return Effort(what, sum(count for count, _ in parts), seconds, cores)


def timed(prepare: Callable[[], Callable[[], Any]]) -> float:
    """Seconds that the product takes which `prepare` gives, in a thread as those of `each_work`.

    It is made twice: the first time also pays for what is set up once.
    """
    from compfast.engines.aside import aside

    def work() -> float:
        product = prepare()
        product()
        begin = time.perf_counter()
        product()
        return time.perf_counter() - begin

    return aside(work)


def each_work(
    work: Callable[[Item], T], items: Sequence[Item], whose: str, progress: Progress | None = None
) -> Iterator[T]:
    """`work(item)` of each item in order, as they come, one a core.

    It is called in a thread that has none of the caller's PyTorch settings; `progress` in the
    caller's. Raises UsageError where this process rounds the operands of products.
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


def _spelt(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
