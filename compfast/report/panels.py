"""The panels of a phase diagram, each drawn into one matplotlib axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.report import style
from compfast.report.scatter import marker
from compfast.report.table import Axis, Summary, candidates, cells, summarise
from compfast.solutions import UNDERFIT, wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh

Float64 = NDArray[np.float64]
_FEW = 24  # gammas up to which every point gets a marker


def edges(centres: Float64) -> Float64:
    """Cell borders [G + 1] half-way between the centres [G]; one centre gets a unit cell."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def occurring(summary: Summary) -> list[str]:
    return [label for label, counts in summary.counts.items() if counts.any()]


def stacked(axes: Axes, summary: Summary, names: tuple[str, ...]) -> None:
    """All members of a gamma as one column, cut by verdict."""
    border = edges(summary.gamma)
    bottom = np.zeros(len(summary.gamma))
    for label in occurring(summary):
        share = summary.share(label)
        axes.bar(
            border[:-1],
            share,
            np.diff(border),
            bottom,
            align="edge",
            color=style.colour(label, names),
            edgecolor=style.colour(label, names),
            linewidth=0.6,  # without a border an SVG's or PDF's viewer shows seams
        )
        bottom += share
    axes.set(ylim=(0, 1), xlim=(border[0], border[-1]))
    _percent(axes)


def shares(axes: Axes, summary: Summary, names: tuple[str, ...]) -> None:
    """Share of each verdict, with its Wilson interval where the verdict occurs.

    Labels that say no solution (mixed, other, diverged) are thin lines without an interval, which
    would hide the others.
    """
    border = edges(summary.gamma)
    few = len(summary.gamma) <= _FEW
    for label in occurring(summary):
        main = label in (UNDERFIT, *names)
        paint = "#8a8a8a" if label == UNDERFIT else style.colour(label, names)
        share, there = summary.share(label), summary.counts[label] > 0
        low, high = wilson(summary.counts[label], summary.members)
        if main and few:
            reach = np.abs([share - low, high - share])[:, there]
            axes.errorbar(
                summary.gamma[there], share[there], reach, fmt="none", ecolor=paint,
                elinewidth=1.1, capsize=2, alpha=0.75,
            )  # fmt: skip
        elif main:
            axes.bar(
                border[:-1][there], (high - low)[there], np.diff(border)[there], low[there],
                align="edge", color=paint, alpha=0.18, linewidth=0,
            )  # fmt: skip
        axes.plot(
            summary.gamma,
            share,
            marker="o" if few else "",
            ls="-" if main else (0, (4, 1.5)),
            color=paint,
            lw=1.7 if main else 1.0,
            ms=3.5,
        )
    _unit(axes, summary)


def agreement_curves(axes: Axes, summary: Summary, names: tuple[str, ...]) -> None:
    """Mean agreements with the middle half of the seeds."""
    every = 1 if len(summary.gamma) <= _FEW else len(summary.gamma) // (_FEW // 2)
    drawn = False
    for name, spread in summary.agreements.items():
        paint = style.colour(name, names)
        drawn = drawn or bool(np.isfinite(spread.mean).any())
        if name != "seen":
            axes.fill_between(
                summary.gamma, spread.low, spread.high, color=paint, alpha=0.16, linewidth=0
            )
        dashes: Any = (0, (2.5, 1.2)) if name == "seen" else "-"
        shape = "" if name == "seen" else marker(name, names)
        axes.plot(
            summary.gamma, spread.mean, marker=shape, markevery=every, ls=dashes, color=paint,
            lw=1.7, ms=3.5,
        )  # fmt: skip
    if not drawn:
        nothing(axes)
    _unit(axes, summary)


def verdict_bars(axes: Axes, summary: Summary, names: tuple[str, ...]) -> None:
    """One gamma: a bar a verdict, with its Wilson interval."""
    labels = list(summary.counts)
    share = np.array([summary.share(label)[0] for label in labels])
    low, high = wilson([summary.counts[label][0] for label in labels], summary.members[0])
    axes.bar(labels, share, 0.7, color=[style.colour(label, names) for label in labels])
    axes.errorbar(
        labels,
        share,
        np.abs([share - low, high - share]),
        fmt="none",
        ecolor="#404040",
        elinewidth=1,
        capsize=3,
    )
    axes.set_ylim(0, 1.03)
    axes.tick_params(axis="x", length=0)
    _percent(axes)


def agreement_dots(axes: Axes, members: pl.DataFrame, names: tuple[str, ...]) -> None:
    """One gamma: every member's agreements as dots, their mean as a bar."""
    shown = [name for name in ("seen", *names) if name in members.columns]
    drawn = False
    for place, name in enumerate(shown):
        values = members[name].cast(pl.Float64).to_numpy()
        values = values[np.isfinite(values)]
        if not len(values):
            continue
        drawn = True
        # a fixed, even spread: the horizontal place of a dot means nothing
        across = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(1)
        paint = style.colour(name, names)
        axes.plot(place + across, values, "o", color=paint, ms=4, alpha=0.65, mew=0)
        axes.hlines(values.mean(), place - 0.3, place + 0.3, color=paint, lw=1.8)
    if not drawn:
        nothing(axes)
    axes.set(ylim=(-0.03, 1.03), xlim=(-0.6, len(shown) - 0.4))
    axes.set_xticks(range(len(shown)), shown)
    axes.tick_params(axis="x", length=0)
    _percent(axes)


def share_map(axes: Axes, members: pl.DataFrame, second: Sequence[Axis], verdict: str) -> QuadMesh:
    """Share of `verdict` over gamma and second axes, a row a combination of their levels.

    Cells mostly underfit are hatched.
    """
    from matplotlib.patches import Rectangle

    gammas = np.unique(members["gamma"].to_numpy())
    rows = list(cells(members, second))
    share = np.full((len(rows), len(gammas)), np.nan)
    underfit = np.zeros_like(share)
    for row, (_, part) in enumerate(rows):
        own = summarise(part, candidates(members))
        columns = np.searchsorted(gammas, own.gamma)
        share[row, columns] = own.share(verdict)
        underfit[row, columns] = own.share(UNDERFIT)
    x, y = edges(gammas), np.arange(len(rows) + 1) - 0.5
    zone = underfit >= 0.5
    mesh = axes.pcolormesh(
        x, y, np.ma.masked_array(share, zone | np.isnan(share)), cmap="cividis", vmin=0, vmax=1,
        rasterized=True,  # an SVG's or PDF's viewer shows seams between cells that are areas
    )  # fmt: skip
    for row, column in zip(*np.nonzero(zone), strict=True):
        axes.add_patch(
            Rectangle(
                (x[column], y[row]), x[column + 1] - x[column], 1, hatch="/////",
                facecolor="none", edgecolor="#a0a0a0", linewidth=0,
            )
        )  # fmt: skip
    each = -(-len(rows) // style.MAP_ROWS)
    axes.set_yticks(range(0, len(rows), each), [", ".join(texts) for texts, _ in rows[::each]])
    axes.tick_params(axis="y", length=0)
    return mesh


def nothing(axes: Axes) -> None:
    axes.text(
        0.5, 0.5, "no member stayed finite", ha="center", va="center", color="#595959",
        transform=axes.transAxes,
    )  # fmt: skip


def _unit(axes: Axes, summary: Summary) -> None:
    axes.set(ylim=(-0.03, 1.03), xlim=edges(summary.gamma)[[0, -1]])
    _percent(axes)


def _percent(axes: Axes) -> None:
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
    axes.set_yticks([0.125, 0.375, 0.625, 0.875], minor=True)
    axes.tick_params(axis="y", which="minor", length=0)
