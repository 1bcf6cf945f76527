"""Signals that end a run: finish the step, save, leave; a second SIGINT leaves at once.

They are SIGINT and SIGTERM, SIGHUP (the terminal was closed), SIGUSR1 and SIGUSR2 (a scheduler
wants the machine) and SIGXCPU (the time is up). One that is ignored stays ignored, as SIGHUP is
under nohup; one that a handler outside of Python has taken (faulthandler) stays with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from compfast.errors import Interrupted

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
STOPPING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))

STOPPED_AT_ONCE = "stopped at once; a run that had begun goes on with --resume"


class StopSignals:
    """A context in which the signals set `requested` and call `request`.

    Handlers belong to the main thread; elsewhere nothing is installed. The old ones come back
    at the end.
    """

    def __init__(self, request: Callable[[], None]) -> None:
        self.requested = False
        self._request = request
        self._installed = contextlib.ExitStack()

    def __enter__(self) -> StopSignals:
        self._installed.enter_context(_handled(STOPPING, self._handle))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._installed.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            with contextlib.suppress(OSError):  # the terminal may be gone
                os.write(2, b"\nstopped at once; the last checkpoint stands\n")
            os._exit(Interrupted.exit_code)
        self.requested = True
        self._request()


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """A context in which the signals raise KeyboardInterrupt in the main thread, as SIGINT does.

    For what holds no run that could be saved. Handlers of the user's own stay.
    """
    default = [n for n in STOPPING if signal.getsignal(n) == signal.SIG_DFL]
    with _handled(default, signal.default_int_handler):
        yield


def ignore() -> None:
    """For the end of a process: nothing is left to stop but its exit code."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _handled(
    numbers: Sequence[int], handler: Callable[[int, FrameType | None], Any]
) -> Iterator[None]:
    """The old handlers come back, also where they are the user's own."""
    old: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        taken = _taken_outside()
        old = {n: signal.getsignal(n) for n in numbers}
        old = {n: was for n, was in old.items() if was != signal.SIG_IGN and n not in taken}
    try:
        for number in old:
            signal.signal(number, handler)
        yield
    finally:
        for number, was in old.items():
            signal.signal(number, was)


def _taken_outside() -> set[int]:
    """Signals with a handler that Python did not install, as far as the system tells."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        caught = 0
    else:
        caught = int(next(x[7:] for x in status.splitlines() if x.startswith("SigCgt:")), 16)
    return {
        number
        for number in STOPPING
        if signal.getsignal(number) is None
        or (signal.getsignal(number) == signal.SIG_DFL and caught >> (number - 1) & 1)
    }
