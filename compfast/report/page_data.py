"""What the page draws, as plain data: members by verdict, scores, axes and curves.

Nothing here names a task: candidates, verdicts and scores are those of the members table.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from compfast.report import style
from compfast.report.packing import indices, packed
from compfast.report.page_axes import page_axes
from compfast.report.page_curves import page_curves
from compfast.report.phase import RunLike
from compfast.report.scatter import marker
from compfast.report.table import candidates, verdict_order
from compfast.runs.checkpoints import group_folder
from compfast.runs.reading import Run, View
from compfast.solutions import DIVERGED, MIXED, OTHER, UNDERFIT, wilson

NONE_YET = "not examined"  # the verdict of a member that has none
_DARK = 0.3  # share of white in a colour on a dark page
_PATTERNS = {UNDERFIT: "/", MIXED: "-", OTHER: ".", DIVERGED: "x"}  # Plotly's names of hatchings
_OWN_PATTERNS = ("", "\\", "|", "+")  # of the candidates, in their order
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = {  # matplotlib's markers, which scatter.py chooses, as Plotly calls them
    "o": "circle", "^": "triangle-up", "s": "square", "D": "diamond", "p": "pentagon",
    "h": "hexagon", "x": "x-thin-open", "v": "triangle-down", "P": "cross", "*": "star",
}  # fmt: skip
_PLACES = ("steps", "group", "row")  # columns of the table after the scores


def page_data(run: RunLike, folder: Path | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the map, the table and the agreements show; and the curves, which a page reads later.

    `folder` is where the page will stand: links to weights are relative to it.
    """
    members, config = run.members, run.config
    names = candidates(members)
    order = _verdicts(members)
    label = members["verdict"].fill_null(NONE_YET).to_list()
    place = {name: i for i, name in enumerate(order)}
    scores = score_columns(members)
    axes = page_axes(members, config)
    data = {
        "members": packed(members["member"].to_numpy(), "u4"),
        "verdicts": [_verdict(name, names, label.count(name), len(members)) for name in order],
        "verdict": indices([place[name] for name in label], len(order)),
        "scores": [_score(members, name, names) for name in scores],
        "axes": [axis.plain() for axis in axes],
        "sampled": any(axis.drawn is not None for axis in axes) and bool(config.sample),
        "places": {
            name: packed(members[name].fill_null(0).to_numpy(), "u4")
            for name in _PLACES
            if name in members.columns and members[name].dtype == pl.Int64
        },
        "steps": config.training.steps,
        "fitted": config.evaluation.fitted,
        **_weights(run, folder),
    }
    return data, page_curves(metrics_of(run), members, scores)


def metrics_of(run: RunLike) -> pl.DataFrame | None:
    """The metrics table; None where the run has none, or none yet."""
    if isinstance(run, Run) and run.checkpoint is None:
        return None
    found = getattr(run, "metrics", None)
    return found if isinstance(found, pl.DataFrame) else None


def score_columns(members: pl.DataFrame) -> list[str]:
    """Seen, the candidates, other, and what else an exam measured: numbers after the verdict.

    What nobody has a number of is left out.
    """
    after = members.columns[members.columns.index("verdict") + 1 :]
    numbers = [n for n in after if n not in _PLACES and members[n].dtype.is_numeric()]
    return [n for n in numbers if members[n].null_count() < len(members)]


def _verdicts(members: pl.DataFrame) -> list[str]:
    """Those that occur, in the order in which they are shown."""
    present = set(members["verdict"].fill_null(NONE_YET).to_list())
    known = [name for name in verdict_order(members) if name in present]
    return [*known, *sorted(present - set(known))]


def _verdict(name: str, names: Sequence[str], count: int, total: int) -> dict[str, Any]:
    low, high = wilson(count, total)
    paint = _colour(name, names)
    return {
        "name": name,
        "count": count,
        "low": float(low),
        "high": float(high),
        "candidate": name in names,
        "underfit": name == UNDERFIT,
        "diverged": name == DIVERGED,
        **paint,
        **_form(name, names),
    }


def _score(members: pl.DataFrame, name: str, names: Sequence[str]) -> dict[str, Any]:
    values = members[name].cast(pl.Float64).to_numpy()
    return {
        "name": name,
        "values": packed(values, "f8"),
        "share": name in ("seen", OTHER, *names),  # lies in [0, 1]
        "candidate": name in names,
        **_colour(name, names),
        **_form(name, names),
    }


def _form(name: str, names: Sequence[str]) -> dict[str, str]:
    """What tells a label apart without its colour: hatching, dashes and the shape of its dots."""
    own = names.index(name) if name in names else None
    pattern = _PATTERNS.get(name, "") if own is None else _OWN_PATTERNS[own % len(_OWN_PATTERNS)]
    known = own is not None or name in _PATTERNS
    return {
        "pattern": pattern,
        "dash": "dot" if own is None else _DASHES[own % len(_DASHES)],
        "symbol": _SYMBOLS[marker(name, tuple(names))] if known else "circle-open",
    }


def _colour(name: str, names: Sequence[str]) -> dict[str, str]:
    """The label's colour on a light and on a dark page."""
    known = name in style.COLOURS or name in names
    light = style.colour(name, tuple(names)) if known else "#7f7f7f"
    parts = [int(light[i : i + 2], 16) for i in (1, 3, 5)]
    if max(parts) < 64:  # black on a dark page
        dark = [255, 255, 255]
    elif max(parts) - min(parts) < 8:  # a grey stays as far from the page's ground
        dark = [255 - part + 40 for part in parts]
    else:
        dark = [round(part + (255 - part) * _DARK) for part in parts]
    return {"light": light, "dark": "#" + "".join(f"{min(part, 255):02x}" for part in dark)}


def _weights(run: RunLike, folder: Path | None) -> dict[str, Any]:
    """The run's folder, and where the newest weights of its groups lie."""
    if not isinstance(run, Run):
        return {"path": None, "weights": None}
    path = str(run.path)
    if run.checkpoint is None or folder is None or isinstance(run, View):  # counts otherwise
        return {"path": path, "weights": None}
    groups = len(run.groups) if "group" in run.members.columns else 0
    home = os.path.relpath(run.checkpoint.path, folder)
    return {
        "path": path,
        "weights": [f"{home}/{group_folder(g)}/params.safetensors" for g in range(groups)],
    }
