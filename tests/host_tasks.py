"""Tasks for tests of engines: a table that C++ draws from, and batches that Python draws."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from compfast.config import Ports
from compfast.tasks.table import TableDraws

Batch = Callable[[int, int, int], Any]  # seed, step, size


class TableTask:
    """C++ draws from the table."""

    def __init__(self, draws: TableDraws) -> None:
        self.stream = draws.stream
        self.length = draws.tokens.shape[1]
        self.ports = Ports(self.length, int(draws.tokens.max()) + 1)


class HostTask:
    """Python draws; what was asked for, and by whom, is written down.

    Fails where two ask at the same time.
    """

    def __init__(self, of: Any, before: Batch | None = None) -> None:
        self._batch: Batch = of.batch
        self.length: int = of.tokens.shape[1] if isinstance(of, TableDraws) else of.length
        tokens = of.tokens.max() + 1 if isinstance(of, TableDraws) else of.vocabulary
        self.ports = Ports(self.length, int(tokens))
        self._before = before  # called with each request
        self.asked: list[tuple[int, int]] = []
        self.threads: set[threading.Thread] = set()
        self._turn = threading.Lock()

    def stream(self) -> None:
        return None

    def batch(self, seed: int, step: int, size: int) -> Any:
        assert self._turn.acquire(blocking=False), "two ask at the same time"
        try:
            self.asked.append((seed, step))
            self.threads.add(threading.current_thread())
            given = self._before(seed, step, size) if self._before is not None else None
            return self._batch(seed, step, size) if given is None else given
        finally:
            self._turn.release()
