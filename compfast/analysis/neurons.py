"""How neurons condense: groups of those that point the same way, at every step kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.analysis.long import joined, part, stacks, tensors_of
from compfast.analysis.snapshots import checked_steps
from compfast.errors import UsageError
from compfast.runs.reading import Run

Float64 = NDArray[np.float64]

ALIKE = 0.7  # cosine above which neurons are of one group [arXiv 2405.05409, figures of W_Q]
_ROOM = 2**22  # cosines of so many pairs at once: 32 MB in float64
# Tensors whose neurons are looked at -> whether these are its columns.
_NEURONS = {"attention.query.weight": False, "ffn.up.weight": False, "ffn.down.weight": True}


def condensation(
    run: Run, steps: Sequence[int] | None = None, *, threshold: float = ALIKE
) -> pl.DataFrame:
    """Groups of neurons by their directions: rows of W_Q and W_in, columns of W_out, each layer.

    Two neurons are linked where the cosine of their weights is above `threshold`: 0.7 in the paper
    (arXiv 2405.05409), 0.4 in a notebook of its authors. How links make groups the paper does not
    say; here a group is what hangs together by links. A long table of `groups`, those of two
    neurons or more; `grouped`, the share of neurons in them; `largest`, the share in the largest
    group, 1 / n where no two are linked; and `cosine`, the mean of |cosine| over pairs, which needs
    no threshold. A neuron that is 0 is linked to none. Null for a matrix that is not finite.
    Raises UsageError for a threshold outside (-1, 1), steps that there are not and a run whose
    networks have none of these matrices.
    """
    if not -1 < threshold < 1:
        raise UsageError(f"threshold is {threshold}; it must be a cosine between -1 and 1")
    wanted = [[t for t in own if _columns(t) is not None] for own in tensors_of(run)]
    if not any(wanted):
        raise UsageError(
            f"model.family is {run.groups[0][0].model.family}; its networks have none of"
            f" {', '.join(_NEURONS)}"
        )
    parts = []
    for members, step, name, stack in stacks(run, checked_steps(run, steps), wanted):
        neurons = stack.transpose(0, 2, 1) if _columns(name) else stack
        parts.append(part(members, step, name, grouping(neurons, threshold)))
    return joined(parts)


def grouping(neurons: NDArray[Any], threshold: float = ALIKE) -> dict[str, Float64]:
    """The columns of `condensation` for neurons [M, n, d]: name -> [M]."""
    members, n, _ = neurons.shape
    found = {name: np.full(members, np.nan) for name in ("groups", "grouped", "largest", "cosine")}
    at_once = max(1, _ROOM // (n * n))
    for first in range(0, members, at_once):
        rows = np.arange(first, min(first + at_once, members))
        own = np.asarray(neurons[rows], np.float64)
        regular = np.isfinite(own).all(axis=(1, 2))
        cosines = _cosines(own[regular])
        sizes = _sizes(cosines > threshold)  # of the group that starts at each neuron
        several = sizes >= 2
        whole = np.abs(cosines).sum(axis=(1, 2)) - np.abs(np.trace(cosines, axis1=1, axis2=2))
        values = {
            "groups": several.sum(axis=1),
            "grouped": (sizes * several).sum(axis=1) / n,
            "largest": sizes.max(axis=1) / n,
            "cosine": whole / (n * (n - 1)) if n > 1 else np.full(len(whole), np.nan),
        }
        for name, numbers in values.items():
            found[name][rows[regular]] = numbers
    return found


def _columns(name: str) -> bool | None:
    """Whether its neurons are columns; None: it is no matrix of neurons."""
    return next((c for end, c in _NEURONS.items() if name.endswith(f".{end}")), None)


def _cosines(neurons: Float64) -> Float64:
    """[M, n, n]; 0 with a neuron that is 0."""
    largest = np.abs(neurons).max(axis=2, keepdims=True)  # first: squares must not overflow
    scaled = neurons / np.where(largest > 0, largest, 1.0)
    norm = np.sqrt(np.square(scaled).sum(axis=2, keepdims=True))
    units = scaled / np.where(norm > 0, norm, 1.0)
    return units @ units.transpose(0, 2, 1)


def _sizes(linked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Sizes [M, n] of connected parts of graphs [M, n, n], at their first neuron; elsewhere 0.

    Every neuron takes the least number among its own and its links' until none changes.
    """
    members, n, _ = linked.shape
    linked = linked | np.eye(n, dtype=np.bool_)
    least = np.tile(np.arange(n), (members, 1))
    for _ in range(n):
        after = np.where(linked, least[:, None, :], n).min(axis=2)
        after = np.take_along_axis(after, after, axis=1)
        if (after == least).all():
            break
        least = after
    sizes = np.zeros((members, n), np.int64)
    np.add.at(sizes, (np.arange(members)[:, None], least), 1)
    return sizes
