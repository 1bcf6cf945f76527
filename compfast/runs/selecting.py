"""Which members a filter means: columns by value, list or range, and expressions of polars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from compfast.config import values
from compfast.errors import UsageError

_SHOWN = 8  # labels that a sentence names


def selected(
    members: pl.DataFrame,
    expressions: Sequence[pl.Expr],
    columns: Mapping[str, Any],
    labels: set[str],
    path: Path,
) -> pl.DataFrame:
    """The rows of the members for which everything holds, in their order.

    A column's value is what it must equal; a list what it must be among; a pair (lo, hi) a range,
    ends included, None where it is open; None a value that is missing. `labels` are the verdicts
    that there can be. Raises UsageError for columns that there are not and for values that they
    cannot have.
    """
    wanted = [_condition(members, name, value, labels, path) for name, value in columns.items()]
    for given in expressions:
        if not isinstance(given, pl.Expr):
            raise UsageError(f"filter got {given!r}; it takes polars expressions and column=value")
    conditions = [*expressions, *wanted]
    try:
        return members.filter(*conditions) if conditions else members
    except pl.exceptions.PolarsError as error:
        raise UsageError(
            f"the members of {path} cannot be filtered so: {str(error).splitlines()[0]}"
        ) from error


def _condition(
    members: pl.DataFrame, name: str, value: Any, labels: set[str], path: Path
) -> pl.Expr:
    if name not in members.columns:
        raise UsageError(values.unknown(f"the column {name!r}", name, members.columns, "columns"))
    column, text = pl.col(name), members[name].dtype == pl.String
    if value is None:
        return column.is_null()
    if isinstance(value, tuple):
        return _between(column, name, value, text)
    plain = _plain(value)
    listed = isinstance(plain, Sequence | set | frozenset | range) and not isinstance(plain, str)
    wanted = list(plain) if listed else [plain]
    for one in wanted:
        if isinstance(one, str) != text or not isinstance(one, str | int | float):
            what = "a text" if text else "a number"
            raise UsageError(f"{name} is {one!r}; it must be {what}, as in the members table")
        if name == "verdict" and one not in labels:
            raise UsageError(
                f"verdict is {one!r}; members of this run get {', '.join(sorted(labels)[:_SHOWN])}"
            )
    if not wanted:
        return pl.lit(False)
    return column.is_in(wanted) if listed else column == wanted[0]


def _between(column: pl.Expr, name: str, value: tuple[Any, ...], text: bool) -> pl.Expr:
    numbers = all(e is None or isinstance(e, int | float | np.number) for e in value)
    if text or len(value) != 2 or not numbers:
        raise UsageError(
            f"{name} is {value!r}; a pair (lo, hi) is a range of numbers, a list [...] picks values"
        )
    low, high = value
    inside = column.is_not_null()
    if low is not None:
        inside &= column >= float(low)
    if high is not None:
        inside &= column <= float(high)
    return inside


def _plain(value: Any) -> Any:
    """Arrays and columns as lists, NumPy's numbers as Python's."""
    if isinstance(value, pl.Series):
        return value.to_list()
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
