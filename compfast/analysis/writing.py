"""A run's measures as files: tables, relations and figures in a folder of its own."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from compfast.analysis import figures
from compfast.analysis.long import joined
from compfast.analysis.measures import Measure, chosen_measures
from compfast.analysis.moments import at_transition, transitions
from compfast.analysis.prediction import predict
from compfast.analysis.relations import associations, by_level
from compfast.analysis.snapshots import checked_steps
from compfast.config.paths import user_path
from compfast.engines.cores import usable_cores
from compfast.errors import UsageError
from compfast.runs.folder import parquet_bytes
from compfast.runs.forks import tables_ahead
from compfast.runs.reading import Run
from compfast.storage import durable


class Progress:
    """What is told while measures are taken; does nothing."""

    def begin(self, name: str, total: int) -> None:
        """A measure begins, of so many members times steps."""

    def advance(self, done: int) -> None:
        """So many more of them are measured."""

    def takes(self, name: str, seconds: float) -> None:
        """What a costly measure will take, in all, before the most of it."""

    def say(self, sentence: str) -> None:
        """A measure was left out, and why."""


def analyse(
    run: Run,
    what: Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Take measures of a run and write them; returns the files.

    `what` are names of `measures.MEASURES`; None: all cheap ones that this run allows, the others
    are said. `steps` are some whose weights are kept; None: all. Into `out`, by default
    RUN/analysis, go for each measure NAME.parquet, its long table; NAME.transition.parquet, that at
    each member's transition; NAME.gamma.parquet, NAME.verdict.parquet and
    NAME.associations.parquet, its relations (the last at the first and the last step); NAME.png and
    NAME.training.png. Then
    transitions.parquet, and prediction.parquet with prediction.png, from all that were taken. Each
    file replaces the one before it as a whole. Raises UsageError for what there is not, and where
    nothing could be measured; StorageError where a file cannot be written or another process writes
    into the same folder.
    """
    tables_ahead()
    told = progress or Progress()
    chosen, wanted = chosen_measures(what), checked_steps(run, steps)
    folder = run.path / "analysis" if out is None else user_path(out)
    if folder.resolve() == run.path.resolve():
        raise UsageError(f"--out is {folder}, the run itself; give a folder of its own")
    durable.make_folder(folder)
    lock = durable.Lock(folder)
    try:
        return _written(run, chosen, wanted, folder, told, strict=what is not None)
    finally:
        lock.release()


def _written(
    run: Run,
    chosen: dict[str, Measure],
    steps: list[int],
    folder: Path,
    told: Progress,
    strict: bool,
) -> list[Path]:
    paths: list[Path] = []

    def put(name: str, content: bytes) -> None:
        durable.replace_file(folder / name, [content])
        paths.append(folder / name)

    moments = transitions(run)
    tables, refused = {}, None
    for name, measure in chosen.items():
        try:
            table = _taken(run, name, measure, steps, told)
        except UsageError as error:
            if strict:
                raise
            told.say(f"{name} is left out: {error}")
            refused = error
            continue
        put(f"{name}.parquet", parquet_bytes(table))
        put(f"{name}.transition.parquet", parquet_bytes(at_transition(table, moments)))
        if measure.related:
            tables[name] = table
    if not paths:
        raise refused or UsageError("nothing was measured")
    put("transitions.parquet", parquet_bytes(moments))
    for name, table in tables.items():
        told.begin(f"relations of {name}", 1)
        for file, content in _related(table, run.members, chosen[name], name).items():
            put(file, content)
        told.advance(1)
    if tables:
        _predicted(pl.concat(tables.values()), run, put, told)
    return paths


def _taken(run: Run, name: str, measure: Measure, steps: list[int], told: Progress) -> pl.DataFrame:
    """The measure's table, step by step; a costly one by a few members at a time, too."""
    members = run.members["member"].to_list()
    if measure.costly is None:
        assert measure.table is not None
        told.begin(name, len(members) * len(steps))
        parts = []
        for step in steps:
            parts.append(measure.table(run, [step]))
            told.advance(len(members))
        return joined(parts)
    if measure.seconds is not None:
        told.takes(name, measure.seconds(run, steps))
    told.begin(name, len(members) * len(steps))
    cores = usable_cores().count
    # One member, so that what is loaded once is not timed; then as many as work side by side.
    cuts = [0, 1, 1 + cores, *range(1 + 5 * cores, len(members), 4 * cores), len(members)]
    work = [(step, members[a:b]) for step in steps for a, b in itertools.pairwise(cuts) if a < b]
    parts = []
    for turn, (step, some) in enumerate(work):
        began = time.monotonic()
        parts.append(measure.costly(run, [step], some))
        told.advance(len(some))
        if turn == 1 and measure.seconds is None and len(work) > 2:
            each = (time.monotonic() - began) / len(some)
            told.takes(name, each * len(members) * len(steps))
    return joined(parts)


def _related(
    table: pl.DataFrame, members: pl.DataFrame, measure: Measure, name: str
) -> dict[str, bytes]:
    """Contents of the files of relations and figures by name."""
    ends = [table["step"].min(), table["step"].max()]
    last = table.filter(pl.col("step") == ends[1])
    found = {
        f"{name}.gamma.parquet": parquet_bytes(by_level(table, members, "gamma")),
        f"{name}.verdict.parquet": parquet_bytes(by_level(table, members, "verdict")),
        f"{name}.associations.parquet": parquet_bytes(
            associations(table.filter(pl.col("step").is_in(ends)), members)
        ),
    }
    if last["value"].null_count() < len(last):
        found[f"{name}.png"] = figures.by_gamma(last, members, measure.shown)
    if ends[0] != ends[1] and table["value"].null_count() < len(table):
        found[f"{name}.training.png"] = figures.over_training(table, members, measure.shown)
    return found


def _predicted(
    table: pl.DataFrame, run: Run, put: Callable[[str, bytes], None], told: Progress
) -> None:
    told.begin("prediction", 1)
    try:
        found = predict(table, run.members)
    except UsageError as error:
        told.say(f"prediction is left out: {error}")
        return
    put("prediction.parquet", parquet_bytes(found))
    put("prediction.png", figures.predictions(found))
    told.advance(1)
