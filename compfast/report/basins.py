"""The basin map: where the canonical model of a binary chain ends, over its weights e and w.

arXiv 2406.03072. A panel a chain: the basins of compfast.tasks.chain_theory as areas, its
critical points as lines, the gradient flow from a few points, and, where they are given, the
starting points of trained members, each as the verdict it ended with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compfast.config.paths import user_path
from compfast.errors import UsageError
from compfast.report import plotting, scatter, style
from compfast.solutions import DIVERGED, MIXED, OTHER, UNDERFIT
from compfast.storage import durable
from compfast.tasks import chain_flow, chain_theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Float64 = NDArray[np.float64]

_NAMES = ("global", "local")
_LABELS = (*_NAMES, UNDERFIT, MIXED, OTHER, DIVERGED)
_SIDE, _COLUMNS, _MOST_PANELS, _LEGEND = 2.9, 4, 12, 1.7  # inches of a panel; panels; inches
_DPI = 160
_PIXELS = 480  # of an area's side
_INK, _GREY = "#303030", "#707070"
_TIMES = np.geomspace(1e-4, 1e4, 161)  # of a flow line's points; most are at rest long before
_ACROSS = np.array([0.15, 0.4, 0.65, 0.9])  # where flow lines enter, as shares of the extent
_UP = np.array([-0.9, -0.65, -0.46, -0.2, -0.06, 0.1, 0.35, 0.6, 0.85])
_SHORT = 0.1  # of the extent: a line with less to see is not drawn


@dataclass(frozen=True, slots=True, eq=False)
class Starts:
    """Members' first weights and what became of them; all three have the same length."""

    e: Float64  # [M]
    w: Float64  # [M]
    verdict: Sequence[str]  # [M]; "global", "local" or a verdict that every task has


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One chain of the map."""

    p: float
    q: float
    starts: Starts | None = None


def basin_map(panels: Sequence[Panel], path: str | Path, extent: float = 2.0) -> Path:
    """Draw the map of these chains, side by side, as a PNG at `path`, replaced as a whole.

    `extent` is the largest |e| and |w| shown. Raises UsageError as `basin_png` does, StorageError
    where the file cannot be written.
    """
    path = user_path(path)
    picture = basin_png(panels, extent)
    durable.make_folder(path.parent)
    durable.replace_file(path, [picture])
    return path


def basin_png(panels: Sequence[Panel], extent: float = 2.0) -> bytes:
    """The bytes of the map's PNG, the same whatever a user set up for matplotlib.

    Raises UsageError for no panel or too many, an extent that is none, starts of unlike lengths or
    with an unknown verdict, and a chain with p + q = 1.
    """
    if not 1 <= len(panels) <= _MOST_PANELS:
        raise UsageError(f"a basin map has 1 to {_MOST_PANELS} panels; {len(panels)} were given")
    if not 0.1 <= extent <= 20:  # beyond that the flow is stiff
        raise UsageError(f"the extent of a basin map is {extent}; it must be in 0.1..20")
    for panel in panels:
        _check(panel)
    with plotting.settings():
        return plotting.png(_draw(panels, extent), _DPI)


def _check(panel: Panel) -> None:
    chain_theory.predicted_basin(0.0, 0.0, panel.p, panel.q)
    if panel.starts is None:
        return
    e, w, verdict = panel.starts.e, panel.starts.w, panel.starts.verdict
    if not (np.shape(e) == np.shape(w) == (len(verdict),)):
        raise UsageError(
            f"starting points have e of shape {np.shape(e)}, w of shape {np.shape(w)} and"
            f" {len(verdict)} verdicts; one of each a member is needed"
        )
    strange = sorted(set(verdict) - set(_LABELS))
    if strange:
        raise UsageError(
            f"a starting point's verdict is {strange[0]!r}; it must be one of {', '.join(_LABELS)}"
        )


def _draw(panels: Sequence[Panel], extent: float) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(len(panels), _COLUMNS)
    rows = -(-len(panels) // columns)
    width = 0.6 + _SIDE * columns + _LEGEND
    layout = ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.06, hspace=0.03, wspace=0.03)
    figure = Figure(figsize=(width, 0.4 + (_SIDE + 0.15) * rows), layout=layout)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _panel(axes, panel, extent)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("w")
    for c in range(columns):
        lowest = (len(panels) - 1 - c) // columns
        grid[lowest, c].set_xlabel("e")
        grid[lowest, c].tick_params(labelbottom=True)
    figure.legend(handles=_handles(panels), loc="outside right center", handlelength=2.0)
    figure.text(
        0.01,
        -0.015,
        style.wrapped(_reading(panels), width),
        va="top",
        fontsize=7.5,
        color="#404040",
    )
    return figure


def _panel(axes: Axes, panel: Panel, extent: float) -> None:
    p, q = panel.p, panel.q
    _areas(axes, p, q, extent)
    _flow_lines(axes, p, q, extent)
    w = np.linspace(-extent, extent, 4001)
    axes.axhline(chain_theory.SADDLE_W, color=_INK, lw=0.8, ls=(0, (1, 2)))
    _edge(axes, p, q, extent)
    if max(p, q) < 1:
        e = chain_theory.minima(w, p, q)
        for side in (-e, e):
            axes.plot(side, w, color=_line("global"), lw=2.4)
    kinds = chain_theory.critical_kind(w, p, q)
    for kind, dashes in (("minimum", "-"), ("maximum", (0, (2, 1.4)))):
        own = w[kinds == kind]
        axes.plot(np.zeros_like(own), own, color=_line("local"), lw=2.4, ls=dashes)
    axes.plot(0, chain_theory.SADDLE_W, "D", color="white", mec=_INK, ms=5, mew=1.1, zorder=5)
    if panel.starts is not None:
        _dots(axes, panel.starts)
    sign = "<" if p + q < 1 else ">"
    axes.locator_params(nbins=4)
    axes.set(
        title=f"p = {p:g}, q = {q:g}  (p + q {sign} 1)",
        xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal",
    )  # fmt: skip


def _areas(axes: Axes, p: float, q: float, extent: float) -> None:
    from matplotlib.colors import ListedColormap

    middle = extent * ((np.arange(_PIXELS) + 0.5) / _PIXELS * 2 - 1)  # of pixels; none is at 0
    local = chain_theory.predicted_basin(middle, middle[:, None], p, q) == "local"
    axes.imshow(
        local, cmap=ListedColormap([_tint(name) for name in _NAMES]), vmin=0, vmax=1,
        extent=(-extent, extent, -extent, extent), origin="lower", interpolation="nearest",
        zorder=0,
    )  # fmt: skip


def _edge(axes: Axes, p: float, q: float, extent: float) -> None:
    """Points from which the flow leads into the saddle: e^2 = T(w) on the basin's side of it."""
    saddle = chain_theory.SADDLE_W
    if p + q < 1:
        own = np.linspace(saddle, saddle - extent, 400)
    else:
        own = -np.geomspace(-saddle, 1e-300, 4000)  # e is only as large as the root of log |w|
    e = np.sqrt(np.maximum(chain_theory.threshold(own), 0.0))
    for side in (-e, e):
        axes.plot(side, own, color=_INK, lw=1.0)


