"""A run as it stands between two checkpoints: what is in its folder, and what was logged since."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from compfast.runs.reading import Run

_DONE = "steps"


class Ongoing(Run):
    """A run whose newest rows are not in its folder yet; weights are those of its checkpoint."""

    def __init__(self, run: Run, logged: Sequence[pl.DataFrame]) -> None:
        super().__init__(run.path, run.config, run.info, run.trust_links)
        self._rows = pl.concat(logged).sort("member", "step")
        self._start = run

    @property
    def finished(self) -> bool:
        return False

    @property
    def step(self) -> int:
        return int(self._rows["step"].max() or 0)  # type: ignore[arg-type]

    @property
    def metrics(self) -> pl.DataFrame:
        return self._rows

    @property
    def members(self) -> pl.DataFrame:
        """The table as it was at the start, with every member's newest exam and steps done."""
        table = self._start.members
        exams = self._rows.filter(pl.col("verdict").is_not_null())
        results = table.columns[table.columns.index("verdict") :]  # what stands before is the spec
        own = [name for name in results if name in exams.columns]
        newest = exams.group_by("member", maintain_order=True).last().select("member", *own)
        done = self._rows.group_by("member").agg(pl.col("step").max().alias(_DONE))
        if _DONE not in table.columns:
            done = done.select("member")
        for found in (newest, done):
            table = table.update(found, on="member", how="left", include_nulls=True)
        return table
