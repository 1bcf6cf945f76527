"""What a user may hook into a training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from compfast.runs import Run


@dataclass(frozen=True, slots=True)
class Outline:
    """What is about to be trained."""

    members: int
    groups: int  # of one shape each
    parameters: int  # of all members together
    engine: str
    isa: str
    steps: int
    resumed_at: int | None  # the step that a resumed run goes on from; None for a new run
    skipped: tuple[str, ...]  # checkpoints that could not be used, a sentence each


class Callback:
    """Override what is of interest; an exception saves a checkpoint, then ends the run."""

    def on_start(self, run: Run, outline: Outline) -> None:
        """Before the first step; the folder holds config.json and the tables."""

    def on_tick(self, done: int, total: int) -> None:
        """A few times a second: member steps done and to be done, frozen members left out."""

    def on_metrics(self, rows: pl.DataFrame) -> None:
        """New rows of the metrics table."""

    def on_verdicts(self, counts: dict[str, int]) -> None:
        """After an exam: how many members carry each label."""

    def on_parts(self, done: int, total: int, verdicts: dict[str, int]) -> None:
        """On a cluster, a few times a second: parts done, and the labels reported so far."""

    def on_note(self, sentence: str) -> None:
        """On a cluster: something went wrong and was put right."""

    def on_checkpoint(self, path: Path) -> None:
        """A checkpoint is complete."""

    def on_end(self, run: Run) -> None:
        """The run folder is complete, apart from the report."""