def _flow_lines(axes: Axes, p: float, q: float, extent: float) -> None:
    """Lines from the panel's border and from beside the maxima, an arrow in the middle of each."""
    own = chain_theory.critical_kind(extent * _UP, p, q) == "maximum"
    beside, ones, up = np.full(own.sum(), 0.04), np.ones_like(_ACROSS), np.ones_like(_UP)
    e = extent * np.concatenate([up, _ACROSS, _ACROSS, beside])
    w = extent * np.concatenate([_UP, ones, -ones, _UP[own]])
    along = chain_flow.paths(e, w, p, q, _TIMES)
    lines = np.concatenate([np.stack([e, w])[..., None], np.stack(along)], axis=-1)  # [2, N, times]
    for line in np.concatenate([lines, lines * [[[-1]], [[1]]]], axis=1).transpose(1, 0, 2):
        inside = (np.abs(line) <= extent).all(axis=0)
        line = line[:, np.logical_and.accumulate(inside)]
        length = np.concatenate([[0.0], np.hypot(*np.diff(line, axis=1)).cumsum()])
        if length[-1] < _SHORT * extent:
            continue
        axes.plot(*line, color=_GREY, lw=0.7, zorder=1.5)
        at = int(np.clip(np.searchsorted(length, length[-1] / 2), 1, len(length) - 1))
        axes.annotate(
            "", xy=tuple(line[:, at]), xytext=tuple(line[:, at - 1]), zorder=1.6,
            arrowprops={
                "arrowstyle": "-|>", "color": _GREY, "lw": 0.7, "mutation_scale": 7,
                "shrinkA": 0, "shrinkB": 0,
            },
        )  # fmt: skip


