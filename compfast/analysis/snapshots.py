"""The steps that an analysis goes over."""

from __future__ import annotations

from compfast.errors import UsageError
from compfast.runs.reading import Run


def snapshots_of(run: Run) -> list[int]:
    """Steps whose parameters the run keeps, at least one; UsageError where there is none."""
    if not run.snapshots:
        raise UsageError(
            f"{run.path} has no snapshots; train it with --snapshots log:N or a list of steps"
            " (run.snapshots)"
        )
    return run.snapshots
