"""Which engine saved members are asked in once more."""

from __future__ import annotations

from compfast.engines import resolve_engine
from compfast.errors import UsageError


def asked_engine(asked: str | None, own: str, device: str, others: str) -> tuple[str, str]:
    """The engine `asked` for, or the run's own, and its device.

    `device` is the one of the run's own. Raises UsageError where the engine is not to be had; of
    the run's own it says what `others` do.
    """
    name = own if asked is None else asked
    where = device if name == own else "auto"
    try:
        return resolve_engine(name, where), where
    except UsageError as error:
        if asked is not None:
            raise
        raise UsageError(f"{error}; it trained this run, and {others}") from None
