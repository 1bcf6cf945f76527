"""Counts and means over the seeds, by gamma: what the tables and figures of a report show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.config import Config
from compfast.errors import UsageError
from compfast.members import column_of
from compfast.solutions import DIVERGED, MIXED, OTHER, UNDERFIT, Difference, band_difference

Float64 = NDArray[np.float64]

_KNOWN_CANDIDATES = ("inferential", "symmetric")


@dataclass(frozen=True, slots=True)
class Axis:
    """A swept field: its column in the members table, and its levels in ascending order."""

    column: str
    levels: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Spread:
    """An agreement over the seeds of each gamma: mean and quartiles, each [G]; NaN: no member."""

    mean: Float64
    low: Float64
    high: Float64


@dataclass(frozen=True, slots=True)
class Summary:
    """One row a gamma; every array is [G]."""

    gamma: Float64
    members: NDArray[np.int64]
    counts: dict[str, NDArray[np.int64]]  # verdict -> members with it, in `verdict_order`
    agreements: dict[str, Spread]  # "seen" and the candidates

    def share(self, verdict: str) -> Float64:
        zero = np.zeros(len(self.gamma), np.int64)
        return np.asarray(self.counts.get(verdict, zero) / self.members, np.float64)


def candidates(members: pl.DataFrame) -> tuple[str, ...]:
    """The candidate solutions that the table has scores for, the anchors' two first."""
    labels = set(members["verdict"].drop_nulls().unique().to_list())
    known = [name for name in _KNOWN_CANDIDATES if name in members.columns]
    own = labels - {UNDERFIT, MIXED, OTHER, DIVERGED} - set(known)
    return (*known, *(name for name in members.columns if name in own))


def verdict_order(members: pl.DataFrame) -> tuple[str, ...]:
    """All labels that a member may have, in the order in which they are shown."""
    return (UNDERFIT, *candidates(members), MIXED, OTHER, DIVERGED)


def summarise(members: pl.DataFrame, names: Sequence[str] | None = None) -> Summary:
    """The members pooled by gamma; `names` are the candidates (default: those of the table)."""
    names = candidates(members) if names is None else names
    gamma, verdict = members["gamma"].to_numpy(), members["verdict"].to_numpy()
    gammas, index = np.unique(gamma, return_inverse=True)
    order = (UNDERFIT, *names, MIXED, OTHER, DIVERGED)
    counts = {label: np.bincount(index[verdict == label], minlength=len(gammas)) for label in order}
    agreements = {
        name: _spread(members[name], index, len(gammas))
        for name in ("seen", *names)
        if name in members.columns
    }
    return Summary(gammas, np.bincount(index, minlength=len(gammas)), counts, agreements)


def second_axes(config: Config) -> tuple[Axis, ...]:
    """What was swept besides gamma and seed, depth first, since the papers draw depth."""
    axes = [
        Axis(column_of(path), tuple(sorted(values)))
        for path, values in config.sweep
        if path not in ("init.gamma", "seed") and len(values) > 1
        if all(isinstance(value, (int, float, str)) for value in values)
    ]
    return tuple(sorted(axes, key=lambda axis: axis.column != "layers"))


def level(members: pl.DataFrame, axis: Axis, value: Any) -> pl.DataFrame:
    return members.filter(pl.col(axis.column) == value)


def rows_by_gamma(
    members: pl.DataFrame, axes: Sequence[Axis] = ()
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text: members by verdict and mean agreements, a row a gamma.

    With an axis, its levels one after the other; only verdicts that occur have a column.
    """
    names = candidates(members)
    axis = axes[0] if axes else None
    present = set(members["verdict"].drop_nulls().unique().to_list())
    labels = [label for label in verdict_order(members) if label in present]
    scores = [name for name in ("seen", *names) if name in members.columns]
    header = [*([axis.column] if axis else []), "gamma", "members", *labels]
    header += [f"mean {name}" for name in scores]
    rows = []
    for value in axis.levels if axis else (None,):
        own = members if axis is None else level(members, axis, value)
        found = summarise(own, names)
        for i, gamma in enumerate(found.gamma):
            row = [] if axis is None else [_text(value)]
            row += [f"{gamma:.4g}", str(found.members[i])]
            row += [str(found.counts[label][i]) for label in labels]
            means = (found.agreements[name].mean[i] for name in scores)
            rows.append(row + [f"{mean:.2f}" if np.isfinite(mean) else "-" for mean in means])
    return header, rows


def sentences(members: pl.DataFrame, config: Config, verdict: str = "inferential") -> list[str]:
    """`band_sentence`, for each level of the second axis if one was swept."""
    axes = second_axes(config)[:1]
    parts = [(f"{a.column} {_text(v)}: ", level(members, a, v)) for a in axes for v in a.levels]
    said = [(label, band_sentence(own, verdict)) for label, own in parts or [("", members)]]
    return [label + sentence for label, sentence in said if sentence is not None]


def band_sentence(members: pl.DataFrame, verdict: str = "inferential") -> str | None:
    """The share of `verdict` in the lower and the upper half of the gammas, and their difference.

    The bands are fixed by the range that was asked for, not chosen after a look at the shares.
    None where there is nothing to compare: fewer than two gammas or two seeds, or seeds that are
    missing in one of the bands.
    """
    gammas = np.unique(members["gamma"].to_numpy())
    if len(gammas) < 2 or members["seed"].n_unique() < 2 or verdict not in members.columns:
        return None
    half = len(gammas) // 2
    bands = ((gammas[0], gammas[half - 1]), (gammas[-half], gammas[-1]))
    hit = (members["verdict"] == verdict).to_numpy()
    try:
        found = band_difference(members["gamma"], members["seed"], hit, *bands)
    except UsageError:
        return None
    (a, b), (c, d) = bands
    gamma = members["gamma"].to_numpy()
    first, second = (float(hit[(gamma >= x) & (gamma <= y)].mean()) for x, y in bands)
    return (
        f"{verdict} share: {first:.0%} at gamma {_band(a, b)}, {second:.0%} at {_band(c, d)};"
        f" difference {_interval(found)}"
    )


def _band(low: float, high: float) -> str:
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _interval(found: Difference) -> str:
    return (
        f"{100 * found.estimate:+.0f} points (95 % bootstrap over seeds"
        f" {100 * found.low:+.0f} to {100 * found.high:+.0f})"
    )


def _spread(column: pl.Series, index: NDArray[np.int64], size: int) -> Spread:
    values = column.cast(pl.Float64).to_numpy()
    rows = np.full((3, size), np.nan)
    for i in range(size):
        own = values[index == i]
        own = own[np.isfinite(own)]
        if len(own):
            rows[:, i] = own.mean(), *np.quantile(own, [0.25, 0.75])
    return Spread(*rows)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
