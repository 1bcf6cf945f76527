"""How figures look: colours that colour-blind readers tell apart, and the caption."""

from __future__ import annotations

import textwrap
from typing import Any

import polars as pl

from compfast.config import Config
from compfast.report.table import Axis

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
}


def colour(name: str, candidates: tuple[str, ...]) -> str:
    if name in COLOURS:
        return COLOURS[name]
    own = [c for c in candidates if c not in COLOURS]
    return _FURTHER[own.index(name) % len(_FURTHER)]


def axis_name(axis: Axis) -> str:
    field = axis.column
    return {"layers": "depth (layers)", "d_model": "width", "lr": "learning rate"}.get(
        field, field.replace("_", " ")
    )


def level_name(axis: Axis, value: Any) -> str:
    field = axis.column
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    if field == "layers":
        return f"{shown} layer" + ("" if value == 1 else "s")
    return f"{axis_name(axis)} {shown}"


def task_name(config: Config) -> str:
    """The task and its variant, e.g. "anchor, (3,4) overridden by -6, (4,3) unseen"."""
    task = config.task
    if task.name != "anchor":
        return task.name
    said = [f"({a},{b}) trained as x{shift:+d}" for a, b, shift in task.overridden]
    if task.unseen:
        said.append(" and ".join(f"({a},{b})" for a, b in task.unseen) + " unseen")
    return ", ".join([task.name, *said])


def caption(config: Config, members: pl.DataFrame, engine: str) -> str:
    """What was trained, in one paragraph: every value that a reader needs to repeat it."""
    swept = dict(config.sweep)

    def value(path: str) -> str:
        section, _, name = path.partition(".")
        values = swept.get(path) or (getattr(getattr(config, section), name),)
        return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)

    seeds = members.group_by("gamma").agg(pl.col("seed").n_unique())["seed"]
    numbers = sorted(set(seeds.to_list()))
    a_gamma = " to ".join(str(n) for n in (numbers[:1] + numbers[1:][-1:]))
    parts = [
        f"{len(members)} members",
        f"{a_gamma} seed{'' if numbers == [1] else 's'} a gamma",
        f"task {task_name(config)}",
        f"{value('model.norm')}-norm",
        f"width {value('model.d_model')}",
        f"depth {value('model.layers')}",
        f"heads {value('model.heads')}",
        f"weight decay {value('optimizer.weight_decay')}",
        f"learning rate {value('optimizer.lr')}",
        f"batch {value('training.batch_size')}",
        f"{value('training.steps')} steps",
        f"{engine} engine",
    ]
    return "; ".join(parts) + "."


def wrapped(text: str, inches: float) -> str:
    """`text` broken into lines that fit `inches` at the caption's size."""
    return "\n".join(textwrap.wrap(text, int(inches * 17)))
