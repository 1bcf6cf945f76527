"""The form of Figure 2 of arXiv 2405.05409: agreement with each solution on the held-out group.

Of several depths a map a candidate solution, gamma by depth; of one a line a candidate with the
standard deviation over seeds. Cells whose members do not even do what they were trained for are
shaded, as in the paper: there the mean of `seen` is below `evaluation.fitted`. The paper calls the
agreement with a solution the accuracy under it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.config import Config
from compfast.report import bins, panels, plotting, style, table
from compfast.report.phase import RunLike
from compfast.report.places import Line, level_index, line_of
from compfast.report.scatter import marker

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Float64 = NDArray[np.float64]

_RATE = "optimizer.lr"  # the paper takes the best of a list of learning rates
_FEW = 24  # columns of lines up to which every point gets a bar
_NUMBERED = (12, 10)  # columns and rows of a map up to which numbers stand in the cells
_SEEN = "seen"
_SHADED: dict[str, Any] = {"facecolor": "#dddddd", "edgecolor": "#909090", "hatch": "/////"}
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.4)), (0, (1.2, 1.2)), (0, (5, 1.2, 1, 1.2)))


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Scores by cell, each [Y, X]; NaN where there is no member."""

    line: Line  # along x
    row: table.Axis | None  # along y; None: Y is 1
    mean: dict[str, Float64]  # of each candidate, and `seen`
    sd: dict[str, Float64]
    repeats: list[int]  # the least and the most values behind a mean
    best_of: int  # learning rates
    averaged: tuple[str, ...]  # what the values behind a mean differ in, besides seeds


def cells(members: pl.DataFrame, config: Config) -> Cells | None:
    """The paper's protocol over the members with a verdict; None without two places along x.

    For each score apart the best over the learning rates, then the mean over seeds and over
    whatever else was swept but gamma and depth (without depths, the first axis that was). A score
    that is missing counts as 0: that member answered nothing.
    """
    line = line_of(members, config)
    if len(line.x) < 2:
        return None
    second = [axis for axis in table.second_axes(config) if axis.path != line.path]
    rate = next((axis for axis in second if axis.path == _RATE), None)
    further = [axis for axis in second if axis is not rate]
    row = further[0] if further and line.path == bins.GAMMA and not config.sample else None
    member = members["member"].to_numpy()
    # members that differ in nothing but the learning rate have one number
    digit = 0 if rate is None else member // rate.stride % len(rate.levels) * rate.stride
    names = (*table.candidates(members), _SEEN)
    placed = members.select(
        *(pl.col(n).cast(pl.Float64).fill_nan(0).fill_null(0) for n in names),
        pl.Series("x of cell", line.place),
        pl.Series("y of cell", level_index(members, row) if row else np.zeros_like(line.place)),
        pl.Series("alike", member - digit),
    )
    best = placed.group_by("x of cell", "y of cell", "alike").agg(pl.col(n).max() for n in names)
    means = best.group_by("x of cell", "y of cell").agg(
        pl.len().alias("behind"),
        *(pl.col(n).mean().alias(f"mean {n}") for n in names),
        *(pl.col(n).std().fill_null(0).alias(f"sd {n}") for n in names),
    )
    shape = len(row.levels) if row else 1, len(line.x)

    def grid(column: str) -> Float64:
        filled = np.full(shape, np.nan)
        filled[means["y of cell"].to_numpy(), means["x of cell"].to_numpy()] = means[column]
        return filled

    averaged = [axis.path for axis in further if axis is not row]
    averaged += [path for path, column in config.sample if len(set(column)) > 1]
    return Cells(
        line,
        row,
        {name: grid(f"mean {name}") for name in names},
        {name: grid(f"sd {name}") for name in names},
        np.sort(means["behind"].to_numpy())[[0, -1]].tolist(),
        1 if rate is None else len(rate.levels),
        tuple(style.field_name(p) for p in averaged if p not in (line.path, bins.SEED)),
    )


def picture(run: RunLike, look: style.Look) -> plotting.Picture | None:
    """The figure, to be asked for inside of `plotting.settings(look)`; None as `cells`."""
    members = run.members.filter(pl.col("verdict").is_not_null())
    found = cells(members, run.config)
    if found is None:
        return None
    shaded = found.mean[_SEEN] < run.config.evaluation.fitted
    draw = _maps if found.row is not None else _lines
    said = (
        f"{style.caption(run.config, members, str(run.info['engine']))}"
        f" {_reading(found, run.config.evaluation.fitted, shaded)}"
    )
    return plotting.Picture(draw(found, shaded, look), said)


