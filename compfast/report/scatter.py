"""The figure of a sample: a dot a member at what was drawn for it, and shares in bins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.config import Config
from compfast.config.labels import labels
from compfast.ensembles.grid import sweep_size
from compfast.report import plotting, style
from compfast.report.bins import Bins, binned, numeric, values, wide
from compfast.report.table import Summary, candidates, summarise
from compfast.solutions import DIVERGED, MIXED, OTHER, UNDERFIT, wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS = 3  # further fields that get a panel
_WIDTH = 7.4
_ROWS = 6  # values up to which numbers are rows of dots
_FAN = 0.012  # of the range: width of the members of one point
_MARKERS = {UNDERFIT: "x", MIXED: "v", OTHER: "P", DIVERGED: "*"}
_OWN = ("o", "^", "s", "D", "p", "h")  # of the candidates, in their order


def draw(
    members: pl.DataFrame,
    config: Config,
    bins: Bins,
    engine: str,
    look: style.Look = style.LOOKS["plain"],
) -> plotting.Picture:
    """Verdicts over the binned field and each further one, or over it and an agreement."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    names = candidates(members)
    shown = bins.further[:_PANELS]
    drawn = {path: values(members, config, path) for path in (bins.path, *shown)}
    x = _fanned(members, config, bins, np.array(drawn[bins.path], np.float64))
    levels = [len(_levels(drawn[path])) for path in shown]
    heights = [0.3 + 0.35 * n if n else 2.3 for n in levels or [0]] + [2.1]
    layout = ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.05, hspace=0.03, wspace=0.03)
    height = look.height * sum(heights) + 0.4 * len(heights)
    figure = Figure(figsize=(min(look.width or _WIDTH, _WIDTH), height), layout=layout)
    panels = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights})
    for axes, path in zip(panels, shown, strict=False):
        _dots(axes, members, names, x, _heights(axes, drawn[path]))
        axes.set_ylabel(style.field_name(path))
    missing = 0
    if not shown:
        score = next((name for name in (*names, "seen") if name in members.columns), None)
        agreement = members[score].cast(pl.Float64).to_numpy() if score else np.zeros(len(x))
        _dots(panels[0], members, names, x, agreement)
        panels[0].set(ylabel=f"{score} agreement", ylim=(-0.03, 1.03))
        missing = int((~np.isfinite(agreement)).sum())
    summary = summarise(binned(members, config, bins), names)
    shares(panels[-1], summary, bins, names)
    panels[-1].set_xlabel(style.field_name(bins.path))
    if bins.log:
        panels[-1].set_xscale("log")
    margin = 0.02 * (bins.edges[-1] - bins.edges[0])
    if not bins.log:
        panels[-1].set_xlim(bins.edges[0] - margin, bins.edges[-1] + margin)
    handles = [
        Line2D([], [], ls="", marker=marker(label, names), color=paint(label, names), label=label)
        for label, counts in summary.counts.items()
        if counts.any()
    ]
    figure.legend(handles=handles, loc="outside right upper", handlelength=1.2)
    said = f"{style.caption(config, members, engine)} {_reading(config, bins, len(shown))}"
    if missing:
        said += f" {missing} members have no agreement, and no dot."
    return plotting.Picture(figure, said)


def marker(label: str, names: tuple[str, ...]) -> str:
    """The shape of a verdict's dots."""
    return _MARKERS.get(label) or _OWN[names.index(label) % len(_OWN)]


def paint(label: str, names: tuple[str, ...]) -> str:
    """The colour of a verdict's dots; thin grey ones are darker than an area would be."""
    return "#8a8a8a" if label == UNDERFIT else style.colour(label, names)


