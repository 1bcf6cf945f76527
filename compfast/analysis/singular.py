"""Singular spectra of members' matrices and the ranks that they make, at every step kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.analysis.long import SCHEMA, joined, melted, part, stacks
from compfast.analysis.matrices import chosen_matrices
from compfast.analysis.snapshots import checked_steps
from compfast.runs.reading import Run

Float64 = NDArray[np.float64]

_CHUNK = 2**22  # numbers of a stack that are decomposed at once: 32 MB in float64
# The weights whose mean stable rank is the complexity of 2501.08537: see `complexity`.
COMPLEXITY = tuple(f"attention.{name}.weight" for name in ("query", "key", "value", "output"))


def ranks(run: Run, steps: Sequence[int] | None = None) -> pl.DataFrame:
    """`stable_rank` and `effective_rank` of every matrix, and each member's `complexity`.

    A long table (compfast.analysis.long). The stable rank is sum (s / s_max)^2 over the singular
    values s (arXiv 2501.08537), from 1 to the full rank; the effective rank is exp of the entropy
    of s / sum s (Roy and Vetterli 2007). Of a matrix that is 0 or not finite both are null.
    Networks without matrices of attention have no complexity. Raises UsageError for steps that
    there are not.
    """
    steps = checked_steps(run, steps)
    parts = []
    for members, step, name, stack in stacks(run, steps, chosen_matrices(run, None)):
        s = spectrum(stack)
        found = {"stable_rank": stable_ranks(s), "effective_rank": effective_ranks(s)}
        parts.append(part(members, step, name, found))
    own = pl.concat([pl.DataFrame(schema=SCHEMA), *parts])
    attention = own.filter(measure="stable_rank").filter(pl.col("place").is_in(COMPLEXITY))
    return joined([own, _mean(attention)])


def spectra(run: Run, steps: Sequence[int] | None = None) -> pl.DataFrame:
    """Every singular value of every matrix, largest first: `singular_value` by `index`.

    A long table; null of a matrix that is not finite. Raises UsageError for steps that there are
    not.
    """
    steps = checked_steps(run, steps)
    return joined(
        [
            part(members, step, name, {"singular_value": spectrum(stack)})
            for members, step, name, stack in stacks(run, steps, chosen_matrices(run, None))
        ]
    )


def complexity(
    run: Run, steps: Sequence[int] | None = None, tensors: Sequence[str] = COMPLEXITY
) -> pl.DataFrame:
    """The mean stable rank of some weights, named by the end of their names, over all layers.

    The effective complexity of arXiv 2501.08537 is the stable rank of "a 640-wide weight", of
    which the notebook does not say which. Its value at large init, about 160 = 640 / 4, is that of
    a square Gaussian matrix, and of a network of that width only attention's four are square: so
    their mean is the default here, and `tensors` takes others. Raises UsageError for steps and
    names that there are not.
    """
    wanted = chosen_matrices(run, tensors)
    parts = [
        part(members, step, name, {"stable_rank": stable_ranks(spectrum(stack))})
        for members, step, name, stack in stacks(run, checked_steps(run, steps), wanted)
    ]
    return joined([_mean(pl.concat([pl.DataFrame(schema=SCHEMA), *parts]))])


def spectrum(stack: NDArray[Any]) -> Float64:
    """Singular values [M, min(rows, columns)] of matrices [M, rows, columns], largest first.

    NaN for one that is not finite.
    """
    members, rows, columns = stack.shape
    found = np.full((members, min(rows, columns)), np.nan)
    at_once = max(1, _CHUNK // (rows * columns))
    for first in range(0, members, at_once):
        own = np.asarray(stack[first : first + at_once], np.float64)
        regular = np.isfinite(own).all(axis=(1, 2))  # else LAPACK finds none of the stack
        found[first : first + at_once][regular] = np.linalg.svd(own[regular], compute_uv=False)
    return found


def stable_ranks(s: Float64) -> Float64:
    """Of singular values [M, K], largest first: sum (s / s_max)^2, [M]; NaN where all are 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.square(s / s[:, :1]).sum(axis=1))


def effective_ranks(s: Float64) -> Float64:
    """Of singular values [M, K]: exp of the entropy of s / sum s, [M]; NaN where all are 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        p = s / s.sum(axis=1, keepdims=True)
        logs = np.log(np.where(p > 0, p, 1.0))
        return np.where(np.isnan(p).any(axis=1), np.nan, np.exp(-(p * logs).sum(axis=1)))


def _mean(table: pl.DataFrame) -> pl.DataFrame:
    """`complexity` of each (member, step) from its stable ranks; NaN where one of them is."""
    grouped = table.group_by("member", "step", maintain_order=True)
    return melted(grouped.agg(pl.col("value").mean().alias("complexity")), ["complexity"])
