"""The agreement curves as a figure of their own: how far members agree with each solution."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from compfast.report import panels, plotting, style
from compfast.report.bins import Bins, binned, bins_of
from compfast.report.phase import RunLike, columns_of
from compfast.report.scatter import marker
from compfast.report.table import Summary, candidates, gamma_texts, second_axes, summarise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE, _HEIGHT, _LEGEND = 2.4, 2.3, 1.2  # inches of a panel, of its height, beside the panels
_WIDE = 5.6  # inches of a single panel


def picture(run: RunLike, look: style.Look) -> plotting.Picture:
    """Mean agreements against gamma, a panel a level of the first second axis.

    Of a sample with bins a point is a bin; of one gamma there is a dot a member. To be asked for
    inside of `plotting.settings(look)`.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    members = run.members.filter(pl.col("verdict").is_not_null())
    names, bins = candidates(members), bins_of(run.config)
    axes = second_axes(run.config) if bins is None else ()
    columns = columns_of(members, axes)
    one_gamma = bins is None and members["gamma"].n_unique() <= 1
    width = _WIDE if len(columns) == 1 else _LEGEND + _SIDE * len(columns)
    figure = Figure(
        figsize=(min(look.width or width, width), 0.6 + _HEIGHT * look.height),
        layout=ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.05, hspace=0.03, wspace=0.03),
    )
    grid = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for panel, (title, own) in zip(grid, columns, strict=True):
        if one_gamma:
            panels.agreement_dots(panel, own, names)
            gamma = [f"gamma {text}" for text in gamma_texts(own).values()]
            title = ", ".join(filter(None, [*gamma, title]))
        elif bins is None:
            panels.agreement_curves(panel, summarise(own, names), names)
            panel.set_xlabel("gamma" if axes else style.x_name("init.gamma"))
        else:
            _binned(panel, summarise(binned(own, run.config, bins), names), bins, names)
        panel.set_title(style.wrapped(title, 2.4, 13), loc="left", fontweight="bold")
    grid[0].set_ylabel("agreement" if one_gamma else "mean agreement")
    if not one_gamma:
        _legend(figure, summarise(members, names), names)
    said = _reading(one_gamma, bins, len(columns), axes)
    return plotting.Picture(
        figure, f"{style.caption(run.config, members, str(run.info['engine']))} {said}"
    )


def _binned(axes: Axes, summary: Summary, bins: Bins, names: tuple[str, ...]) -> None:
    """Points in the middle of their bins."""
    ends = bins.edges
    placed = dataclasses.replace(summary, gamma=bins.middles[summary.gamma.astype(int)])
    panels.agreement_curves(axes, placed, names)
    axes.set_xscale("log" if bins.log else "linear")
    axes.set(xlim=(ends[0], ends[-1]), xlabel=style.field_name(bins.path))


def _legend(figure: Figure, summary: Summary, names: tuple[str, ...]) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for name, spread in summary.agreements.items():
        dashes: Any = (0, (2.5, 1.2)) if name == "seen" else "-"
        if np.isfinite(spread.mean).any():
            paint = style.colour(name, names)
            shape = "" if name == "seen" else marker(name, names)
            handles.append(
                Line2D([], [], color=paint, ls=dashes, lw=1.7, marker=shape, ms=3.5, label=name)
            )
    figure.legend(handles=handles, loc="outside right center", handlelength=1.8)


def _reading(one_gamma: bool, bins: Bins | None, columns: int, axes: tuple[Any, ...]) -> str:
    if one_gamma:
        said = "Dots: members; lines: means."
    else:
        of = "gamma" if bins is None else "bin"
        said = (
            f"Lines: means over the members of a {of}; bands: the middle half of them; seen: how"
            " well members do on what they were trained for."
        )
    if axes and columns < len(axes[0].levels):
        said += f" {columns} of {len(axes[0].levels)} levels are shown."
    if axes[1:]:
        said += f" All values of {' and '.join(style.axis_name(a) for a in axes[1:])} are pooled."
    if bins is not None and bins.further:
        said += (
            f" Members of a bin also differ in {', '.join(map(style.field_name, bins.further))}."
        )
    return said
