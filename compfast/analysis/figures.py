"""Figures of measures: against gamma, and over a training, members told apart by their verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from compfast.analysis.long import KEY, label
from compfast.errors import UsageError
from compfast.report import plotting, style
from compfast.report.scatter import marker, paint
from compfast.report.table import candidates, verdict_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS, _COLUMNS = 9, 3
_DPI = 130
_TICKS = 6  # steps that are named where there are no more
_PAINTS = {"commonest": "#c4c4c4", "gamma": "#e69f00", "measures": "#0072b2", "both": "#009e73"}


def by_gamma(table: pl.DataFrame, members: pl.DataFrame, shown: Sequence[str] = ()) -> bytes:
    """A PNG: numbers of a long table of one step against gamma, a panel each, a dot a member.

    Over the dots the median over the seeds of each gamma, in their range, where a gamma has
    several. Panels are the first of `shown` measures, then the others. Raises UsageError for a
    table of several steps, or without values.
    """
    steps = table["step"].unique().to_list()
    if len(steps) != 1:
        raise UsageError(f"a figure against gamma is of one step; the table has {len(steps)}")

    def draw(axes: Axes, own: pl.DataFrame, names: tuple[str, ...]) -> None:
        size = float(np.clip(60 / np.sqrt(len(own)), 2.5, 5.0))
        for verdict, dots in _by_verdict(own, members):
            axes.plot(
                dots["gamma"], dots["value"], ls="", marker=marker(verdict, names), ms=size,
                color=paint(verdict, names), alpha=0.8, mew=0.9 if verdict == "underfit" else 0,
            )  # fmt: skip
        several = own.filter(pl.len().over("gamma") > 1)
        _median(axes, several, "gamma", "#404040")

    return _figure(table, members, shown, draw, "gamma", f"at step {steps[0]}")


def over_training(table: pl.DataFrame, members: pl.DataFrame, shown: Sequence[str] = ()) -> bytes:
    """A PNG: numbers of a long table over its steps, median and range of the members of a verdict.

    Raises UsageError for a table without values.
    """

    def draw(axes: Axes, own: pl.DataFrame, names: tuple[str, ...]) -> None:
        for verdict, part in _by_verdict(own, members):
            _median(axes, part, "step", paint(verdict, names))
        if own["step"].max() != own["step"].min():
            axes.set_xscale("symlog", linthresh=max(1, _second(own["step"])))

    return _figure(table, members, shown, draw, "step", "over training")


def predictions(table: pl.DataFrame) -> bytes:
    """A PNG: the share of verdicts that `predict` tells at each step, in its interval."""
    with plotting.settings():
        figure = _blank(4.6, 3.2)
        axes = figure.subplots()
        steps = table["step"].to_numpy()
        aside = 0.012 * max(np.ptp(steps), 1)  # equal numbers stand beside each other
        for place, (name, colour) in enumerate(_PAINTS.items()):
            own = table.filter(pl.col("from") == name).sort("step")
            if not len(own):
                continue
            x, y = own["step"].to_numpy() + place * aside, own["accuracy"].to_numpy()
            reach = np.stack([y - own["low"].to_numpy(), own["high"].to_numpy() - y])
            axes.errorbar(
                x, y, np.maximum(reach, 0), marker="o", ms=3.5, capsize=2, color=colour, label=name
            )
            if name == "measures":
                shuffled = own["shuffled"]
                axes.plot(x, shuffled, ":x", ms=3.5, color=colour, label="verdicts shuffled")
        axes.set(xlabel="step of the weights", ylabel="verdicts told", ylim=(-0.03, 1.03))
        if len(taken := np.unique(steps)) <= _TICKS:
            axes.set_xticks(taken, [str(step) for step in taken])
        figure.legend(loc="outside right upper")
        said = (
            f"Final verdicts of {table['n'][0]} members told from what they were at a step,"
            f" cross-validated in {table['folds'][0]} folds of whole seeds; intervals: folds"
            " resampled, 95 %. Crosses: verdicts in other orders, the control."
        )
        _caption(figure, said, 6.0)
        return plotting.png(figure, _DPI)


def _figure(
    table: pl.DataFrame, members: pl.DataFrame, shown: Sequence[str], draw: Any, x: str, when: str
) -> bytes:
    keys = _panels(table, shown)
    every = table.drop_nulls("value").select(KEY).unique().height
    if not keys:
        raise UsageError("no member has a value of these measures, so there is nothing to draw")
    judged = members.drop_nulls("verdict")
    names = candidates(members)
    rows = -(-len(keys) // _COLUMNS)
    columns = min(len(keys), _COLUMNS)
    with plotting.settings():
        figure = _blank(1.4 + 2.5 * columns, 0.5 + 1.9 * rows)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        beside = judged.select("member", "gamma", "verdict", "seed")
        for axes, (title, own) in zip(panels, keys, strict=False):
            draw(axes, own.join(beside, on="member"), names)
            axes.set_title(title)
            axes.set_xlabel(x)
        for axes in panels[len(keys) :]:
            axes.remove()
        present = set(judged["verdict"].unique().to_list())
        _legend(figure, [v for v in verdict_order(members) if v in present], names)
        seeds = judged["seed"].n_unique()
        dots = "Dots: members. Line and band" if x == "gamma" else "Lines and bands, by verdict"
        of = "over seeds" if x == "gamma" else "over members"
        said = f"{len(judged)} members, {seeds} seeds, {when}. {dots}: median and range {of}."
        if every > len(keys):
            said += f" {len(keys)} of {every} numbers are shown."
        _caption(figure, said, 1.4 + 2.5 * columns)
        return plotting.png(figure, _DPI)


def _panels(table: pl.DataFrame, shown: Sequence[str]) -> list[tuple[str, pl.DataFrame]]:
    """Title and rows of the first numbers, those of `shown` before the others."""
    own = table.drop_nulls("value").with_columns(label().alias("title"))
    named = own.partition_by("title", maintain_order=True, as_dict=True)
    order = {measure: i for i, measure in enumerate(shown)}
    titles = sorted(named, key=lambda key: order.get(named[key]["measure"][0], len(order)))
    return [(str(key[0]), named[key]) for key in titles[:_PANELS]]


def _by_verdict(own: pl.DataFrame, members: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    parts = [(verdict, own.filter(verdict=verdict)) for verdict in verdict_order(members)]
    return [(verdict, part) for verdict, part in parts if len(part)]


def _median(axes: Axes, own: pl.DataFrame, x: str, colour: str) -> None:
    value = pl.col("value")
    found = (
        own.group_by(x)
        .agg(value.median().alias("middle"), value.min().alias("low"), value.max().alias("high"))
        .sort(x)
    )
    axes.fill_between(found[x], found["low"], found["high"], color=colour, alpha=0.15, linewidth=0)
    axes.plot(found[x], found["middle"], color=colour, lw=1.4)


def _second(steps: pl.Series) -> int:
    """The first step after 0."""
    return int(steps.filter(steps > 0).min() or 1)  # type: ignore[arg-type]  # whole numbers


def _legend(figure: Figure, verdicts: Sequence[str], names: tuple[str, ...]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], ls="", marker=marker(v, names), color=paint(v, names), label=v)
        for v in verdicts
    ]
    figure.legend(handles=handles, loc="outside right upper", handlelength=1.2)


def _blank(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.05))


def _caption(figure: Figure, said: str, width: float) -> None:
    figure.text(0.01, -0.015, style.wrapped(said, width), va="top", fontsize=7.5, color="#404040")
