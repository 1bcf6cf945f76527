"""How a command that trains nothing ends: its exit code, and one sentence where it failed."""

from __future__ import annotations

from collections.abc import Callable

from compfast.cli.output import complain
from compfast.errors import CompfastError, Interrupted, OutOfMemory
from compfast.training import interrupts


def outcome(body: Callable[[], None], stopped: str = "stopped") -> int:
    """Run the body; 0, or the code of what ended it, said with `stopped` after a signal.

    Bugs are raised.
    """
    try:
        with interrupts.raising():
            body()
    except KeyboardInterrupt:
        complain(stopped)
        return Interrupted.exit_code
    except CompfastError as error:
        complain(str(error))
        return error.exit_code
    except MemoryError:
        complain(str(OutOfMemory()))
        return OutOfMemory.exit_code
    return 0
