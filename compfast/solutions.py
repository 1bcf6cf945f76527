"""From scores to a verdict: which solution did a member learn, and how sure is a share of it?

Pure NumPy; a task's exam gives the scores (compfast/tasks/). [Z24] = Zhang et al. 2024,
arXiv 2405.05409, section 3 and appendix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compfast.config import EvaluationConfig
from compfast.config.labels import numbers
from compfast.errors import UsageError
from compfast.tasks import Scores

UNDERFIT, MIXED, OTHER, DIVERGED = "underfit", "mixed", "other", "diverged"

_SLACK = 1e-9  # shares are ratios of counts: 0.6 - 0.4 has to reach a lead of 0.2

Float64 = NDArray[np.float64]


class Columns(Protocol):
    """A table of columns: a mapping of arrays or a data frame."""

    def __getitem__(self, name: str, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of two shares with a percentile interval."""

    estimate: float
    low: float
    high: float


def verdicts(
    scores: Scores, evaluation: EvaluationConfig, diverged: NDArray[np.bool_]
) -> NDArray[np.str_]:
    """The label of every member [M].

    `diverged` [M] overrules everything; then `underfit` below `evaluation.fitted`; then the
    candidate with at least `share` that leads every other answer by at least `lead`; else
    `mixed` where the candidates together reach `evaluation.mixed`, else `other`.
    """
    names = np.array([*scores.candidates, MIXED, OTHER])
    shares = np.stack(list(scores.candidates.values()))  # [candidates, M]
    ranked = np.sort(np.concatenate([shares, scores.other[None]]), axis=0)
    best, top = shares.argmax(axis=0), shares.max(axis=0)
    # The best candidate is either the winner of all answers, or `other` stands above it.
    rival = np.where(top >= scores.other, ranked[-2], scores.other)
    named = (top >= evaluation.share - _SLACK) & (top - rival >= evaluation.lead - _SLACK)
    together = shares.sum(axis=0) >= evaluation.mixed - _SLACK
    unnamed = np.where(together, len(names) - 2, len(names) - 1)
    label = names[np.where(named, best, unnamed)]
    label = np.where(scores.seen < evaluation.fitted - _SLACK, UNDERFIT, label)
    return np.where(diverged, DIVERGED, label)


def wilson(k: ArrayLike, n: ArrayLike, z: float = 1.959964) -> tuple[Float64, Float64]:
    """Wilson score interval (low, high) of k hits among n, element-wise; (0, 1) for n = 0.

    Source: Wilson 1927; z = 1.959964 gives 95 %.
    """
    hits, total = np.asarray(k, np.float64), np.asarray(n, np.float64)
    if np.any(hits < 0) or np.any(hits > total):
        raise UsageError(f"wilson got {k!r} hits of {n!r}; hits must be between 0 and the total")
    safe = np.maximum(total, 1.0)
    share = hits / safe
    centre = share + z * z / (2 * safe)
    spread = z * np.sqrt(share * (1 - share) / safe + z * z / (4 * safe * safe))
    scale = 1 + z * z / safe
    low = np.where(hits == 0, 0.0, (centre - spread) / scale)
    high = np.where(hits == total, 1.0, (centre + spread) / scale)
    return low, high


def band_difference(
    gamma: ArrayLike,
    seed: ArrayLike,
    hit: ArrayLike,
    first: tuple[float, float],
    second: tuple[float, float],
    *,
    samples: int = 10_000,
    confidence: float = 0.95,
    bootstrap_seed: int = 0,
) -> Difference:
    """Share of hits with gamma in `first` minus that in `second` (both bands [low, high]).

    gamma, seed, hit: [M]. Members share seeds across gammas, so seeds are what is resampled:
    each draw takes whole seeds with replacement, in both bands alike (paired percentile
    bootstrap). Raises UsageError when a seed is missing in one of the bands.
    """
    gammas, seeds = np.asarray(gamma, np.float64), np.asarray(seed)
    hits = np.asarray(hit, np.float64)
    known, index = np.unique(seeds, return_inverse=True)
    sums = []
    for low, high in (first, second):
        inside = (gammas >= low - _SLACK) & (gammas <= high + _SLACK)
        total = np.bincount(index[inside], minlength=len(known))
        if len(known) == 0 or total.min() == 0:
            raise UsageError(
                f"gamma band {':'.join(numbers((low, high)))} lacks members of some seeds;"
                " paired bands need every seed in both"
            )
        sums.append(
            (np.bincount(index[inside], hits[inside], minlength=len(known)), total.astype(float))
        )
    generator = np.random.Generator(np.random.Philox(bootstrap_seed))
    drawn = generator.integers(0, len(known), size=(samples, len(known)))
    (hit1, all1), (hit2, all2) = sums
    draws = hit1[drawn].sum(1) / all1[drawn].sum(1) - hit2[drawn].sum(1) / all2[drawn].sum(1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    estimate = hit1.sum() / all1.sum() - hit2.sum() / all2.sum()
    return Difference(float(estimate), float(low), float(high))


def paper_protocol(
    members: Columns,
    mappings: Sequence[str] = ("inferential", "symmetric"),
    cell: Sequence[str] = ("gamma", "layers"),
) -> dict[str, NDArray[Any]]:
    """The phase diagram of [Z24] from a members table, one row a cell (gamma x depth).

    Per cell and seed the best agreement over the learning rates trained, for each mapping
    separately; then the mean over seeds. Returns the cell's columns, the mappings, and `seeds`,
    the number of seeds behind each mean. Cells come sorted; members whose agreement is missing
    (null or NaN) count as 0, since they answered nothing.
    """
    columns = {name: np.asarray(members[name]) for name in (*cell, "seed", *mappings)}
    rows: dict[tuple[Any, ...], dict[Any, list[int]]] = {}
    for row in range(len(columns["seed"])):
        key = tuple(columns[name][row].item() for name in cell)
        rows.setdefault(key, {}).setdefault(columns["seed"][row].item(), []).append(row)
    keys = sorted(rows)
    result: dict[str, NDArray[Any]] = {
        name: np.array([key[i] for key in keys]) for i, name in enumerate(cell)
    }
    for mapping in mappings:
        values = np.nan_to_num(columns[mapping].astype(np.float64), nan=0.0)
        result[mapping] = np.array(
            [np.mean([values[lrs].max() for lrs in rows[key].values()]) for key in keys]
        )
    result["seeds"] = np.array([len(rows[key]) for key in keys])
    return result
