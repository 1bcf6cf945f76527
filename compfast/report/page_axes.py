"""What members of a run differ in, as axes of the page: levels, and which one each member has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.config import Config
from compfast.config.labels import labels
from compfast.report import style
from compfast.report.bins import GAMMA, SEED, Bins, numeric, ranged, values
from compfast.report.packing import indices, packed

_ROWS = 12  # values of a sampled field up to which each is a level of its own


@dataclass(frozen=True, slots=True, eq=False)
class PageAxis:
    """A field that members differ in."""

    path: str
    labels: list[str]  # of its levels, or of bins of what was drawn
    level: NDArray[np.int64]  # [M], place in `labels`
    drawn: NDArray[np.float64] | None = None  # [M], the numbers themselves where they were drawn
    log: bool = False  # those are spread over orders of magnitude
    binned: bool = False

    def plain(self) -> dict[str, Any]:
        """As data of the page."""
        found = {
            "path": self.path,
            "name": style.field_name(self.path),
            "labels": self.labels,
            "level": indices(self.level, len(self.labels)),
            "binned": self.binned,
            "log": self.log,
        }
        return found if self.drawn is None else {**found, "drawn": packed(self.drawn, "f8")}


def page_axes(members: pl.DataFrame, config: Config) -> list[PageAxis]:
    """Gamma, then what else was swept, what was drawn, and the seed last."""
    found = [*_swept(members, config), *_sampled(members, config)]
    return sorted(found, key=lambda axis: (axis.path == SEED, axis.path != GAMMA))


def _swept(members: pl.DataFrame, config: Config) -> Iterator[PageAxis]:
    """By a member's place in the grid: a derived value may be another level's."""
    member = members["member"].to_numpy()
    stride = math.prod(len(levels) for _, levels in config.sweep)
    for path, levels in config.sweep:
        stride //= len(levels)
        if len(levels) < 2:
            continue
        order = sorted(range(len(levels)), key=lambda i: (levels[i] is not None, levels[i]))
        place = np.empty(len(levels), np.int64)
        place[order] = np.arange(len(levels))
        shown = labels([levels[i] for i in order])
        yield PageAxis(path, shown, place[member // stride % len(levels)])


def _sampled(members: pl.DataFrame, config: Config) -> Iterator[PageAxis]:
    for path, column in config.sample:
        if len(set(column)) < 2:
            continue
        own = values(members, config, path)
        distinct = sorted(set(column), key=lambda value: (value is not None, value))
        number = numeric(column)
        drawn = np.array(own, np.float64) if number else None
        bins = ranged(path, column, config.points) if number and len(distinct) > _ROWS else None
        if drawn is not None and bins is not None:
            yield _binned(path, drawn, bins)
            continue
        place = {value: i for i, value in enumerate(distinct)}
        level = np.array([place[value] for value in own], np.int64)
        yield PageAxis(path, labels(distinct), level, drawn)


def _binned(path: str, drawn: NDArray[np.float64], bins: Bins) -> PageAxis:
    return PageAxis(path, bins.labels, bins.index(drawn), drawn, bins.log, True)
