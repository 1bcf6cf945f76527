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
    most: int = MOST_VALUES,
) -> dict[str, Any]:
    """`windows` (loss, gradient norm) and `exams` (scores, verdicts); null where there are none.

    `scores` are those of the members table; columns that the metrics lack are left out.
    """
    found: dict[str, Any] = {"windows": None, "exams": None}
    if metrics is None or not {"loss", "verdict"} <= set(metrics.columns):
        return found
    member = members["member"].to_numpy()
    logged = [name for name in _WINDOWS if name in metrics.columns]
    found["windows"], _ = _rows(metrics.drop_nulls("loss"), member, logged, most)
    tested = [name for name in scores if name in metrics.columns]
    exams = metrics.drop_nulls("verdict")
    found["exams"], kept = _rows(exams, member, tested, most)
    if found["exams"] is not None:
        said = exams["verdict"].gather(kept)
        labels = sorted(said.unique())  # also those that nobody has in the end
        place = {label: i for i, label in enumerate(labels)}
        found["exams"]["labels"] = labels
        found["exams"]["verdict"] = indices([place[label] for label in said], len(labels))
    return found


def thinned(counts: NDArray[np.int64], every: int) -> NDArray[np.int64]:
    """Which rows stay where each member has so many: every k-th one, counted back from its last."""
    ends = np.cumsum(counts)
    back = np.repeat(ends, counts) - 1 - np.arange(int(counts.sum()))
    return np.flatnonzero(back % every == 0)


def _rows(
    frame: pl.DataFrame, member: NDArray[np.int64], names: Sequence[str], most: int
) -> tuple[dict[str, Any] | None, NDArray[np.int64]]:
    """The columns, thinned to `most` numbers, and which rows of the frame they are."""
    if not frame.height or not names:
        return None, np.zeros(0, np.int64)
    owner = np.searchsorted(member, frame["member"].to_numpy())
    every = max(1, -(-frame.height * len(names) // most))
    kept = thinned(np.bincount(owner, minlength=len(member)), every)
    steps, step = np.unique(frame["step"].to_numpy()[kept], return_inverse=True)
    own = np.bincount(owner[kept], minlength=len(member))
    found = {
        "first": packed(np.concatenate([[0], np.cumsum(own)]), "u4"),  # [M + 1]
        "steps": steps.tolist(),
        "step": indices(step, len(steps)),
        "columns": {n: packed(frame[n].cast(pl.Float64).to_numpy()[kept], "f4") for n in names},
        "every": every,
        "rows": len(frame),
    }
    return found, kept
