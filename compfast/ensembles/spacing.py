"""Numbers between two ends, evenly spaced or drawn, in 12 digits and the same on every CPU.

Logarithms and powers are decimal's, which rounds them right; libm's hang on the processor.
"""

from __future__ import annotations

from decimal import Decimal

from compfast.streams.fixedmath import forty_digits

DIGITS = 12  # significant ones of a number that is neither of the ends


def evenly_in_log(low: float, high: float, n: int) -> tuple[float, ...]:
    """`n` >= 2 numbers whose logarithms are evenly spaced, both ends as they are; low > 0."""
    inner = (between_in_log(low, high, i, n - 1) for i in range(1, n - 1))
    return (low, *inner, high)


def between_in_log(low: float, high: float, part: int, whole: int) -> float:
    """low^(1 - part / whole) * high^(part / whole), never outside of the ends; low > 0."""
    with forty_digits():
        first, last = Decimal(low).ln(), Decimal(high).ln()
        value = (first + (last - first) * part / whole).exp()
        return _within(low, float(f"{value:.{DIGITS - 1}e}"), high)


def between(low: float, high: float, part: int, whole: int) -> float:
    """low + (high - low) * part / whole, never outside of the ends."""
    with forty_digits():
        value = Decimal(low) + (Decimal(high) - Decimal(low)) * part / whole
        return _within(low, float(f"{value:.{DIGITS - 1}e}"), high)


def _within(low: float, value: float, high: float) -> float:
    """An end of more digits than a value is rounded to may be passed by a rounding."""
    return min(max(low, value), high)
