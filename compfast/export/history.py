"""An ensemble's course as few curves: what trackers of experiments show of it."""

from __future__ import annotations

import numpy as np
import polars as pl

from compfast.runs.reading import Run
from compfast.runs.tables import labels_of

_QUANTILES = {"loss/p10": 0.1, "loss/median": 0.5, "loss/p90": 0.9}


def history(run: Run) -> list[tuple[int, dict[str, float]]]:
    """(step, numbers by name), a step after the other.

    `loss/...` are quantiles over the members that have a finite loss at the step, `share/VERDICT`
    the share of all members whose latest exam by then said so, at steps of exams. Raises
    UsageError before the first checkpoint.
    """
    finite = run.metrics.filter(pl.col("loss").is_finite())
    quantiles = finite.group_by("step").agg(
        pl.col("loss").quantile(q, "linear").alias(name) for name, q in _QUANTILES.items()
    )
    numbers: dict[int, dict[str, float]] = {
        row.pop("step"): row for row in quantiles.iter_rows(named=True)
    }
    for step, shares in _shares(run).items():
        numbers.setdefault(step, {}).update(shares)
    return sorted(numbers.items())


def _shares(run: Run) -> dict[int, dict[str, float]]:
    rows = run.metrics.filter(pl.col("verdict").is_not_null())
    labels = sorted(labels_of(run.config))
    latest = np.full(len(run.members), -1)
    row_of = {member: row for row, member in enumerate(run.members["member"])}
    found = {}
    for (step,), part in rows.sort("step").group_by("step", maintain_order=True):
        for member, verdict in part.select("member", "verdict").iter_rows():
            latest[row_of[member]] = labels.index(verdict)
        found[int(str(step))] = {
            f"share/{label}": float((latest == code).mean()) for code, label in enumerate(labels)
        }
    return found
