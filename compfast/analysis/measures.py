"""The measures that `compfast analyse` knows by name, and that other code may add to.

A measure gives a long table (compfast.analysis.long) of a run at some steps. A cheap one is taken
of all members at once; a costly one takes members, too, so that its progress can be shown, and what
it gives of one must not depend on which others are asked for. One line adds a measure:

    MEASURES["mine"] = Measure("what it says", my_table, shown=("my_number",))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from compfast.analysis.connectivity import loss_line, loss_line_effort
from compfast.analysis.flow import EDGES, SCORES, information_flow
from compfast.analysis.inputs import attends
from compfast.analysis.landscape import sharpness, sharpness_effort
from compfast.analysis.lines import barriers
from compfast.analysis.long import joined, melted
from compfast.analysis.neurons import condensation
from compfast.analysis.place_probes import probe_places
from compfast.analysis.singular import ranks, spectra
from compfast.analysis.snapshots import kept_as
from compfast.analysis.tokens import embeddings
from compfast.analysis.weights import distances, norms
from compfast.config import ModelConfig
from compfast.errors import UsageError
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run
from compfast.tasks import labels_of

Cheap = Callable[[Run, Sequence[int]], pl.DataFrame]
Costly = Callable[[Run, Sequence[int], Sequence[int]], pl.DataFrame]
_LABELS = ("key", "position", "anchor1", "anchor2")  # that probes look for, where there are any
_ITEMS = 256  # of each half of the exam


@dataclass(frozen=True, slots=True)
class Measure:
    """What a measure says, how it is taken, and which of its numbers figures show first.

    Raises UsageError unless it has one of `table` and `costly`.
    """

    says: str  # one line
    table: Cheap | None = None  # of run and steps: a long table
    costly: Costly | None = None  # instead: run, steps, members
    shown: tuple[str, ...] = ()  # names of its numbers
    related: bool = True  # its numbers are held against gamma and verdicts, and predict these
    seconds: Callable[[Run, Sequence[int]], float] | None = None  # of a costly one; None: is timed

    def __post_init__(self) -> None:
        if (self.table is None) == (self.costly is None):
            raise UsageError("a measure has either a `table` or, if it is costly, a `costly`")


def chosen_measures(names: Sequence[str] | None) -> dict[str, Measure]:
    """The measures of these names, None: all cheap ones; UsageError, with the list, for others."""
    if names is None:
        return {name: own for name, own in MEASURES.items() if own.table is not None}
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        given = repr(unknown[0]) if unknown else "empty"
        raise UsageError(f"the measure is {given}; it must be one of {', '.join(MEASURES)}")
    return {name: MEASURES[name] for name in dict.fromkeys(names)}


def flow(run: Run, steps: Sequence[int]) -> pl.DataFrame:
    """`compfast.analysis.information_flow` as a long table; `index` of an edge is the head."""
    parts, names = [], [*SCORES, *(f"shuffled_{name}" for name in SCORES)]
    for step in steps:
        found = information_flow(run, step=kept_as(run, step))
        scores, edges = (table.with_columns(step=pl.lit(step, pl.Int64)) for table in found)
        parts += [melted(scores, names), melted(edges, list(EDGES), "head")]
    return joined(parts)


def probes(run: Run, steps: Sequence[int], members: Sequence[int]) -> pl.DataFrame:
    """R2 of ridge probes of the residual stream at the last token behind each layer, as a table.

    For the key, where it stands and which the anchors are: `r2_key` ..., means over the label's
    places; and the controls, `shuffled_r2_key` ... Raises UsageError for exams without these labels
    and networks without layers of attention.
    """
    parts = []
    for specs, exam in zip(run.groups, exams_of(run.groups), strict=True):
        own = [spec.member for spec in specs if spec.member in set(members)]
        model, labels = specs[0].model, [name for name in _LABELS if name in labels_of(exam)]
        if not labels or not attends(specs[0]) or not isinstance(model, ModelConfig):
            raise UsageError(
                f"task.name is {specs[0].task.name}, model.family {model.family}; probes need"
                f" attention and an exam with one of the labels {', '.join(_LABELS)}"
            )
        places = {f"blocks.{layer}": layer for layer in range(model.layers)}
        for step in steps if own else ():
            table = probe_places(
                run, list(places), labels, items=_ITEMS, step=kept_as(run, step), members=own
            )
            means = table.group_by("member", "name", "label", maintain_order=True).agg(
                pl.col("r2", "shuffled_r2").mean()
            )
            layer = pl.col("name").replace_strict(places, return_dtype=pl.Int64)
            keyed = means.with_columns(layer=layer, step=pl.lit(step, pl.Int64))
            for label in labels:
                named = {"r2": f"r2_{label}", "shuffled_r2": f"shuffled_r2_{label}"}
                parts.append(melted(keyed.filter(label=label).rename(named), list(named.values())))
    return joined(parts)


def curvature(run: Run, steps: Sequence[int], members: Sequence[int]) -> pl.DataFrame:
    """`compfast.analysis.sharpness` as a long table."""
    names = ["eigenvalue1", "trace", "gradient_norm", "loss"]
    tables = ((step, sharpness(run, kept_as(run, step), members)) for step in steps)
    return joined([_at(table, step, names) for step, table in tables])


def descent(run: Run, steps: Sequence[int], members: Sequence[int]) -> pl.DataFrame:
    """The barrier on the straight line from the initial weights, as a long table.

    `path_barrier` is what `compfast.analysis.barriers` says of `loss_line`; the initial weights
    have none. Raises UsageError for a run without snapshot 0.
    """
    lines = ((step, loss_line(run, kept_as(run, step), members)) for step in steps if step)
    named = {"barrier": "path_barrier"}
    return joined(
        [_at(barriers(line).rename(named), step, list(named.values())) for step, line in lines]
    )


def _at(table: pl.DataFrame, step: int, names: Sequence[str]) -> pl.DataFrame:
    """The long table of one step's."""
    return melted(table.with_columns(step=pl.lit(step, pl.Int64)), names)