def shares(axes: Axes, summary: Summary, bins: Bins, names: tuple[str, ...]) -> None:
    """Share of each verdict in each bin, a level line as wide as the bin, in its Wilson interval.

    Labels that say no solution (mixed, other, diverged) have no interval, which would hide the
    others.
    """
    rows = summary.gamma.astype(int)
    left, right = bins.edges[:-1][rows], bins.edges[1:][rows]
    found = [label for label, counts in summary.counts.items() if counts.any()]
    for turn, label in enumerate(found, 1):
        counts = summary.counts[label]
        there = counts > 0
        # side by side, since equal shares would hide each other
        part = turn / (len(found) + 1)
        place = left * (right / left) ** part if bins.log else left + (right - left) * part
        main, colour = label in (UNDERFIT, *names), paint(label, names)
        share = summary.share(label)
        if main:
            low, high = wilson(counts, summary.members)
            axes.bar(
                left[there], (high - low)[there], (right - left)[there], low[there],
                align="edge", color=colour, alpha=0.18, linewidth=0,
            )  # fmt: skip
        axes.hlines(share[there], left[there], right[there], color=colour, lw=1.6 if main else 0.9)
        axes.plot(place[there], share[there], ls="", marker=marker(label, names), color=colour)
    for edge in bins.edges[1:-1]:
        axes.axvline(edge, color="#e0e0e0", lw=0.6, zorder=0)
    axes.set(ylim=(-0.03, 1.03), ylabel="share in each bin")
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])


def _heights(axes: Axes, drawn: list[Any]) -> NDArray[np.float64]:
    """Where the dots of one panel stand; few values, or such as are no numbers, are rows."""
    if levels := _levels(drawn):
        # a fixed, even spread: the height of a dot in its row means nothing
        spread = 0.5 * ((0.618034 * np.arange(len(drawn))) % 1 - 0.5)
        axes.set_yticks(range(len(levels)), labels(levels))
        axes.set_ylim(-0.5, len(levels) - 0.5)
        axes.tick_params(axis="y", length=0)
        return np.array([levels.index(value) for value in drawn], np.float64) + spread
    if wide(tuple(drawn)):
        axes.set_yscale("log")
    return np.array(drawn, np.float64)


def _dots(
    axes: Axes,
    members: pl.DataFrame,
    names: tuple[str, ...],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
) -> None:
    verdict = members["verdict"].to_numpy()
    size = float(np.clip(60 / np.sqrt(len(x)), 2.5, 5.5))
    for label in (UNDERFIT, MIXED, OTHER, DIVERGED, *names):
        own = verdict == label
        axes.plot(
            x[own], y[own], ls="", marker=marker(label, names), color=paint(label, names),
            ms=size, alpha=0.8, mew=0.9 if label == UNDERFIT else 0,
        )  # fmt: skip


def _levels(drawn: list[Any]) -> list[Any]:
    """The rows of a panel, in order; none where there are numbers enough for an axis."""
    found = list(dict.fromkeys(drawn))
    if not numeric(tuple(drawn)):
        return found
    return sorted(found) if len(found) <= _ROWS else []


def _fanned(
    members: pl.DataFrame, config: Config, bins: Bins, x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`x`, the members of one point side by side so that none hides another."""
    each = sweep_size(config)
    aside = ((members["member"].to_numpy() % each + 0.5) / each - 0.5) * _FAN
    low, high = bins.edges[0], bins.edges[-1]
    fanned = x * (high / low) ** aside if bins.log else x + (high - low) * aside
    return np.asarray(fanned, np.float64)


def _reading(config: Config, bins: Bins, shown: int) -> str:
    kind, many = "ratio" if bins.log else "width", sweep_size(config) > 1
    beside = " (those of one point side by side)" if many else ""
    single = ", those of one point counted singly" if many else ""
    said = (
        f"Dots: members, at the values of their point{beside}. Shares: of the members in each of"
        f" {len(bins.labels)} bins of equal {kind}, whatever else they differ in, with 95 % Wilson"
        f" intervals over the members of the bin{single}."
    )
    left = [style.field_name(path) for path in bins.further[shown:]]
    return f"{said} Not shown: {', '.join(left)}." if left else said
