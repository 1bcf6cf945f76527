"""The phase diagram: which solution is learned, against gamma (and depth)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl

from compfast.config import Config
from compfast.config.paths import user_path
from compfast.errors import UsageError
from compfast.report import plotting, scatter, style
from compfast.report.bins import bins_of
from compfast.report.table import (
    Axis,
    Summary,
    candidates,
    gamma_texts,
    level,
    second_axes,
    split,
    summarise,
)
from compfast.storage import durable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 4  # levels of a second axis that get panels of their own
_DPI = 160


class RunLike(Protocol):
    """What a report reads of a run (compfast.load)."""

    @property
    def members(self) -> pl.DataFrame: ...
    @property
    def config(self) -> Config: ...
    @property
    def info(self) -> Mapping[str, Any]: ...


def phase_diagram(run: RunLike, path: str | Path) -> Path:
    """Draw the phase diagram of a run as a PNG at `path`, replaced as a whole.

    A column of panels for each level of the second swept axis (depth if it was swept): the
    members of a gamma cut by verdict, the share of each verdict with its Wilson interval, and
    the agreements; above them, with second axes, the map of the inferential share. Of points
    that were drawn at random it is a scatter of the members (compfast.report.scatter). Raises
    StorageError where the file cannot be written, UsageError where nothing can be drawn.
    """
    path = user_path(path)
    durable.make_folder(path.parent)
    durable.replace_file(path, [phase_png(run)])
    return path


def phase_png(run: RunLike) -> bytes:
    """The bytes of the phase diagram's PNG, the same whatever a user set up for matplotlib."""
    refuse_unjudged(run)
    with plotting.settings():
        return plotting.png(_draw(run), _DPI)


def refuse_unjudged(run: RunLike) -> None:
    """Raise UsageError for a run of which nothing can be drawn or counted yet."""
    if run.members["verdict"].null_count() == len(run.members):
        path = getattr(run, "path", None)  # of one that is in no folder there is none
        where = "" if path is None else f"{path}: "
        raise UsageError(f"{where}no member has a verdict yet; the first exam gives them")


def _draw(run: RunLike) -> Figure:
    return picture(run).captioned()


