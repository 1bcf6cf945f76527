"""Does a member's code say what a sequence is made of? Probes over a whole ensemble at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.analysis.codes import What, latent_codes
from compfast.analysis.linear_probes import accuracy, f1, logistic, r2, ridge
from compfast.errors import UsageError
from compfast.runs.reading import Run
from compfast.streams import philox
from compfast.tasks import Exam, labels_of

Float64 = NDArray[np.float64]
Kind = Literal["ridge", "logistic"]
Rows = slice | NDArray[np.int64]

SCORES: dict[str, tuple[str, ...]] = {"ridge": ("r2",), "logistic": ("f1", "accuracy")}
_SHUFFLE = 0  # seed of the control's permutation, the same for all members


def probe(
    run: Run,
    label: str | None = None,
    kind: Kind = "ridge",
    *,
    what: What = "codes",
    together: bool = False,
    l2: float = 1.0,
    scaled: bool = False,
    fitted: str = "seen",
    scored: str = "unseen",
    step: int | None = None,
    keys: Sequence[int] = (0,),
    task: Mapping[str, Any] | None = None,
) -> pl.DataFrame:
    """A linear probe of each member and layer, fitted on trained tasks, scored on held-out ones.

    It looks for a label of the exam (`compfast.tasks.labels_of`; None: the only one) in what
    `latent_codes` gives with the same `what`, `step`, `keys` and `task`. Fitted on the items of
    split `fitted`, scored on those of `scored`. A row a (member, layer, place of the label), sorted
    so; with `together` one probe reads all layers side by side and `layer` is null. Columns: `r2`
    (ridge), or `f1` and `accuracy` (logistic), and the same with `shuffled_` before it, of a probe
    that was fitted with its labels in another order, one for all members. A score is null where
    there is none: the member's code is not finite, the label is the same in all items of either
    split, or no item has it and none is said to. `l2` weighs the squared weights beside the sum of
    squared errors, or half of it beside that of logistic losses; the intercept is free. `scaled`
    divides each feature by its standard deviation over the fitted items, where it has one.
    Raises UsageError as `latent_codes` does, and for a label, kind, split or l2 that there is not.
    """
    check_kind(kind, l2)
    found = latent_codes(run, step=step, keys=keys, what=what, task=task)
    rows: list[tuple[Any, ...]] = []
    for codes in found:
        labels = label_of(codes.exam, label)
        if kind == "logistic" and labels.dtype.kind != "b":
            raise UsageError("a logistic probe needs labels that are true or false; use ridge")
        train, test = (split_of(codes.exam, name) for name in (fitted, scored))
        numbers = labels.astype(np.float64)
        if not all(np.isfinite(numbers[part]).all() for part in (train, test)):
            raise UsageError(f"some items of {fitted} or {scored} have no such label")
        for member, values in zip(codes.members, codes.values, strict=True):
            for layer, features in _features(values, together):
                x = scaled_by(features, train) if scaled else features
                columns = scores_of(kind, x, numbers, train, test, l2)
                rows += [
                    (member, layer, place, *numbers_of)
                    for place, numbers_of in enumerate(zip(*columns, strict=True))
                ]
    names = columns_of(kind)
    schema = {"member": pl.Int64, "layer": pl.Int64, "place": pl.Int64}
    table = pl.DataFrame(rows, {**schema, **dict.fromkeys(names, pl.Float64)}, orient="row")
    return table.with_columns(pl.col(names).fill_nan(None)).sort("member", "layer", "place")


def code_similarity(
    run: Run,
    label: str | None = None,
    *,
    what: What = "codes",
    step: int | None = None,
    keys: Sequence[int] = (0,),
    task: Mapping[str, Any] | None = None,
) -> pl.DataFrame:
    """The cosine between mean codes, each of the items that have the label at a place.

    Over all items of the exam; a row a (member, layer, place, other), sorted so, each pair both
    ways. Null where no item has a label, or a mean is 0 or not finite. Of a run of one shape,
    group_by("layer", "place", "other") and a mean give the ensemble's. Raises UsageError as `probe`
    does, and for labels that are numbers.
    """
    parts = []
    for codes in latent_codes(run, step=step, keys=keys, what=what, task=task):
        labels = label_of(codes.exam, label)
        if labels.dtype.kind != "b":
            raise UsageError("similarity needs labels that are true or false")
        for member, values in zip(codes.members, codes.values, strict=True):
            for layer, features in _features(values, together=False):
                cosines = cosines_of(features, labels)
                place, other = np.indices(cosines.shape).reshape(2, -1)
                columns = {"place": place, "other": other, "similarity": cosines.ravel()}
                keyed = {"member": pl.lit(member, pl.Int64), "layer": pl.lit(layer, pl.Int64)}
                parts.append(pl.DataFrame(columns).with_columns(**keyed))
    order = ["member", "layer", "place", "other"]
    table = pl.concat(parts).select(*order, "similarity").sort(order)
    return table.with_columns(pl.col("similarity").fill_nan(None))


def check_kind(kind: str, l2: float) -> None:
    """Raise UsageError for a kind of probe, or a weight, that there is not."""
    if kind not in SCORES:
        raise UsageError(f"kind is {kind!r}; it must be ridge or logistic")
    if not 0 < l2 < np.inf:
        raise UsageError(f"l2 is {l2}; it must be above 0")


def cosines_of(features: Float64, labels: NDArray[np.bool_]) -> Float64:
    """Cosines [L, L] of the mean features [n, F] by label [n, L]; NaN where there is none."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        means = np.stack([features[own].sum(axis=0) / own.sum() for own in labels.T])
        units = means / np.linalg.norm(means, axis=1, keepdims=True)
        cosines: Float64 = units @ units.T
    return cosines