def _dots(axes: Axes, starts: Starts) -> None:
    """A dot a member; those beyond the panel are cut off."""
    verdict = np.asarray(starts.verdict)
    size = float(np.clip(60 / math.sqrt(max(len(verdict), 1)), 3.0, 5.5))
    for label in reversed(_LABELS):
        own = verdict == label
        axes.plot(
            starts.e[own], starts.w[own], ls="", marker=scatter.marker(label, _NAMES),
            color=scatter.paint(label, _NAMES), ms=size, mec=_INK, mew=0.5, zorder=4,
        )  # fmt: skip


def _handles(panels: Sequence[Panel]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def line(label: str, **how: Any) -> Line2D:
        return Line2D([], [], label=label, **how)

    starts = [panel.starts for panel in panels if panel.starts is not None]
    found = {label for start in starts for label in start.verdict}
    return [
        Patch(color=_tint("global"), label="flow ends global"),
        Patch(color=_tint("local"), label="flow ends local"),
        line("global minima", color=_line("global"), lw=2.4),
        line("local minima", color=_line("local"), lw=2.4),
        line("local maxima", color=_line("local"), lw=2.4, ls=(0, (2, 1.4))),
        line("saddle", marker="D", ls="", color="white", mec=_INK, ms=5, mew=1.1),
        line("edge of a basin", color=_INK, lw=1.0),
        line("w = -1/√2", color=_INK, lw=0.8, ls=(0, (1, 2))),
        line("gradient flow", color=_GREY, lw=0.7),
        *(
            line(
                f"trained: {label}", marker=scatter.marker(label, _NAMES), ls="", mew=0.5,
                color=scatter.paint(label, _NAMES), mec=_INK, ms=5,
            )
            for label in _LABELS
            if label in found
        ),
    ]  # fmt: skip


def _reading(panels: Sequence[Panel]) -> str:
    said = (
        "Canonical model of arXiv 2406.03072 with its best bias; e and w are its two weights."
        " Global: the loss ends at the chain's entropy rate (bigram). Local: at the entropy of the"
        " stationary law (unigram), which every point of e = 0 predicts."
    )
    trained = sum(len(panel.starts.verdict) for panel in panels if panel.starts is not None)
    if trained:
        said += f" Dots: the first weights of {trained} trained members, by verdict."
    if any(max(panel.p, panel.q) == 1 for panel in panels):
        said += " With p or q of 1 the global minimum lies at infinity."
    return said


def _line(name: str) -> Any:
    """A shade darker than the dots of that verdict."""
    from matplotlib.colors import to_rgb

    return tuple(0.75 * part for part in to_rgb(style.colour(name, _NAMES)))


def _tint(name: str) -> Any:
    from matplotlib.colors import to_rgb

    return tuple(1 - 0.28 * (1 - part) for part in to_rgb(style.colour(name, _NAMES)))
