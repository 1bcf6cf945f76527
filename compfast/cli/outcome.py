"""How a command ends: its exit code, and one sentence where it failed."""

from __future__ import annotations

from collections.abc import Callable

from compfast.cli.output import complain
from compfast.errors import CompfastError, Interrupted, OutOfMemory
from compfast.training import interrupts


def outcome(
    body: Callable[[], int | None], stopped: str = "stopped", code: int = Interrupted.exit_code
) -> int:
    """Run the body; what it returns, 0 for None, or the code of what ended it.

    After a signal `stopped` is said, unless it is empty, and the code is `code`. Bugs are raised.
    """
    try:
        with interrupts.raising():
            return _said(body)
    except KeyboardInterrupt:  # also one that comes while an error is being said
        if stopped:
            complain(stopped)
        return code


def _said(body: Callable[[], int | None]) -> int:
    try:
        return body() or 0
    except CompfastError as error:
        complain(str(error))
        return error.exit_code
    except MemoryError:
        complain(str(OutOfMemory()))
        return OutOfMemory.exit_code
