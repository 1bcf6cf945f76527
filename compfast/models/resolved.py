"""Sizes of a network that `compfast.models.families.resolve` fills in."""

from __future__ import annotations


def known(value: int | None) -> int:
    """A resolved size; raises ValueError for one that is still to be derived."""
    if value is None:
        raise ValueError("the model is not resolved: call compfast.models.families.resolve first")
    return value
