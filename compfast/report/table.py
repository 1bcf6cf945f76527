"""Counts and means over the seeds, by gamma: what the tables and figures of a report show."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.config import Config
from compfast.config.labels import labels, listed, numbers
from compfast.ensembles.table import column_of
from compfast.errors import UsageError
from compfast.solutions import DIVERGED, MIXED, OTHER, UNDERFIT, Difference, band_difference

Float64 = NDArray[np.float64]

_MOST_CELLS = 16  # combinations of levels that tables and sentences tell apart


@dataclass(frozen=True, slots=True)
class Axis:
    """A swept field with its levels in ascending order, None first.

    A level is found by a member's place in the grid, not by its value in the members table: a
    derived value (d_k, None) may be another level's, and lists are text there.
    """

    path: str
    levels: tuple[Any, ...]
    places: tuple[int, ...]  # of each level in the sweep
    stride: int  # members from one level to the next in the sweep

    @property
    def column(self) -> str:
        return column_of(self.path)

    @property
    def labels(self) -> list[str]:
        return labels(self.levels)


@dataclass(frozen=True, slots=True)
class Split:
    """The second axes: those whose levels tables and sentences tell apart, and the others."""

    shown: tuple[Axis, ...]
    pooled: tuple[Axis, ...]


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
    """The candidate solutions that the table has scores for: what stands from `seen` to `other`."""
    names = members.columns
    after = names[names.index("seen") + 1 :] if "seen" in names else []
    return tuple(itertools.takewhile(lambda name: name not in ("other", "steps"), after))


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
    axes, stride = [], math.prod(len(values) for _, values in config.sweep)
    for path, values in config.sweep:
        stride //= len(values)
        if path not in ("init.gamma", "seed") and len(values) > 1:
            order = sorted(range(len(values)), key=lambda i: (values[i] is not None, values[i]))
            axes.append(Axis(path, tuple(values[i] for i in order), tuple(order), stride))
    return tuple(sorted(axes, key=lambda axis: axis.path != "model.layers"))


def split(config: Config) -> Split:
    """The first second axis, and further ones while there are few combinations of levels."""
    shown: list[Axis] = []
    pooled: list[Axis] = []
    for axis in second_axes(config):
        cells = math.prod(len(other.levels) for other in (*shown, axis))
        (shown if not shown or cells <= _MOST_CELLS else pooled).append(axis)
    return Split(tuple(shown), tuple(pooled))


def level(members: pl.DataFrame, axis: Axis, index: int) -> pl.DataFrame:
    """The members at the level of this index in `axis.levels`."""
    place = pl.col("member") // axis.stride % len(axis.levels)
    return members.filter(place == axis.places[index])


def cells(
    members: pl.DataFrame, axes: Sequence[Axis]
) -> Iterator[tuple[tuple[str, ...], pl.DataFrame]]:
    """The labels and the members of every combination of levels, the last axis fastest."""
    texts = [axis.labels for axis in axes]
    for indices in itertools.product(*(range(len(axis.levels)) for axis in axes)):
        own = members
        for axis, index in zip(axes, indices, strict=True):
            own = level(own, axis, index)
        yield tuple(text[i] for text, i in zip(texts, indices, strict=True)), own


def rows_by_gamma(
    members: pl.DataFrame, axes: Sequence[Axis] = ()
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text: members by verdict and mean agreements, a row a gamma.

    With axes, their combinations of levels one after the other; only verdicts that occur have a
    column.
    """
    names = candidates(members)
    present = set(members["verdict"].drop_nulls().unique().to_list())
    shown = [label for label in verdict_order(members) if label in present]
    scores = [name for name in ("seen", *names) if name in members.columns]
    header = [*(axis.column for axis in axes), "gamma", "members", *shown]
    header += [f"mean {name}" for name in scores]
    gammas = gamma_texts(members)
    rows = []
    for texts, own in cells(members, axes):
        found = summarise(own, names)
        for i, gamma in enumerate(found.gamma):
            row = [*texts, gammas[gamma], str(found.members[i])]
            row += [str(found.counts[label][i]) for label in shown]
            means = (found.agreements[name].mean[i] for name in scores)
            rows.append(row + [f"{mean:.2f}" if np.isfinite(mean) else "-" for mean in means])
    return header, rows


def gamma_texts(members: pl.DataFrame) -> dict[float, str]:
    """Every gamma of these members, in as many digits as tell it from its neighbours."""
    gammas = np.unique(members["gamma"].to_numpy()).tolist()
    return dict(zip(gammas, numbers(gammas), strict=True))


def sentences(members: pl.DataFrame, config: Config, verdict: str | None = None) -> list[str]:
    """`band_sentence` for each combination of the levels told apart, and what was pooled."""
    axes = split(config)
    said = []
    for texts, own in cells(members, axes.shown):
        names = (f"{axis.column} {text}" for axis, text in zip(axes.shown, texts, strict=True))
        label, sentence = ", ".join(names), band_sentence(own, verdict)
        if sentence is not None:
            said.append(f"{label}: {sentence}" if label else sentence)
    if axes.pooled:
        pooled = ", ".join(f"{axis.column} ({listed(axis.levels)})" for axis in axes.pooled)
        said.append(f"the table and its sentences pool the members of every {pooled}")
    return said


def band_sentence(members: pl.DataFrame, verdict: str | None = None) -> str | None:
    """The share of `verdict` in the lower and the upper half of the gammas, and their difference.

    It is the task's first candidate where none is given, as on the map.
    The bands are fixed by the range that was asked for, not chosen after a look at the shares.
    None where there is nothing to compare: fewer than two gammas or two seeds, or seeds that are
    missing in one of the bands.
    """
    gammas = np.unique(members["gamma"].to_numpy())
    verdict = next(iter(candidates(members)), None) if verdict is None else verdict
    if len(gammas) < 2 or members["seed"].n_unique() < 2 or verdict not in verdict_order(members):
        return None
    half = len(gammas) // 2
    bands = ((gammas[0], gammas[half - 1]), (gammas[-half], gammas[-1]))
    hit = (members["verdict"] == verdict).fill_null(False).to_numpy()
    try:
        found = band_difference(members["gamma"], members["seed"], hit, *bands)
    except UsageError:
        return None
    texts = gamma_texts(members)
    low, high = (" to ".join(texts[end] for end in dict.fromkeys(ends)) for ends in bands)
    gamma = members["gamma"].to_numpy()
    first, second = (float(hit[(gamma >= x) & (gamma <= y)].mean()) for x, y in bands)
    return (
        f"{verdict} share: {first:.0%} at gamma {low}, {second:.0%} at {high};"
        f" difference {_interval(found)}"
    )


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
