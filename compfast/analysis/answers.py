"""What members answer to the held-out items, one by one, where the exam stored shares alone.

An answer is told by its difference to the first candidate's answer to the item, since the solutions
of one task are shifts of the same key. Answers are asked of the engine, a whole group at once, as
the exam does; nothing of a run is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.config import MemberSpec
from compfast.engines import make_engine
from compfast.engines.base import Inputs, State
from compfast.ensembles.schedule import make_tables
from compfast.errors import UsageError
from compfast.models.params import parameter_table
from compfast.runs.asking import asked_engine
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run
from compfast.solutions import DIVERGED
from compfast.tasks import known_answers_of
from compfast.tasks.known_answers import NO_NUMBER

_SCHEMA = {"member": pl.Int64, "difference": pl.Int64, "count": pl.Int64}


def answers(run: Run, step: int | None = None, *, engine: str | None = None) -> pl.DataFrame:
    """How often each member's likeliest answer is so far from the first candidate's.

    A row a (member, difference) that occurs, sorted; `count` are held-out items, whose number is a
    member's sum. `difference` is answer minus answer, in tokens; of answers modulo m from -(m // 2)
    on, and null, the last row, where an answer is none of those numbers. `step` is a snapshot's;
    None: the newest weights. `engine` answers, None: the run's own. A member that diverged before
    has no rows. A member's rows do not depend on which others are asked.

    Raises UsageError where the task's exam does not say what candidates answer to each item, for a
    step that there is not, and for an engine that cannot here.
    """
    exams = exams_of(run.groups)
    known = [known_answers_of(exam) for exam in exams]
    if run.groups and not any(known):
        raise UsageError(
            f"the exam of task {run.config.task.name} does not say what each solution answers to"
            " each held-out item, so that there is no difference to count"
        )
    instead = 'engine="native" or "eager" answers too'
    own_engine = run.info["engine"], run.config.run.device
    name, device = asked_engine(engine, *own_engine, instead)
    gone, parts = _gone(run, step), [pl.DataFrame(schema=_SCHEMA)]
    for group, own in enumerate(known):
        rows = [i for i, spec in enumerate(run.groups[group]) if spec.member not in gone]
        if own is None or not rows:
            continue
        specs = [run.groups[group][i] for i in rows]
        weights = {
            entry.name: run.stacked(group, entry.name, step)[rows]
            for entry in parameter_table(specs[0].model)
        }
        made = make_engine(
            name, specs, make_tables(specs), device=device, threads=run.config.run.threads
        )
        made.load(State.fresh(weights))
        asked: Inputs = exams[group].inputs[exams[group].splits[own.split]]
        parts.append(_counted(specs, own.differences(made.predict(asked))))
    return pl.concat(parts).sort("member", "difference", nulls_last=True)


def _counted(specs: Sequence[MemberSpec], differences: NDArray[Any]) -> pl.DataFrame:
    """Rows of these members from their differences [M, N]."""
    found = [np.unique(own, return_counts=True) for own in differences]
    lengths = [len(values) for values, _ in found]
    columns = {
        "member": np.repeat([spec.member for spec in specs], lengths),
        "difference": np.concatenate([values for values, _ in found]),
        "count": np.concatenate([counts for _, counts in found]),
    }
    difference = pl.col("difference")
    return pl.DataFrame(columns, schema=_SCHEMA).with_columns(
        pl.when(difference != NO_NUMBER).then(difference)
    )


def _gone(run: Run, step: int | None) -> set[int]:
    """Members that had diverged by then: their parameters are no answer's."""
    diverged = run.members.filter(pl.col("verdict") == DIVERGED)
    if step is not None:
        diverged = diverged.filter(pl.col("steps") < step)
    return set(diverged["member"])
