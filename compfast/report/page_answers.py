"""Single answers to the held-out items for the page: how often each difference, member by member.

Of each member those that occur are kept, the commonest first to stay where a page would hold too
many. Failing to get them costs the page this section only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.errors import reason
from compfast.report.packing import indices, packed
from compfast.report.phase import RunLike
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run
from compfast.tasks import KnownAnswers, known_answers_of

MOST_ENTRIES = 300_000  # (member, difference) of a page, of 3 to 4 bytes each

_LATER = (
    "Their single answers are not in this page: they are asked for at the end of a run and by"
    " compfast report RUN."
)

Shifts = Mapping[str, int | None]  # candidate -> its own difference, where it is one number


@dataclass(frozen=True, slots=True)
class PageAnswers:
    """What the page shows of answers: `data`, or a sentence why there are none, or neither."""

    data: dict[str, Any] | None = None
    said: str = ""  # in the page, in place of the data
    failed: str = ""  # why they could not be had though the task has them

    def plain(self) -> dict[str, Any]:
        """As data of the page."""
        return {"data": self.data, "said": self.said}


def page_answers(run: RunLike, most: int = MOST_ENTRIES) -> PageAnswers:
    """The answers of the members' newest weights; nothing for a task that has none to tell."""
    if not isinstance(run, Run):
        return PageAnswers()
    try:
        if run.checkpoint is None:
            return PageAnswers(said="Single answers come with the first checkpoint.")
        known = _known(run)
        if not any(known):
            return PageAnswers()
        # The room of analyses draws with this one's styles; it is asked for when it is needed.
        from compfast.analysis.answers import answers

        table = answers(run)
    except Exception as error:  # whatever is wrong with an engine here, the page is not lost
        why = reason(error)
        return PageAnswers(said=f"Single answers could not be had: {why}.", failed=why)
    of_group = {
        spec.member: own for specs, own in zip(run.groups, known, strict=True) for spec in specs
    }
    shown = [of_group[member] for member in run.members["member"].to_list()]
    return PageAnswers(
        packed_answers(table, run.members["member"].to_numpy(), shown, run.step, most)
    )


def later_answers(run: RunLike) -> PageAnswers:
    """No answers, and when they come, for a page that asks nobody; nothing where none ever do."""
    if not isinstance(run, Run) or not any(_known(run)):
        return PageAnswers()
    return PageAnswers(said=_LATER)


def packed_answers(
    table: pl.DataFrame,
    members: NDArray[Any],
    known: Sequence[KnownAnswers | None],
    step: int,
    most: int = MOST_ENTRIES,
) -> dict[str, Any]:
    """A table of `compfast.analysis.answers` as data of the page, for members in this order."""
    place = np.searchsorted(members, table["member"].to_numpy())
    count = table["count"].to_numpy()
    items = np.bincount(place, count, len(members)).astype(np.int64)
    rank = table.select(pl.col("count").rank("ordinal", descending=True).over("member"))
    kept, each = _cut(rank["count"].to_numpy(), most)
    told = table["difference"].filter(pl.Series(kept))
    distinct = told.unique().sort(nulls_last=True)
    where = {difference: i for i, difference in enumerate(distinct.to_list())}
    shifts = {id(own): _shifts(own) for own in known}
    kinds = list({tuple(own.items()): own for own in shifts.values()}.values())
    own_kind = [kinds.index(shifts[id(own)]) for own in known]
    first = np.concatenate([[0], np.cumsum(np.bincount(place[kept], minlength=len(members)))])
    return {
        "step": step,
        "reference": next(own.reference for own in known if own is not None),
        "moduli": sorted({own.modulus for own in known if own is not None and own.modulus}),
        "differences": distinct.to_list(),  # null: answers that are no number
        "first": packed(first, "u4"),  # [M + 1]
        "difference": indices([where[difference] for difference in told.to_list()], len(distinct)),
        "count": indices(count[kept], int(count.max(initial=0)) + 1),
        "items": packed(items, "u4"),  # [M], 0 of a member that has no answers
        "kinds": [dict(kind) for kind in kinds],
        "kind": indices(own_kind, len(kinds)),  # [M]
        "each": each,  # differences of a member that are here, where some are left out
    }


def _known(run: Run) -> list[KnownAnswers | None]:
    """Of each of the run's groups."""
    return [known_answers_of(exam) for exam in exams_of(run.groups)]


def _cut(rank: NDArray[Any], most: int) -> tuple[NDArray[np.bool_], int | None]:
    """Which rows stay: all, or of each member the so many commonest differences."""
    if len(rank) <= most:
        return np.ones(len(rank), np.bool_), None
    upto = np.cumsum(np.bincount(rank.astype(np.int64)))  # rows of at most this rank
    each = max(1, int(np.searchsorted(upto, most, side="right")) - 1)
    return rank <= each, each


def _shifts(known: KnownAnswers | None) -> Shifts:
    return {} if known is None else {name: known.shift(name) for name in known.answers}
