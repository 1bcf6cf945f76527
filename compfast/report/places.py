"""Where members stand: along what was swept first of all, and on every other axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.config import Config
from compfast.config.labels import numbers
from compfast.report import bins, table


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """Places in a row, in ascending order, with the members that stand at each."""

    path: str  # of the field whose values they are
    name: str  # its column
    x: NDArray[np.float64]  # [places] values, or the middles of bins
    log: bool
    starts: list[str]  # [places] as text; of a bin its two ends
    ends: list[str]
    place: NDArray[np.int64]  # [M] of each member


def line_of(members: pl.DataFrame, config: Config) -> Line:
    """Bins of a sample; else gamma; of one gamma the first second axis that holds numbers."""
    binning = bins.bins_of(config)
    if binning is not None:
        drawn = np.array(bins.values(members, config, binning.path), np.float64)
        ends = numbers(binning.edges.tolist())
        name, place = f"{binning.column} (bin)", binning.index(drawn)
        return Line(binning.path, name, binning.middles, binning.log, ends[:-1], ends[1:], place)
    gammas, place = np.unique(members["gamma"].to_numpy(), return_inverse=True)
    axis = next((a for a in table.second_axes(config) if bins.numeric(a.levels)), None)
    if len(gammas) > 1 or axis is None:
        texts = list(table.gamma_texts(members).values())
        return Line(bins.GAMMA, "gamma", gammas, False, texts, texts, place.astype(np.int64))
    x, place = np.array(axis.levels, np.float64), level_index(members, axis)
    return Line(axis.path, axis.column, x, bins.wide(axis.levels), axis.labels, axis.labels, place)


def level_index(members: pl.DataFrame, axis: table.Axis) -> NDArray[np.int64]:
    """The index in `axis.levels` of each member's level [M]."""
    inverse = np.argsort(axis.places)  # of a level's place in the sweep
    place = members["member"].to_numpy() // axis.stride % len(axis.levels)
    return np.asarray(inverse[place], np.int64)