def _maps(found: Cells, shaded: NDArray[np.bool_], look: style.Look) -> Figure:
    """A map a candidate solution, side by side."""
    assert found.row is not None
    names = [name for name in found.mean if name != _SEEN]
    rows = len(found.row.levels)
    figure = _blank(look, 1.2 + 2.7 * len(names), 1.0 + max(1.4, min(0.26 * rows, 4.0)))
    grid = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    x = panels.edges(found.line.x)
    y = np.arange(rows + 1, dtype=np.float64) - 0.5
    for axes, name in zip(grid, names, strict=True):
        share = np.ma.masked_array(found.mean[name], shaded | np.isnan(found.mean[name]))
        # as pixels also in an SVG or PDF, whose viewers show seams between cells
        mesh = axes.pcolormesh(x, y, share, cmap="cividis", vmin=0, vmax=1, rasterized=True)
        for r, c in zip(*np.nonzero(shaded), strict=True):
            _shade(axes, x[c : c + 2], y[r : r + 2])
        if len(found.line.x) <= _NUMBERED[0] and rows <= _NUMBERED[1]:
            _number(axes, found.line.x, share)
        axes.set_title(f"{name} solution", loc="left", fontweight="bold")
        axes.set_xlabel(style.field_name(found.line.path))
        axes.tick_params(axis="y", length=0)
        if len(found.line.x) <= _NUMBERED[0]:
            axes.set_xticks(found.line.x, found.line.starts)
        each = -(-rows // _NUMBERED[0])
        axes.set_yticks(range(0, rows, each), found.row.labels[::each])
    grid[0].set_ylabel(style.axis_name(found.row))
    bar = figure.colorbar(mesh, ax=grid.tolist(), ticks=[0, 0.25, 0.5, 0.75, 1], pad=0.02)
    bar.ax.set_yticklabels(["0", "25", "50", "75", "100 %"])
    bar.set_label("agreement")
    bar.outline.set_visible(False)
    if shaded.any():
        figure.legend(handles=[_underfit()], loc="outside upper right", borderpad=0)
    return figure


def _lines(found: Cells, shaded: NDArray[np.bool_], look: style.Look) -> Figure:
    """A line a candidate solution, with the standard deviation."""
    names = tuple(name for name in found.mean if name != _SEEN)
    figure = _blank(look, 5.6, 3.0)
    axes, x = figure.subplots(), found.line.x
    few = len(x) <= _FEW
    border = panels.edges(np.log(x) if found.line.log else x)
    border = np.exp(border) if found.line.log else border
    for c in np.flatnonzero(shaded[0]):
        _shade(axes, border[c : c + 2], np.array([-0.03, 1.03]))
    for i, name in enumerate(names):
        mean, sd, paint = found.mean[name][0], found.sd[name][0], style.colour(name, names)
        if few:
            axes.errorbar(x, mean, sd, fmt="none", ecolor=paint, elinewidth=0.9, capsize=2)
        else:
            axes.fill_between(x, mean - sd, mean + sd, color=paint, alpha=0.16, linewidth=0)
        axes.plot(
            x, mean, color=paint, ls=_DASHES[i % len(_DASHES)], lw=1.7, marker=marker(name, names),
            ms=4, markevery=1 if few else len(x) // 12, label=f"{name} solution",
        )  # fmt: skip
    handles = axes.get_legend_handles_labels()[0]
    handles += [_underfit()] if shaded.any() else []
    axes.set(
        xscale="log" if found.line.log else "linear", xlim=border[[0, -1]], ylim=(-0.03, 1.03),
        xlabel=style.x_name(found.line.path), ylabel="agreement on the held-out group",
    )  # fmt: skip
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
    figure.legend(handles=handles, loc="outside right center", handlelength=2.6)
    return figure


def _blank(look: style.Look, width: float, height: float) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(
        figsize=(min(look.width or width, width), height * look.height),
        layout=ConstrainedLayoutEngine(h_pad=0.05, w_pad=0.05, hspace=0.03, wspace=0.04),
    )


def _shade(axes: Axes, x: Float64, y: Float64) -> None:
    from matplotlib.patches import Rectangle

    size = float(x[1] - x[0]), float(y[1] - y[0])
    axes.add_patch(Rectangle((float(x[0]), float(y[0])), *size, linewidth=0, zorder=0.5, **_SHADED))


def _underfit() -> Any:
    from matplotlib.patches import Patch

    return Patch(label="underfit", linewidth=0, **_SHADED)


def _number(axes: Axes, x: Float64, share: Any) -> None:
    """The percentage in each cell, in ink that its colour lets be read."""
    for r, c in zip(*np.nonzero(~np.ma.getmaskarray(share)), strict=True):
        ink = "#ffffff" if share[r, c] < 0.48 else "#202020"
        axes.text(x[c], r, f"{100 * share[r, c]:.0f}", ha="center", va="center", color=ink, size=7)


def _reading(found: Cells, fitted: float, shaded: NDArray[np.bool_]) -> str:
    least, most = found.repeats
    many = str(most) if least == most else f"{least} to {most}"
    over = ", ".join(("seeds", *found.averaged))
    best = f"the best of {found.best_of} learning rates for each solution apart, then "
    said = "Agreement: how far answers on the held-out group are a solution's; "
    said += f"{best if found.best_of > 1 else ''}the mean over {over} ({many} values a point)."
    if found.row is None:
        said += " Bars and bands: standard deviations."
    if shaded.any():
        said += f" Hatched: underfit, the mean of seen is below {fitted:.0%}."
    return f"{said} The form is that of Figure 2 of arXiv 2405.05409."
