"""The full table of a run, a row a gamma and combination of levels, as CSV for other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from compfast.config import Config
from compfast.report import bins, table
from compfast.report.places import level_index


def csv_text(members: pl.DataFrame, config: Config) -> str:
    """Header and rows: what was swept, `members`, a count a verdict, mean scores in full digits.

    No level is pooled. Of a sample with bins a row is one bin, from NAME_low to NAME_high. A mean
    is of the members that stayed finite, empty where there is none.
    """
    binning = bins.bins_of(config)
    axes = () if binning is not None else table.second_axes(config)
    keys = [f"place {i}" for i in range(len(axes))]
    pooled = members if binning is None else bins.binned(members, config, binning)
    verdicts = table.verdict_order(members)
    scores = [s for s in ("seen", *table.candidates(members)) if s in members.columns]
    found = (
        pooled.with_columns(
            pl.Series(key, level_index(members, axis)) for key, axis in zip(keys, axes, strict=True)
        )
        .group_by(*keys, "gamma")
        .agg(
            pl.len().alias("members"),
            *((pl.col("verdict") == verdict).sum().alias(f"n {verdict}") for verdict in verdicts),
            *(_mean(score).alias(f"mean {score}") for score in scores),
        )
        .sort(*keys, "gamma")
    )
    gamma = ["gamma"] if binning is None else [f"{binning.column}_{end}" for end in ("low", "high")]
    header = [*(axis.column for axis in axes), *gamma, "members", *verdicts]
    lines = [[*header, *(f"mean_{score}" for score in scores)]]
    for row in found.iter_rows(named=True):
        levels = [axis.levels[row[key]] for axis, key in zip(axes, keys, strict=True)]
        counts = [row["members"], *(row[f"n {verdict}"] for verdict in verdicts)]
        means = [row[f"mean {score}"] for score in scores]
        cells = [_text(value) for value in (*levels, *_ends(row, binning), *counts)]
        lines.append([*cells, *("" if mean is None else repr(mean) for mean in means)])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _mean(score: str) -> pl.Expr:
    value = pl.col(score).cast(pl.Float64)
    return value.filter(value.is_finite()).mean()


def _ends(row: Mapping[str, Any], binning: bins.Bins | None) -> list[float]:
    if binning is None:
        return [row["gamma"]]
    place = int(row["gamma"])
    return [float(end) for end in binning.edges[place : place + 2]]


def _text(value: Any) -> str:
    """A level or count in full, without line ends and without what a terminal would obey."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in value)
    if isinstance(value, (bool, tuple, list)):
        return json.dumps(value, separators=(",", ":"))
    return "none" if value is None else repr(value)
