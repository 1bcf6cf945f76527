"""How figures look: fixed settings, colours that colour-blind readers tell apart, the caption."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping
from typing import Any

import polars as pl

from compfast.config import GAMMA_GROUPS, Config
from compfast.config.labels import extent, labels, listed
from compfast.ensembles.table import column_of
from compfast.errors import UsageError
from compfast.report.table import Axis, second_axes

# Okabe and Ito's palette, which stays distinct under the common colour deficiencies.
COLOURS = {
    "underfit": "#c4c4c4",
    "inferential": "#0072b2",
    "symmetric": "#e69f00",
    "mixed": "#009e73",
    "other": "#cc79a7",
    "diverged": "#000000",
    "seen": "#595959",
}
_FURTHER = ("#56b4e9", "#d55e00", "#f0e442", "#8c510a")  # candidates of other tasks

MAP_ROWS = 64  # rows of a map that are labelled and have their full height

_NAMES = {
    "layers": "depth (layers)",
    "d_model": "width",
    "lr": "learning rate",
    "weight_decay": "weight decay",
    **{f"weight_decay_{group}": f"weight decay of {group}" for group in GAMMA_GROUPS},
    "batch_size": "batch size",
}

RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "hatch.linewidth": 0.7,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # letters as text
    "svg.fonttype": "path",  # the same on machines without the font
    "svg.hashsalt": "compfast",  # names inside the file are the same each time
}


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """How figures are to look where they go."""

    rc: Mapping[Any, Any]  # over RC
    caption: bool  # whether what was trained stands under the figure
    dpi: int  # of a PNG
    width: float | None  # inches that no figure exceeds
    height: float  # of panels, against the report's


LOOKS = {
    "plain": Look({}, caption=True, dpi=160, width=None, height=1.0),
    # Times-like letters that come with matplotlib, 7 to 8 points, as wide as a page's text; fonts
    # as TrueType, which journals ask for. The caption is the paper's own.
    "paper": Look(
        {
            "font.family": "STIXGeneral",
            "mathtext.fontset": "stix",
            "font.size": 8,
            "axes.titlesize": 8.5,
            "axes.labelsize": 8.5,
            "xtick.labelsize": 7.5,
            "ytick.labelsize": 7.5,
            "legend.fontsize": 8,
            "lines.linewidth": 1.2,
            "axes.linewidth": 0.6,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "hatch.linewidth": 0.5,
        },
        caption=False,
        dpi=300,
        width=6.75,
        height=0.8,
    ),
}


def look(name: str) -> Look:
    """The look of this name; raises UsageError."""
    if name not in LOOKS:
        raise UsageError(f"the style is {name!r}; it must be one of {', '.join(LOOKS)}")
    return LOOKS[name]


def colour(name: str, candidates: tuple[str, ...]) -> str:
    if name in COLOURS:
        return COLOURS[name]
    own = [c for c in candidates if c not in COLOURS]
    return _FURTHER[own.index(name) % len(_FURTHER)]


def axis_name(axis: Axis) -> str:
    return field_name(axis.path)


def field_name(path: str) -> str:
    column = column_of(path)
    return _NAMES.get(column, column)


def x_name(path: str) -> str:
    """What stands under an axis that has the width of a figure."""
    explained = r"gamma  (initial std = fan-in$^{-\mathrm{gamma}}$)"
    return explained if path == "init.gamma" else field_name(path)


def level_name(axis: Axis, index: int) -> str:
    shown = axis.labels[index]
    if axis.column == "layers":
        return f"{shown} layer" + ("" if axis.levels[index] == 1 else "s")
    return f"{axis_name(axis)} {shown}"


def task_name(config: Config) -> str:
    """The task and its variant, as it describes itself; what members differ in is left out."""
    swept = (*config.sweep, *config.sample)
    axes = {path.partition(".")[2]: v for path, v in swept if path.startswith("task.")}
    fixed = {name: values[0] for name, values in axes.items() if len(set(values)) == 1}
    shown: Any = config.task
    return str(dataclasses.replace(shown, **fixed).describe(frozenset(axes) - frozenset(fixed)))


def caption(config: Config, members: pl.DataFrame, engine: str) -> str:
    """What was trained, in one paragraph: every value that a reader needs to repeat it."""
    named: set[str] = set()
    sample = dict(config.sample)

    def value(path: str) -> str:
        named.add(path)
        if path in sample:
            return extent(sample[path], least=6)
        return ", ".join(labels(_values(config, path), least=6))

    decay, optimiser = f"weight decay {value('optimizer.weight_decay')}", []
    own = {group: f"optimizer.weight_decay_{group}" for group in GAMMA_GROUPS}
    given = [group for group, path in own.items() if set(_values(config, path)) != {None}]
    if given:
        decay += f" ({', '.join(f'of {group} {value(own[group])}' for group in given)})"
    if any(_values(config, "optimizer.decay_windows")):
        decay += f" inside {value('optimizer.decay_windows')} of the steps"
    if "sgd" in _values(config, "optimizer.kind"):
        optimiser = [f"{value('optimizer.kind')}, momentum {value('optimizer.momentum')}"]
    parts = [
        f"{len(members)} members",
        _points(config) if sample else _seeds(members),
        f"task {task_name(config)}",
        *(text.format(value(f"model.{name}")) for name, text in config.model.shown.items()),
        *optimiser,
        decay,
        f"learning rate {value('optimizer.lr')}",
        f"batch {value('training.batch_size')}",
        f"{value('training.steps')} steps",
        f"{engine} engine",
    ]
    for axis in second_axes(config):
        if axis.path not in named:
            parts.insert(-1, f"{axis_name(axis)} {listed(axis.levels, least=6)}")
    for path in sample:
        if path not in named and path != "seed":
            parts.insert(-1, f"{field_name(path)} {value(path)}")
    return "; ".join(parts) + "."


def _seeds(members: pl.DataFrame) -> str:
    seeds = members.group_by("gamma").agg(pl.col("seed").n_unique())["seed"]
    numbers = sorted(set(seeds.to_list()))
    a_gamma = " to ".join(str(n) for n in (numbers[:1] + numbers[1:][-1:]))
    return f"{a_gamma} seed{'' if numbers == [1] else 's'} a gamma"


def _points(config: Config) -> str:
    seeds = len(dict(config.sweep).get("seed", (0,)))
    own = "" if "seed" in dict(config.sample) else f", {seeds} seed{'s' * (seeds > 1)} each"
    return f"{config.points} points of a sample{own}"


def wrapped(text: str, inches: float, characters: float = 17) -> str:
    """`text` broken into lines that fit `inches` with so many characters an inch (caption's)."""
    return "\n".join(textwrap.wrap(text, int(inches * characters)))


def _values(config: Config, path: str, most: int | None = None) -> tuple[Any, ...]:
    """What the members have there; nothing where those are more than `most` values."""
    section, _, name = path.partition(".")
    values = dict(config.sweep).get(path) or (getattr(getattr(config, section), name),)
    return values if most is None or len(values) <= most else ()
