"""SIGINT and SIGTERM: finish the step, save, leave; a second SIGINT leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from compfast.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """A context in which the two signals set `requested` and call `request`.

    Handlers belong to the main thread; elsewhere nothing is installed. The old ones come back
    at the end.
    """

    def __init__(self, request: Callable[[], None]) -> None:
        self.requested = False
        self._request = request
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            os.write(2, b"\nstopped at once; the last checkpoint stands\n")
            os._exit(Interrupted.exit_code)
        self.requested = True
        self._request()
