"""When members turned to what they are at the end, and what measures said then."""

from __future__ import annotations

import numpy as np
import polars as pl

from compfast.analysis.snapshots import steps_of
from compfast.errors import UsageError
from compfast.report.table import candidates
from compfast.runs.reading import Run

SHARE = 0.5  # of answers: from there on a solution is said to be there


def transitions(run: Run, share: float = SHARE) -> pl.DataFrame:
    """When the score of each member's final verdict passed `share` for good.

    A row a member: `verdict`; `transition`, the step of the first exam at which that candidate's
    score is at least `share` and stays so in all later ones; `kept`, the step nearest to it of
    which the run keeps the weights (the earlier of two). Null where the verdict is no candidate
    (underfit, mixed, other, diverged) or its score is below `share` at the end. The definition is
    this project's. Raises UsageError for a share outside (0, 1], and for a run without weights.
    """
    if not 0 < share <= 1:
        raise UsageError(f"share is {share}; it must be above 0 and at most 1")
    steps = np.array(steps_of(run))
    exams = run.metrics.drop_nulls("seen").sort("member", "step")
    by_member = {key[0]: own for key, own in exams.partition_by("member", as_dict=True).items()}
    names, rows = candidates(run.members), []
    for member, verdict in run.members.select("member", "verdict").iter_rows():
        at = kept = None
        if verdict in names and member in by_member:
            own = by_member[member]
            passed = (own[verdict].fill_null(np.nan).to_numpy() >= share)[::-1]
            lasting = len(passed) if passed.all() else int(passed.argmin())
            if lasting:
                at = int(own["step"][len(passed) - lasting])
                kept = int(steps[np.abs(steps - at).argmin()])
        rows.append((member, verdict, at, kept))
    kinds = {"member": pl.Int64, "verdict": pl.String, "transition": pl.Int64, "kept": pl.Int64}
    return pl.DataFrame(rows, kinds, orient="row")


def at_transition(table: pl.DataFrame, moments: pl.DataFrame) -> pl.DataFrame:
    """Rows of a long table at each member's step nearest to its `transition`, which stands beside.

    The nearest of the steps that the table has of the member; `transitions` gives `moments`.
    Members without a transition have no rows.
    """
    known = moments.select("member", "transition").drop_nulls()
    near = (
        table.select("member", "step")
        .unique()
        .join(known, on="member")
        .sort("member", (pl.col("step") - pl.col("transition")).abs(), "step")
        .unique("member", keep="first", maintain_order=True)
    )
    return table.join(near, on=["member", "step"], maintain_order="left")
