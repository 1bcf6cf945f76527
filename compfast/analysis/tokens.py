"""What the token table looks like: its covariance, and whether numbers lie in it in their order."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.analysis.long import joined, part, stacks, tensors_of
from compfast.analysis.snapshots import checked_steps
from compfast.errors import UsageError
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run
from compfast.streams import philox
from compfast.tasks import Exam, labels_of

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

COMPONENTS = 2  # first principal ones, from which numbers are read
_TABLE = "embed.token.weight"
_SHUFFLE = 2  # seed of the control's order of numbers


def embeddings(
    run: Run, steps: Sequence[int] | None = None, *, components: int = COMPONENTS
) -> pl.DataFrame:
    """The covariance of token embeddings, and how well the items' numbers are readable in them.

    A long table. Over the tokens that occur in a member's exam: `variance`, the eigenvalues of
    their covariance by `index`, largest first (arXiv 2405.05409), and `dimensions`, the square of
    their sum over the sum of their squares. Where the exam's labels say of which numbers items are
    the tokens (`key` and `position`), over those items, two measures of order that are this
    project's, since the papers show pictures: `order_r2`, R2 of the number in a least-squares fit
    from the first `components` principal components of the items (by chance about components /
    (items - 1)), and
    `order_distance`, the correlation over pairs of items of their distance in the table with that
    of their numbers; the same with the numbers in another order are `shuffled_order_r2` and
    `shuffled_order_distance`. Null for a table that is 0 or not finite. Raises UsageError for a run
    without token embeddings, `components` below 1, and steps that there are not.
    """
    if components < 1:
        raise UsageError(f"components is {components}; it must be at least 1")
    wanted = [[name for name in names if name == _TABLE] for names in tensors_of(run)]
    if not any(wanted):
        raise UsageError(f"the networks of {run.path} have no table of tokens ({_TABLE})")
    known = {
        spec.member: items
        for specs, exam in zip(run.groups, exams_of(run.groups), strict=True)
        for items in [(used_tokens(exam), *numbered_tokens(exam))]
        for spec in specs
    }
    parts = []
    for members, step, name, stack in stacks(run, checked_steps(run, steps), wanted):
        used, tokens, numbers = known[members[0]]
        if stack.shape[1] == 1:  # of a single logit: token 0 adds nothing
            stack = np.concatenate([np.zeros_like(stack), stack], axis=1)
        rows = [spread(table[used]) for table in stack]
        found = {"variance": np.array([variance for variance, _ in rows])}
        found["dimensions"] = np.array([dimensions for _, dimensions in rows])
        if len(tokens) > components + 1:
            orders = [order(table[tokens], numbers, components) for table in stack]
            found |= {key: np.array([own[key] for own in orders]) for key in orders[0]}
        parts.append(part(members, step, name, found))
    return joined(parts)


def used_tokens(exam: Exam) -> Int64:
    """The tokens that an exam has, in order."""
    return np.unique(exam.inputs).astype(np.int64)


def numbered_tokens(exam: Exam) -> tuple[Int64, Float64]:
    """Tokens that stand for numbers and these, in their order; none where labels do not say it."""
    labels = labels_of(exam)
    if not {"key", "position"} <= set(labels):
        return np.empty(0, np.int64), np.empty(0)
    numbers, at = labels["key"][:, 0].astype(np.float64), labels["position"][:, 0].astype(np.int64)
    own, first = np.unique(numbers, return_index=True)
    return exam.inputs[first, at[first]].astype(np.int64), own


def spread(table: NDArray[Any]) -> tuple[Float64, float]:
    """Eigenvalues [D] of the covariance of rows [n, D], largest first, and their dimensions."""
    n, width = table.shape
    variance = np.full(width, np.nan)
    if not np.isfinite(table).all() or n < 2:
        return variance, np.nan
    s = np.linalg.svd(table - table.mean(axis=0), compute_uv=False)
    variance[:] = 0
    variance[: len(s)] = np.square(s) / (n - 1)
    return variance, _ratio(variance.sum() ** 2, np.square(variance).sum())


def order(table: NDArray[Any], numbers: Float64, components: int = COMPONENTS) -> dict[str, float]:
    """The measures of order of `embeddings` for items [n, D] and their numbers [n]."""
    names, whole = ("order_r2", "order_distance"), ("", "shuffled_")
    if not np.isfinite(table).all() or not np.ptp(table, axis=0).any():
        return {f"{before}{name}": np.nan for before in whole for name in names}
    centred = table - table.mean(axis=0)
    left, s, _ = np.linalg.svd(centred, full_matrices=False)
    scores = left[:, :components][:, s[:components] > 0]  # orthonormal, with mean 0
    one, other = np.triu_indices(len(table), 1)
    apart = np.sqrt(np.square(centred[one] - centred[other]).sum(axis=1))
    found = {}
    shuffled = numbers[_turned(len(numbers))]
    for before, own in zip(whole, (numbers, shuffled), strict=True):
        deviation = own - own.mean()
        explained = np.square(scores.T @ deviation).sum()
        found[f"{before}order_r2"] = _ratio(explained, np.square(deviation).sum())
        found[f"{before}order_distance"] = _correlation(apart, np.abs(own[one] - own[other]))
    return found


@functools.lru_cache(maxsize=8)
def _turned(count: int) -> Int64:
    return philox.feistel(_SHUFFLE, 0, np.arange(count), count)


def _correlation(x: Float64, y: Float64) -> float:
    x, y = x - x.mean(), y - y.mean()
    return _ratio((x * y).sum(), np.sqrt(np.square(x).sum() * np.square(y).sum()))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else np.nan
