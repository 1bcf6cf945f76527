"""The steps that an analysis goes over."""

from __future__ import annotations

from collections.abc import Sequence

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


def steps_of(run: Run) -> list[int]:
    """The snapshots' steps and, last, that of the newest weights; UsageError without any."""
    newest = {run.step} if run.checkpoint is not None else set()
    steps = sorted({*run.snapshots, *newest})
    if not steps:
        raise UsageError(f"{run.path} has neither a checkpoint nor a snapshot, so no parameters")
    return steps


def checked_steps(run: Run, steps: Sequence[int] | None) -> list[int]:
    """`steps` in order, None: all of `steps_of`; UsageError for one whose weights are not kept."""
    known = steps_of(run)
    if steps is None:
        return known
    if not steps or set(steps) - set(known):
        raise UsageError(
            f"steps are {list(steps)}; the weights that {run.path} keeps are of"
            f" {', '.join(map(str, known))}"
        )
    return sorted(set(steps))


def kept_as(run: Run, step: int) -> int | None:
    """How `Run` asks for the weights of one of `steps_of`: the snapshot, None for the newest."""
    return step if step in run.snapshots else None
