"""Whole numbers that flags carry."""

from __future__ import annotations

from compfast.ensembles.grid import number
from compfast.errors import UsageError


def count(text: str | None, flag: str, least: int = 1, below: int | None = None) -> int | None:
    """A whole number of at least `least` (and less than `below`)."""
    if text is None:
        return None
    allowed = f"a whole number of at least {least}" + (f" and below {below}" if below else "")
    value = number(text.strip(), int)
    if not isinstance(value, int):
        raise UsageError(f"{flag} is {text!r}; it must be {allowed}")
    if value < least or (below is not None and value >= below):
        raise UsageError(f"{flag} is {text}; it must be {allowed}")
    return value
