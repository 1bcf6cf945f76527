"""What costly measures will take, told before they begin."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from compfast.engines.cores import usable_cores


@dataclass(frozen=True, slots=True)
class Effort:
    """What a measure is about to take, told from a first product that was timed."""

    what: str  # of the products
    products: int  # of all members together, at most
    seconds: float  # of all of them, on `cores` cores
    cores: int  # that work at once

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
    """Seconds that the product takes which `prepare` gives, in a thread as `each_work`'s.

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


def _spelt(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
