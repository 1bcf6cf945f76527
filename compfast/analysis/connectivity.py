"""The training loss along straight lines: from init to the end, and between two members.

Between two members (Frankle et al., arXiv 1912.05671; Git Re-Basin, arXiv 2209.04836) the line
goes straight to the other's weights and, `aligned`, to the same function with its units in the
order nearest to the first one's.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl

from compfast.analysis.alignment import aligned
from compfast.analysis.effort import Effort, effort_of, timed
from compfast.analysis.lines import Lines, Row, barriers, table_of
from compfast.analysis.losses import step_of
from compfast.analysis.stacked import chosen
from compfast.analysis.symmetries import Symmetries
from compfast.analysis.work import Tick, each_work
from compfast.config import MemberSpec
from compfast.errors import UsageError
from compfast.runs.reading import Run

Pair = tuple[MemberSpec, MemberSpec]
Pairs = Sequence[tuple[int, int]]

_POINTS = 11  # of a line


def loss_line(
    run: Run,
    step: int | None = None,
    members: Sequence[int] | None = None,
    *,
    start: int = 0,
    points: int = _POINTS,
    items: int | None = None,
    scores: bool = False,
    float64: bool = False,
    progress: Tick | None = None,
) -> pl.DataFrame:
    """Each member's training loss on the straight line between its weights at two steps.

    A row a (member, point), from snapshot `start` (`at` 0) to `step` (`at` 1; a snapshot's, None:
    the newest weights), at `points` equal distances. `distance` is how far the ends are apart
    (Euclidean, all parameters), `n` the sequences of the batch, which is `sharpness`'s. With
    `scores` there are the exam's columns too: `seen`, each candidate, `other`. What is not finite
    is null. `barriers` makes one number of each line. Raises UsageError for steps, members, items
    or points that there are not, and for scores of an exam that reads sequences.
    """
    lines = Lines(run, items, points, scores, float64)
    end = step_of(run, step)
    step_of(run, start)
    todo = [spec for specs in chosen(run.groups, members) for spec in specs]

    def measure(spec: MemberSpec) -> list[Row]:
        first, last = run.params(spec.member, start), run.params(spec.member, step)
        return lines.walk([spec], first, last, {"member": spec.member, "step": end, "start": start})

    return table_of(each_work(measure, todo, "loss_line's", progress), "member")


def loss_line_effort(
    run: Run,
    step: int | None = None,
    members: Sequence[int] | None = None,
    *,
    start: int = 0,
    points: int = _POINTS,
    items: int | None = None,
    scores: bool = False,
    float64: bool = False,
) -> Effort:
    """What `loss_line` of the same arguments takes, from one point of each shape.

    Raises UsageError as it does.
    """
    lines = Lines(run, items, points, scores, float64)
    step_of(run, step)
    step_of(run, start)
    groups = chosen(run.groups, members)
    parts = [(len(specs) * points, timed(lines.prepared(specs[:1], step))) for specs in groups]
    return effort_of("losses of a batch", parts, sum(map(len, groups)))


def lines_between(
    run: Run,
    step: int | None = None,
    members: Sequence[int] | None = None,
    *,
    pairs: Pairs | None = None,
    align: bool = True,
    points: int = _POINTS,
    items: int | None = None,
    scores: bool = False,
    float64: bool = False,
    progress: Tick | None = None,
) -> pl.DataFrame:
    """The training loss on the straight lines between two members' weights.

    A row a (member, other, path, point). Path `straight` goes from the one's weights to the
    other's; with `align` there is `aligned` beside it, to the weights that compute what the
    other's do, units in the order nearest to the first one's (compfast.analysis.alignment). The
    batch has `items` sequences of each one's training stream, once where these are the same.
    `pairs` are members of one shape; None: each of `members` (None: all) with the next of its
    shape. Other columns and errors as `loss_line`'s; UsageError also for pairs of two shapes, and
    with `align` for families that have no known symmetries and where scipy is not installed.
    """
    lines = Lines(run, items, points, scores, float64)
    todo = _pairs(run, members, pairs)
    known, end = _symmetries(todo) if align else {}, step_of(run, step)

    def measure(pair: Pair) -> list[Row]:
        first, last = (run.params(spec.member, step) for spec in pair)
        named: Row = {"member": pair[0].member, "other": pair[1].member, "step": end}
        rows = lines.walk(pair, first, last, {**named, "path": "straight"})
        if align:
            finite = all(np.isfinite(array).all() for w in (first, last) for array in w.values())
            near = aligned(known[pair[0].model], first, last)[0] if finite else last
            rows += lines.walk(pair, first, near, {**named, "path": "aligned"})
        return rows

    work = each_work(measure, todo, "lines_between's", progress)
    return table_of(work, "member", "other")


def connectivity(
    run: Run,
    step: int | None = None,
    members: Sequence[int] | None = None,
    *,
    pairs: Pairs | None = None,
    align: bool = True,
    points: int = _POINTS,
    items: int | None = None,
    float64: bool = False,
    progress: Tick | None = None,
) -> pl.DataFrame:
    """The barriers between two members, straight and aligned: `barriers` of `lines_between`.

    Losses in the units of the training's loss. Raises UsageError as `lines_between` does.
    """
    options: dict[str, Any] = {"items": items, "float64": float64, "progress": progress}
    return barriers(
        lines_between(run, step, members, pairs=pairs, align=align, points=points, **options)
    )


def connectivity_effort(
    run: Run,
    step: int | None = None,
    members: Sequence[int] | None = None,
    *,
    pairs: Pairs | None = None,
    align: bool = True,
    points: int = _POINTS,
    items: int | None = None,
    scores: bool = False,
    float64: bool = False,
) -> Effort:
    """What `connectivity` or `lines_between` takes, from a point and an alignment of each shape.

    Raises UsageError as they do.
    """
    lines = Lines(run, items, points, scores, float64)
    step_of(run, step)
    todo = _pairs(run, members, pairs)
    known, parts = _symmetries(todo) if align else {}, []
    first = {pair[0].model: pair for pair in reversed(todo)}
    for model, pair in first.items():
        count = sum(one.model == model for one, _ in todo)
        parts.append((count * points * (1 + align), timed(lines.prepared(pair, step))))
        if align:
            parts.append(
                (count, timed(functools.partial(_prepared, run, known[model], pair, step)))
            )
    what = "losses of a batch and alignments" if align else "losses of a batch"
    return effort_of(what, parts, len(todo))


def _prepared(run: Run, symmetries: Symmetries, pair: Pair, step: int | None) -> Callable[[], Any]:
    """An alignment, for `timed`."""
    weights = [run.params(spec.member, step) for spec in pair]
    return lambda: aligned(symmetries, *weights)


def _symmetries(pairs: Sequence[Pair]) -> dict[Any, Symmetries]:
    return {model: Symmetries(model) for model in dict.fromkeys(one.model for one, _ in pairs)}


def _pairs(run: Run, members: Sequence[int] | None, pairs: Pairs | None) -> list[Pair]:
    if pairs is None:
        groups = chosen(run.groups, members)
        found = [pair for specs in groups for pair in itertools.pairwise(specs)]
        if not found:
            raise UsageError("no two of these members are of one shape, so there is no line")
        return found
    if members is not None:
        raise UsageError("members and pairs are both given; pairs name the members")
    found = []
    for pair in pairs:
        if len(pair) != 2:
            raise UsageError(f"pairs has {pair!r}; a pair is two members")
        groups = chosen(run.groups, pair)
        if len(groups) > 1 or pair[0] == pair[1]:
            raise UsageError(f"pairs has {tuple(pair)}; it must be two members of one shape")
        of = {spec.member: spec for spec in groups[0]}
        found.append((of[pair[0]], of[pair[1]]))
    if not found:
        raise UsageError("pairs is empty; name at least one pair of members")
    return found
