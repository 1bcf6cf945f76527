"""Members that were drawn at random, in bins of what was drawn: where there are no levels to pool.

Bins come from the points alone: their number from how many there are, their ends from the least
and the greatest value. No verdict has a part in it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.config import Config
from compfast.config.labels import numbers
from compfast.ensembles.grid import sweep_size
from compfast.ensembles.table import column_of
from compfast.report import table

GAMMA, SEED = "init.gamma", "seed"
_POINTS, _MOST = 16, 10  # points that a bin has on average at least, and bins
_WIDE = 10.0  # ratio of the ends, from which on numbers may be shown in log


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins of one sampled field, and the further fields that the points differ in."""

    path: str
    edges: NDArray[np.float64]  # [B + 1]
    log: bool  # bins of equal ratio, else of equal width
    further: tuple[str, ...]

    @property
    def column(self) -> str:
        return column_of(self.path)

    @property
    def labels(self) -> list[str]:
        ends = numbers(self.edges.tolist())
        return [f"{low} to {high}" for low, high in itertools.pairwise(ends)]

    @property
    def middles(self) -> NDArray[np.float64]:
        """[B]"""
        low, high = self.edges[:-1], self.edges[1:]
        return np.asarray(np.sqrt(low * high) if self.log else (low + high) / 2)

    def index(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """The bin of each value; an end that two bins share is the upper one's."""
        place = np.searchsorted(self.edges, values, side="right") - 1
        return np.clip(place, 0, len(self.edges) - 2).astype(np.int64)


def bins_of(config: Config) -> Bins | None:
    """Bins of gamma where it was sampled, else of the first sampled field that holds numbers.

    None without a sample, and where gamma has levels to draw lines over.
    """
    varied = [path for path, column in config.sample if path != SEED and len(set(column)) > 1]
    columns = dict(config.sample)
    if not varied or len(dict(config.sweep).get(GAMMA, ())) > 1:
        return None
    fit = [path for path in varied if numeric(columns[path])]
    path = GAMMA if GAMMA in fit else next(iter(fit), None)
    if path is None:
        return None
    return ranged(path, columns[path], config.points, tuple(p for p in varied if p != path))


def ranged(path: str, column: tuple[Any, ...], points: int, further: tuple[str, ...] = ()) -> Bins:
    """Bins of the numbers that `points` points have in a field."""
    low, high = float(min(column)), float(max(column))
    many = min(max(points // _POINTS, 1), _MOST)
    log = path != GAMMA and wide(column)
    edges = np.geomspace(low, high, many + 1) if log else np.linspace(low, high, many + 1)
    return Bins(path, edges, log, further)


def numeric(column: tuple[Any, ...]) -> bool:
    """Whether all values are numbers that have a place on an axis."""
    plain = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in column)
    return plain and bool(np.isfinite(np.array(column, np.float64)).all())


def wide(column: tuple[Any, ...]) -> bool:
    """Whether numbers are spread over orders of magnitude, most of them near the lower end."""
    low, high = min(column), max(column)
    return bool(low > 0 and high / low >= _WIDE and np.median(column) < 0.3 * (low + high))


def values(members: pl.DataFrame, config: Config, path: str) -> list[Any]:
    """What each of these members has in a sampled field."""
    column = dict(config.sample)[path]
    return [column[m // sweep_size(config)] for m in members["member"].to_list()]


def binned(members: pl.DataFrame, config: Config, bins: Bins) -> pl.DataFrame:
    """The members with the number of their bin for a gamma, so that `table` pools by it."""
    drawn = np.array(values(members, config, bins.path), np.float64)
    return members.with_columns(gamma=pl.Series(bins.index(drawn), dtype=pl.Float64))


def rows(members: pl.DataFrame, config: Config) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text, a row a bin; a gamma and level where there are some (`table`)."""
    bins = bins_of(config)
    if bins is None:
        return table.rows_by_gamma(members, table.split(config).shown)
    header, found = table.rows_by_gamma(binned(members, config, bins))
    return [f"{bins.column} (bin)", *header[1:]], [
        [bins.labels[int(float(first))], *rest] for first, *rest in found
    ]


def remarks(members: pl.DataFrame, config: Config) -> list[str]:
    """The sentences under the table, and what its rows pool of a sample."""
    bins = bins_of(config)
    names = [column_of(path) for path, column in config.sample if len(set(column)) > 1]
    if bins is None:
        said = table.sentences(members, config)
        if config.sample:
            said.append(f"the rows pool the {config.points} points ({', '.join(names)} differ)")
        return said
    pooled = [column_of(path) for path in bins.further]
    pooled += [axis.column for axis in table.second_axes(config)]
    also = f"; members of a bin also differ in {', '.join(pooled)}" if pooled else ""
    ratio = "ratio" if bins.log else "width"
    return [
        f"{config.points} points have no levels of {bins.column}: a row is one of"
        f" {len(bins.labels)} bins of equal {ratio}{also}"
    ]
