"""Long tables of measures, a row a number: what all measures give, and relations and figures read.

Columns: member, step, `layer` (from 0; null where a number is of no layer), `place` (a tensor's
name without its layer, "attention.query.weight", an edge of attention, or null where a number is of
the whole network), `index` (a head, or the place in a spectrum; else null), measure, value. A value
that is not finite is null.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.analysis.snapshots import kept_as
from compfast.config.extras import needed
from compfast.models.params import parameter_table
from compfast.runs.reading import Run

SCHEMA: dict[str, type[pl.DataType]] = {
    "member": pl.Int64,
    "step": pl.Int64,
    "layer": pl.Int64,
    "place": pl.String,
    "index": pl.Int64,
    "measure": pl.String,
    "value": pl.Float64,
}
KEY = ("measure", "place", "layer", "index")  # which number of a member at a step it is
_LAYER = re.compile(r"blocks\.(\d+)\.(.+)")


def tensors_of(run: Run) -> list[list[str]]:
    """The names of each group's tensors, in the order of the parameters."""
    return [[tensor.name for tensor in parameter_table(specs[0].model)] for specs in run.groups]


def stacks(
    run: Run, steps: Sequence[int], wanted: Sequence[Sequence[str]]
) -> Iterator[tuple[list[int], int, str, NDArray[np.float64]]]:
    """Members, step, name of a tensor and its values [M, *shape] in float64, one at a time."""
    for group, (specs, names) in enumerate(zip(run.groups, wanted, strict=True)):
        members = [spec.member for spec in specs]
        for step in steps:
            for name in names:
                stack = run.stacked(group, name, kept_as(run, step))
                yield members, step, name, stack.astype(np.float64)


def place_of(name: str) -> tuple[int | None, str]:
    """A tensor's layer and its name there."""
    found = _LAYER.fullmatch(name)
    return (int(found[1]), found[2]) if found else (None, name)


def part(
    members: Sequence[int],
    step: int,
    name: str | None,
    values: Mapping[str, NDArray[Any]],
) -> pl.DataFrame:
    """Rows of numbers by measure, [M] or, with an index, [M, K], of a tensor or (None) all."""
    layer, place = (None, None) if name is None else place_of(name)
    frames = []
    for measure, numbers in values.items():
        several = numbers.ndim == 2
        count = numbers.shape[1] if several else 1
        rows = len(members) * count
        columns = {
            "member": np.repeat(np.asarray(members, np.int64), count),
            "step": np.full(rows, step),
            "layer": pl.Series([layer], dtype=pl.Int64).new_from_index(0, rows),
            "place": pl.Series([place], dtype=pl.String).new_from_index(0, rows),
            "index": np.tile(np.arange(count), len(members)) if several else [None] * rows,
            "measure": pl.Series([measure], dtype=pl.String).new_from_index(0, rows),
            "value": numbers.astype(np.float64).ravel(),
        }
        frames.append(pl.DataFrame(columns, schema=SCHEMA))
    return pl.concat(frames)


def melted(table: pl.DataFrame, measures: Sequence[str], index: str | None = None) -> pl.DataFrame:
    """A long table of columns of one with `member` and `step`, and `layer` and `index` if any."""
    own = table.with_columns(
        pl.lit(None, pl.String).alias("place"),
        (pl.col(index) if index else pl.lit(None)).cast(pl.Int64).alias("index"),
        pl.col(measures).cast(pl.Float64),
    )
    if "layer" not in own:
        own = own.with_columns(pl.lit(None, pl.Int64).alias("layer"))
    keys = ["member", "step", "layer", "place", "index"]
    return own.unpivot(measures, index=keys, variable_name="measure").select(list(SCHEMA))


def joined(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """One table of all of them, sorted by member and step, as they came where those are equal."""
    table = pl.concat([pl.DataFrame(schema=SCHEMA), *parts])
    finite = pl.when(pl.col("value").is_finite()).then(pl.col("value")).alias("value")
    return table.with_columns(finite).sort("member", "step", maintain_order=True)


def wide(table: pl.DataFrame) -> pl.DataFrame:
    """A row a member, a column for each number of a table of one step, in order of appearance."""
    named = table.with_columns(label().alias("name"))
    return named.pivot("name", index="member", values="value").sort("member")


def label() -> pl.Expr:
    """What tells a number of a member at a step, as one text: "stable_rank head.weight"."""
    layer = pl.format("layer {}", pl.col("layer"))
    index = pl.format("[{}]", pl.col("index"))
    return pl.concat_str("measure", layer, "place", index, separator=" ", ignore_nulls=True)


def to_xarray(table: pl.DataFrame) -> Any:
    """An `xarray.Dataset` of a long table: a variable for each measure and place, over member,
    step and, where it has them, layer and index; NaN where the table has no row.

    Raises UsageError without xarray.
    """
    xarray = needed("xarray", "to_xarray")
    arrays = {}
    for (measure, place), own in table.group_by("measure", "place", maintain_order=True):
        dims = [d for d in ("member", "step", "layer", "index") if own[d].null_count() < len(own)]
        levels = {d: own[d].drop_nulls().unique().sort().to_numpy() for d in dims}
        values = np.full([len(level) for level in levels.values()], np.nan)
        kept = own.drop_nulls(dims)
        rows = tuple(np.searchsorted(levels[d], kept[d].to_numpy()) for d in dims)
        values[rows] = kept["value"].fill_null(np.nan).to_numpy()
        name = str(measure) if place is None else f"{measure} {place}"
        arrays[name] = xarray.DataArray(values, levels, dims)
    return xarray.Dataset(arrays)
