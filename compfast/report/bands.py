"""Bands of what was swept, by the verdict that leads in them: the few rows that a terminal shows.

A band is a stretch of neighbouring gammas (or levels, or bins of a sample) that one verdict leads.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.config import Config
from compfast.ensembles.table import column_of
from compfast.report import bins, table
from compfast.report.places import Line, line_of
from compfast.solutions import wilson

_HEADER = ["leading", "members", "share (95 %)"]
_MANY = 8  # times the rows: bands that are joined in pairs
_APART = 2  # second axes that get rows: more would not fit a terminal's width
_NAMED = 4  # pooled fields that a remark names


@dataclass(frozen=True, slots=True)
class Banded:
    """A table of text, what stands beside each row, and what the rows leave out."""

    header: list[str]
    rows: list[list[str]]
    others: list[list[str]]  # of each row: the verdicts that do not lead, with their counts
    remarks: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class _Band:
    first: int  # place of its first level on the axis
    last: int
    counts: NDArray[np.int64]  # [verdicts], in `table.verdict_order`
    lead: int  # the verdict that most of its members have

    @property
    def members(self) -> int:
        return int(self.counts.sum())


def bands(members: pl.DataFrame, config: Config, most: int) -> Banded:
    """Rows of a run in bands, at most so many of them, whatever was swept.

    Two second axes are told apart, from the first on, as far as `most` rows allow it; then short
    bands join their larger neighbour. What was pooled or joined is said. Members without a verdict
    are left out.
    """
    judged = members.filter(pl.col("verdict").is_not_null())
    labels = table.verdict_order(members)
    line = line_of(judged, config)
    shown, pooled = _told_apart(config, line, most)
    where = judged.with_columns(place=pl.Series(line.place, dtype=pl.Int64))
    cells = [(texts, _bands(own, labels)) for texts, own in table.cells(where, shown) if own.height]
    joined = _join([found for _, found in cells], most)
    header = [*(axis.column for axis in shown), line.name, *_HEADER]
    named = [(texts, band) for texts, found in cells for band in found]
    rows = [[*texts, _stretch(line, band), *_numbers(band, labels)] for texts, band in named]
    others = [_others(band, labels) for _, band in named]
    return Banded(header, rows, others, _remarks(len(rows), pooled, joined))


def _told_apart(config: Config, line: Line, most: int) -> tuple[list[table.Axis], list[str]]:
    """Second axes whose every combination of levels gets rows; what else members differ in."""
    shown: list[table.Axis] = []
    pooled: list[str] = []
    cells = 1
    binning = bins.bins_of(config)
    for axis in table.second_axes(config):
        if axis.path == line.path:
            continue
        # members of a bin are pooled, as in the full table
        full = len(shown) == _APART or cells * len(axis.levels) > most
        if pooled or binning is not None or full:
            pooled.append(axis.column)
        else:
            shown.append(axis)
            cells *= len(axis.levels)
    varied = [path for path, column in config.sample if len(set(column)) > 1]
    binned = binning.path if binning is not None else None
    drawn = [path for path in varied if path not in (binned, bins.SEED)]
    return shown, [*(column_of(path) for path in drawn), *pooled]


def _bands(members: pl.DataFrame, labels: Sequence[str]) -> list[_Band]:
    """Bands of members with their `place`, in its order."""
    verdict, place = members["verdict"].to_numpy(), members["place"].to_numpy()
    found: list[_Band] = []
    for at in np.unique(place).tolist():
        own = verdict[place == at]
        counts = np.array([(own == label).sum() for label in labels], np.int64)
        top = np.flatnonzero(counts == counts.max())
        # where several lead, the band before goes on
        goes_on = bool(found) and found[-1].lead in top
        found.append(_Band(at, at, counts, found[-1].lead if goes_on else int(top[0])))
    return _merged(found)


def _merged(found: Sequence[_Band]) -> list[_Band]:
    """Neighbours that one verdict leads, as one band."""
    merged: list[_Band] = []
    for band in found:
        if merged and merged[-1].lead == band.lead:
            band = _joined(merged.pop(), band)
        merged.append(band)
    return merged


def _joined(left: _Band, right: _Band) -> _Band:
    counts = left.counts + right.counts
    top = np.flatnonzero(counts == counts.max())
    larger = max(left, right, key=lambda band: band.members)
    lead = larger.lead if larger.lead in top else int(top[0])
    return _Band(left.first, right.last, counts, lead)


def _join(cells: Sequence[list[_Band]], most: int) -> int:
    """Join the band of fewest members to its larger neighbour until `most` are left, in place.

    Very many are joined in pairs first. Returns of how few members the largest such band was; 0
    where all fitted.
    """
    largest = 0
    for cell in cells:
        while len(cell) > _MANY * most:
            pairs = list(itertools.zip_longest(cell[::2], cell[1::2]))
            largest = max(largest, *(min(x.members, y.members) for x, y in pairs if y is not None))
            cell[:] = _merged([x if y is None else _joined(x, y) for x, y in pairs])
    while sum(map(len, cells)) > most:
        cell, at = min(
            ((cell, at) for cell in cells if len(cell) > 1 for at in range(len(cell))),
            key=lambda found: found[0][found[1]].members,
        )
        beside = [i for i in (at - 1, at + 1) if 0 <= i < len(cell)]
        other = max(beside, key=lambda i: cell[i].members)
        largest = max(largest, cell[at].members)
        low = min(at, other)
        cell[low : low + 2] = [_joined(*cell[low : low + 2])]
        cell[:] = _merged(cell)
    return largest


def _stretch(line: Line, band: _Band) -> str:
    start, end = line.starts[band.first], line.ends[band.last]
    return start if start == end else f"{start} to {end}"


def _numbers(band: _Band, labels: Sequence[str]) -> list[str]:
    hits, total = int(band.counts[band.lead]), band.members
    low, high = (100 * float(end) for end in wilson(hits, total))
    share = f"{100 * hits / total:.0f} % ({low:.0f} to {high:.0f})"
    return [labels[band.lead], f"{hits} of {total}", share]


def _others(band: _Band, labels: Sequence[str]) -> list[str]:
    found = sorted((-int(n), i) for i, n in enumerate(band.counts) if n and i != band.lead)
    return [f"{labels[i]} {-n}" for n, i in found]


def _remarks(rows: int, pooled: Sequence[str], joined: int) -> list[str]:
    said = []
    if rows > 1:
        said.append("bands by leading verdict; Wilson intervals take members as independent")
    if pooled:
        further = len(pooled) - _NAMED
        names = ", ".join(pooled[:_NAMED]) + (f" and {further} more" if further > 0 else "")
        said.append(f"rows pool the members of every {names}")
    if joined:
        said.append(f"bands of up to {joined} members were joined to a neighbour to save rows")
    return said