def scores_of(
    kind: Kind, x: Float64, labels: Float64, train: Rows, test: Rows, l2: float
) -> list[Float64]:
    """Columns [L] of the table: the scores, then those of the control."""
    count = labels.shape[1]
    if not np.isfinite(x[train]).all() or not np.isfinite(x[test]).all():
        return [np.full(count, np.nan)] * (2 * len(SCORES[kind]))
    fit, items = (ridge if kind == "ridge" else logistic), len(labels[train])
    varies = [np.ptp(labels[part], axis=0) > 0 for part in (train, test)]
    shuffled = philox.feistel(_SHUFFLE, 0, np.arange(items), items)
    columns: list[Float64] = []
    for order in (np.arange(items), shuffled):
        weights, intercept = fit(x[train], labels[train][order], l2)
        with np.errstate(invalid="ignore"):  # NaN of a label that does not vary
            said = x[test] @ weights + intercept
            if kind == "ridge":
                scores = [r2(labels[test], said)]
            else:
                scores = [of(labels[test], said > 0) for of in (f1, accuracy)]
        columns += [np.where(varies[0] & varies[1], score, np.nan) for score in scores]
    return columns


def _features(values: NDArray[np.float32], together: bool) -> list[tuple[int | None, Float64]]:
    """Features [N, F] by layer from [N, layers, width]."""
    wide = values.astype(np.float64)
    if together:
        return [(None, wide.reshape(len(wide), -1))]
    return [(layer, np.ascontiguousarray(wide[:, layer])) for layer in range(wide.shape[1])]


def scaled_by(features: Float64, train: Rows) -> Float64:
    with np.errstate(invalid="ignore"):  # of codes that are not finite
        spread = features[train].std(axis=0)
        return features / np.where(spread > 0, spread, 1.0)


def columns_of(kind: Kind) -> list[str]:
    """The scores' names, then those of the control."""
    return [*SCORES[kind], *(f"shuffled_{name}" for name in SCORES[kind])]


def label_of(exam: Exam, label: str | None) -> NDArray[Any]:
    known = labels_of(exam)
    if not known:
        raise UsageError("the exam of this task has no labels, so a probe has nothing to look for")
    if label is None and len(known) == 1:
        return next(iter(known.values()))
    if label is None or label not in known:
        raise UsageError(f"label is {label!r}; it must be one of {', '.join(known)}")
    return known[label]


def split_of(exam: Exam, name: str) -> slice:
    if name not in exam.splits:
        raise UsageError(f"{name!r} is no split of the exam; it has {', '.join(exam.splits)}")
    return exam.splits[name]
