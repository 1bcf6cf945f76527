"""Does what stands at a place of the networks say what a sequence is made of? For all members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.analysis.inputs import at_once
from compfast.analysis.positions import At, resolved, roles_of
from compfast.analysis.probes import (
    Kind,
    Rows,
    check_kind,
    columns_of,
    label_of,
    scaled_by,
    scores_of,
    split_of,
)
from compfast.analysis.stacked import captured, chosen, each_member
from compfast.config import MemberSpec
from compfast.errors import UsageError
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run
from compfast.streams import philox
from compfast.tasks import Exam, labels_of

Float64 = NDArray[np.float64]
_HALVES = 6  # seed of the permutation that cuts the items of an exam in two


def probe_places(
    run: Run,
    names: Sequence[str],
    labels: Sequence[str] | None = None,
    kind: Kind = "ridge",
    *,
    at: Sequence[At] = ("last",),
    l2: float = 1.0,
    scaled: bool = False,
    fitted: str | None = None,
    scored: str | None = None,
    items: int | None = None,
    step: int | None = None,
    members: Sequence[int] | None = None,
) -> pl.DataFrame:
    """A linear probe of what each place gives at each position, for labels of the exam.

    `names` are places of `compfast.analysis.states`, and `at` positions of it; `labels` those of
    the exam (None: its only one). A row a (member, name, at, label, place of the label), and
    columns as `probe` has them, the control among them. Fitted on the items of split `fitted`,
    scored on those of `scored`; with neither on one half of the exam's items and on the other, cut
    by a permutation that is the same for all members: of anchors the exam's own splits hold
    different pairs. `items`: only so many of either, the first ones. Networks of one shape are held
    one at a time on each core, and of their states what one pass gives. Raises UsageError as
    `states` and `probe` do, and where only one split is named.
    """
    check_kind(kind, l2)
    if isinstance(names, str) or not names or isinstance(labels, str):
        raise UsageError(f"names and labels are {names!r} and {labels!r}; they must be lists")
    if items is not None and items < 2:
        raise UsageError(f"items is {items}; it must be at least 2")
    tables = []
    groups = chosen(run.groups, members)
    for specs, exam in zip(groups, exams_of(groups), strict=True):
        train, test = _parts(exam, fitted, scored, items)
        wanted = _labels(exam, labels, kind, (train, test))
        kept = np.unique(np.concatenate([train, test]))
        rows = np.searchsorted(kept, train), np.searchsorted(kept, test)
        given = exam.inputs[kept]
        positions = resolved(
            list(at), {name: own[kept] for name, own in roles_of(exam).items()}, given
        )

        def measure(
            spec: MemberSpec,
            module: Any,
            given: NDArray[Any] = given,
            positions: Any = positions,
            wanted: dict[str, Float64] = wanted,
            kept: NDArray[Any] = kept,
            rows: tuple[Rows, Rows] = rows,
        ) -> list[tuple[Any, ...]]:
            found = captured(module, given, names, at_once(spec, given), positions)
            told = []
            for name in names:
                for turn, where in enumerate(at):
                    x = found[name][:, turn].astype(np.float64).reshape(len(given), -1)
                    x = scaled_by(x, rows[0]) if scaled else x
                    for label, numbers in wanted.items():
                        columns = scores_of(kind, x, numbers[kept], *rows, l2)
                        key = (spec.member, name, str(where), label)
                        scores = zip(*columns, strict=True)
                        told += [(*key, place, *own) for place, own in enumerate(scores)]
            return told

        for own in each_member(run, specs, measure, step):
            tables += own
    texts = dict.fromkeys(("name", "at", "label"), pl.String)
    schema = {"member": pl.Int64, **texts, "place": pl.Int64}
    schema |= dict.fromkeys(columns_of(kind), pl.Float64)
    table = pl.DataFrame(tables, schema, orient="row").sort("member", maintain_order=True)
    return table.with_columns(pl.col(columns_of(kind)).fill_nan(None))


def halves(items: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two disjoint halves of [0, items), by a keyed permutation."""
    order = philox.feistel(_HALVES, 0, np.arange(items), items)
    return order[: items // 2], order[items // 2 :]


def _parts(
    exam: Exam, fitted: str | None, scored: str | None, items: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if (fitted is None) != (scored is None):
        raise UsageError("fitted and scored go together: two splits of the exam, or neither")
    if fitted is None or scored is None:
        train, test = halves(len(exam.inputs))
    else:
        train, test = (
            np.arange(len(exam.inputs))[split_of(exam, name)] for name in (fitted, scored)
        )
        if np.isin(train, test).any():
            raise UsageError(f"fitted is {fitted} and scored {scored}; they share items")
    return train[:items], test[:items]


def _labels(
    exam: Exam, labels: Sequence[str] | None, kind: Kind, parts: Sequence[NDArray[Any]]
) -> dict[str, Float64]:
    found = {}
    for label in labels or (None,):
        own = label_of(exam, label)
        if kind == "logistic" and own.dtype.kind != "b":
            raise UsageError("a logistic probe needs labels that are true or false; use ridge")
        numbers = own.astype(np.float64)
        if not all(np.isfinite(numbers[part]).all() for part in parts):
            raise UsageError(f"some items have no label {label}")
        found[label or next(iter(labels_of(exam)))] = numbers
    return found