def picture(run: RunLike, look: style.Look = style.LOOKS["plain"]) -> plotting.Picture:
    """The phase diagram and its caption, to be asked for inside of `plotting.settings(look)`."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    members = run.members.filter(pl.col("verdict").is_not_null())
    bins = bins_of(run.config)
    if bins is not None:
        return scatter.draw(members, run.config, bins, str(run.info["engine"]), look)
    names = candidates(members)
    axes = second_axes(run.config)
    columns = columns_of(members, axes)
    one_gamma = members["gamma"].n_unique() <= 1
    mapped = () if one_gamma else split(run.config).shown
    rows = 2 if one_gamma else 3
    width = 7.4 if len(columns) == 1 else 1.7 + 2.75 * len(columns)
    heights = [2.1, 2.1] if one_gamma else [0.9, 2.1, 2.1]
    if mapped:
        map_rows = math.prod(len(axis.levels) for axis in mapped)
        heights = [0.9 + 0.22 * min(map_rows, style.MAP_ROWS), *heights]
    layout = ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.05, hspace=0.03, wspace=0.03)
    height = look.height * sum(heights) + 0.5 * len(heights)
    figure = Figure(figsize=(min(look.width or width, width), height), layout=layout)
    grid = figure.add_gridspec(len(heights), len(columns), height_ratios=heights)
    if mapped:
        _map(figure, figure.add_subplot(grid[0, :]), members, mapped, names)
    panels = [
        [figure.add_subplot(grid[len(heights) - rows + r, c]) for c in range(len(columns))]
        for r in range(rows)
    ]
    for c, (title, own) in enumerate(columns):
        _column(
            own, names, [row[c] for row in panels], title, first=c == 0, narrow=len(columns) > 1
        )
    everything = summarise(members, names)
    _legend(figure, everything, names, curves=not one_gamma)
    text = (
        style.caption(run.config, members, str(run.info["engine"]))
        + " "
        + _reading(axes, mapped, len(columns), one_gamma)
        + (" The points of the sample are pooled." if run.config.sample else "")
    )
    return plotting.Picture(figure, text)


def columns_of(members: pl.DataFrame, axes: tuple[Axis, ...]) -> list[tuple[str, pl.DataFrame]]:
    """Title and members of each column of panels: at most `_COLUMNS` levels of the first axis.

    More are picked evenly, with both ends.
    """
    if not axes:
        return [("", members)]
    last = len(axes[0].levels) - 1
    chosen = (
        dict.fromkeys(round(i * last / (_COLUMNS - 1)) for i in range(_COLUMNS))
        if last >= _COLUMNS
        else range(last + 1)
    )
    return [(style.level_name(axes[0], i), level(members, axes[0], i)) for i in chosen]


def _column(
    members: pl.DataFrame,
    names: tuple[str, ...],
    axes: list[Axes],
    title: str,
    first: bool,
    narrow: bool,
) -> None:
    from compfast.report import panels

    summary = summarise(members, names)
    if len(axes) == 2:
        if len(summary.gamma) == 1:
            panels.verdict_bars(axes[0], summary, names)
            panels.agreement_dots(axes[1], members, names)
        labels: tuple[str, ...] = ("share of members", "agreement")
        gamma = [f"gamma {text}" for text in gamma_texts(members).values()]
        title = ", ".join(filter(None, [*gamma, title]))
        if narrow:
            axes[0].tick_params(axis="x", rotation=35)
    else:
        panels.stacked(axes[0], summary, names)
        panels.shares(axes[1], summary, names)
        panels.agreement_curves(axes[2], summary, names)
        for upper in axes[:2]:
            upper.tick_params(labelbottom=False)
        axes[2].set_xlabel("gamma" if title else style.x_name("init.gamma"))
        labels = ("members", "share of members", "mean agreement")
    title = style.wrapped(title, 2.4, 13) if narrow else title
    axes[0].set_title(title, loc="left", fontweight="bold")
    for panel, label in zip(axes, labels, strict=True):
        if first:
            panel.set_ylabel(label)
        else:
            panel.tick_params(labelleft=False)


def _map(
    figure: Figure,
    axes: Axes,
    members: pl.DataFrame,
    second: tuple[Axis, ...],
    names: tuple[str, ...],
) -> None:
    from compfast.report import panels

    verdict = names[0] if names else "inferential"
    mesh = panels.share_map(axes, members, second, verdict)
    by = ", ".join(style.axis_name(axis) for axis in second)
    axes.set_title(f"share of {verdict} members by {by}", loc="left", fontweight="bold")
    axes.set_xlabel("gamma")
    bar = figure.colorbar(mesh, ax=axes, ticks=[0, 0.5, 1], pad=0.01, fraction=0.03)
    bar.ax.set_yticklabels(["0", "50", "100 %"])
    bar.outline.set_visible(False)


def _legend(figure: Figure, summary: Summary, names: tuple[str, ...], curves: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from compfast.report import panels

    if not curves:
        return
    found = set(panels.occurring(summary))
    found |= {n for n, spread in summary.agreements.items() if np.isfinite(spread.mean).any()}
    handles: list[Any] = [
        Patch(color=style.colour(label, names), label=label)
        for label in summary.counts
        if label in found
    ]
    if "seen" in found:
        paint = style.colour("seen", names)
        handles.append(Line2D([], [], color=paint, ls=(0, (2.5, 1.2)), lw=1.7, label="seen"))
    figure.legend(handles=handles, loc="outside right center", handlelength=1.6)


def _reading(
    axes: tuple[Axis, ...], mapped: tuple[Axis, ...], columns: int, one_gamma: bool
) -> str:
    """How to read the panels: what intervals mean and what was pooled."""
    if one_gamma:
        said = ["Bars: members by verdict with 95 % Wilson intervals; dots: members, lines: means."]
    else:
        said = [
            "Top strip: all members of a gamma, cut by verdict. Shares: 95 % Wilson intervals"
            " over the seeds. Agreements: means and the middle half of the seeds; seen: how well"
            " members do on what they were trained for."
        ]
        if axes:
            said.append("Hatched: at least half of the members underfit.")
    if axes and columns < len(axes[0].levels):
        said.append(f"Columns show {columns} of {len(axes[0].levels)} levels.")
    for what, pooled in (
        ("Columns", axes[1:]),
        ("The map's rows", tuple(a for a in axes if a not in mapped) if mapped else ()),
    ):
        if pooled:
            names = " and ".join(style.axis_name(axis) for axis in pooled)
            said.append(f"{what} pool all values of {names}.")
    return " ".join(said)
