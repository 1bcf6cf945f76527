"""What --sample makes of ranges and lists: points drawn once, then stored with the run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from compfast.cli.counts import count
from compfast.config import MAX_SEED, Kinds, field_hint, values
from compfast.config.settings import Settings
from compfast.ensembles.grid import MOST_MEMBERS
from compfast.ensembles.sampling import draw, is_range, parse_draw
from compfast.errors import UsageError

GAMMA, SEED = "init.gamma", "seed"


def range_of(arguments: argparse.Namespace, name: str, path: str, text: str, kinds: Kinds) -> bool:
    """Whether --sample was given and `text` is a range to draw from; raises UsageError for a bad
    one, and for a range of a field that is no float, calling it `name`.
    """
    if arguments.sample is None or not is_range(text):
        return False
    kind = values.inner(field_hint(path, kinds))
    if kind is int:
        raise UsageError(
            f"{name} is {text!r}; whole numbers are drawn from a list, such as 2-4 or 2,3,8"
        )
    if kind is float:
        parse_draw(name, text)
    return kind is float


def split_ranges(data: Settings) -> tuple[Settings, dict[str, str]]:
    """The settings without the ranges that their [sample] holds as text, and those."""
    sample = data.get("sample")
    if not isinstance(sample, Mapping):
        return data, {}
    ranges = {path: text for path, text in sample.items() if isinstance(text, str)}
    points = {path: column for path, column in sample.items() if path not in ranges}
    return {**data, "sample": points}, ranges


def ends(
    arguments: argparse.Namespace, kinds: Kinds, ranges: Mapping[str, str]
) -> dict[str, list[float]]:
    """The low end of each range, in a list: what a section may hold in a drawn value's place.

    Nothing without --sample. Raises UsageError for a range that is none.
    """
    return {
        path: [parse_draw(f"sample.{path}", text).low]
        for path, text in ranges.items()
        if range_of(arguments, f"sample.{path}", path, text, kinds)
    }


def columns(
    arguments: argparse.Namespace,
    kinds: Kinds,
    ranges: Mapping[str, str],
    axes: Mapping[str, tuple[Any, ...]],
) -> dict[str, tuple[Any, ...]]:
    """What --sample draws: from --gamma-range, the other ranges, and every list but of seeds.

    Nothing without --sample. Raises UsageError for ranges that lack it.
    """
    points = count(arguments.sample, "--sample", below=MOST_MEMBERS + 1)
    seed = count(arguments.sample_seed, "--sample-seed", least=0, below=MAX_SEED)
    if points is None:
        if seed is not None:
            raise UsageError("--sample-seed needs --sample N, the number of points to draw")
        for path, text in ranges.items():
            raise UsageError(f"sample.{path} is {text!r}, a range to draw from: give --sample N")
        return {}
    for path, text in ranges.items():
        if not range_of(arguments, f"sample.{path}", path, text, kinds):
            raise UsageError(f"sample.{path} is {text!r}; it must be LO:HI or log:LO:HI of numbers")
    lists = {path: levels for path, levels in axes.items() if len(levels) > 1 and path != SEED}
    choices: dict[str, Any] = {**ranges, **lists}
    if arguments.gamma_range is not None:
        choices = {GAMMA: arguments.gamma_range, **{p: c for p, c in choices.items() if p != GAMMA}}
        parse_draw("--gamma-range", arguments.gamma_range)
    return draw(points, seed or 0, choices)