MEASURES: dict[str, Measure] = {
    "norms": Measure("norms of all tensors", norms, shown=("norm", "spectral_norm")),
    "distances": Measure(
        "distance of the weights from the initial ones, which are snapshot 0",
        distances,
        shown=("relative_distance", "initial_cosine"),
    ),
    "ranks": Measure(
        "stable and effective rank of every matrix, and the complexity of arXiv 2501.08537",
        ranks,
        shown=("complexity", "stable_rank", "effective_rank"),
    ),
    "spectra": Measure("all singular values of every matrix", spectra, related=False),
    "condensation": Measure(
        "groups of neurons that point the same way",
        condensation,
        shown=("grouped", "largest", "groups"),
    ),
    "embeddings": Measure(
        "covariance of the token embeddings, and whether numbers lie in it in their order",
        embeddings,
        shown=("dimensions", "order_r2", "order_distance"),
    ),
    "flow": Measure(
        "two mechanisms of attention between key, anchors and answer, and the edges they use",
        flow,
        shown=SCORES,
    ),
    "probes": Measure(
        "how well key, position and anchors are read from the residual stream at the last token",
        costly=probes,
        shown=tuple(f"r2_{label}" for label in _LABELS),
    ),
    "sharpness": Measure(
        "the Hessian of the training loss: its largest eigenvalue, its trace",
        costly=curvature,
        shown=("eigenvalue1", "trace"),
        seconds=lambda run, steps: len(steps) * sharpness_effort(run).seconds,
    ),
    "path": Measure(
        "the barrier of the loss on the straight line from the initial weights, snapshot 0",
        costly=descent,
        shown=("path_barrier",),
        seconds=lambda run, steps: len(steps) * loss_line_effort(run).seconds,
    ),
}
