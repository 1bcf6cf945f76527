"""Training curves for the page: rows of the metrics table, member after member, thinned by a rule.

Rows are kept as they lie in the table (member, then step), so that members that stopped early cost
nothing. Where they are more than a page should hold, every k-th row of a member is kept, counted
back from its last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.report.packing import indices, packed

MOST_VALUES = 1_200_000  # numbers of the windows, and as many of the exams, of 4 bytes each
_WINDOWS = ("loss", "grad_norm")


def page_curves(
    metrics: pl.DataFrame | None,
    members: pl.DataFrame,
    scores: Sequence[str],
    verdicts: Sequence[str],
    most: int = MOST_VALUES,
) -> dict[str, Any]:
    """`windows` (loss, gradient norm) and `exams` (scores, verdicts); null where there are none.

    `scores` and `verdicts` are those of the members table; columns that the metrics lack are left
    out.
    """
    if metrics is None or not metrics.height:
        return {"windows": None, "exams": None}
    member = members["member"].to_numpy()
    named = [name for name in _WINDOWS if name in metrics.columns]
    tested = [name for name in scores if name in metrics.columns]
    tested = tested if "verdict" in metrics.columns else []
    windows = metrics.filter(pl.col("loss").is_not_null()) if "loss" in named else None
    exams = metrics.filter(pl.col("verdict").is_not_null()) if tested else None
    found = {
        "windows": _rows(windows, member, named, most),
        "exams": _rows(exams, member, tested, most),
    }
    if found["exams"] is not None and exams is not None:
        kept = found["exams"].pop("kept")
        place = {label: i for i, label in enumerate(verdicts)}
        codes = [place.get(label, len(verdicts)) for label in exams["verdict"].to_list()]
        found["exams"]["verdict"] = indices(np.array(codes, np.int64)[kept], len(verdicts) + 1)
    if found["windows"] is not None:
        del found["windows"]["kept"]
    return found


def thinned(counts: NDArray[np.int64], every: int) -> NDArray[np.int64]:
    """Which rows stay where each member has so many: every k-th one, counted back from its last."""
    ends = np.cumsum(counts)
    back = np.repeat(ends, counts) - 1 - np.arange(int(counts.sum()))
    return np.flatnonzero(back % every == 0)


def _rows(
    frame: pl.DataFrame | None, member: NDArray[np.int64], names: Sequence[str], most: int
) -> dict[str, Any] | None:
    if frame is None or not frame.height or not names:
        return None
    owner = np.searchsorted(member, frame["member"].to_numpy())
    counts = np.bincount(owner, minlength=len(member))
    every = max(1, -(-frame.height * len(names) // most))
    kept = thinned(counts, every)
    steps, step = np.unique(frame["step"].to_numpy()[kept], return_inverse=True)
    own = np.bincount(owner[kept], minlength=len(member))
    columns = {name: packed(frame[name].cast(pl.Float64).to_numpy()[kept], "f4") for name in names}
    return {
        "first": packed(np.concatenate([[0], np.cumsum(own)]), "u4"),  # [M + 1]
        "steps": steps.tolist(),
        "step": indices(step, len(steps)),
        "columns": columns,
        "every": every,
        "rows": len(frame),
        "kept": kept,
    }
