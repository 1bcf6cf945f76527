"""Points drawn at random from ranges and lists, for `Config.sample`.

    from compfast.ensembles.sampling import draw
    points = draw(200, 1, {"optimizer.lr": "log:1e-4:1e-2", "init.gamma": "0.1:1.5"})
    compfast.Config(sample={**points, "seed": range(200)})

Point i's value of a field is a function of (sample seed, i, the field's name) alone: fewer points
are the first of more, and a further range changes no value of the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compfast.ensembles.grid import LOG, MOST_MEMBERS, check_logarithm, parse_range
from compfast.ensembles.spacing import between, between_in_log
from compfast.errors import UsageError
from compfast.streams import philox


@dataclass(frozen=True, slots=True)
class Range:
    """All numbers from `low` to `high`; with `log` every factor, else every sum, is as likely."""

    low: float
    high: float
    log: bool = False


def draw(
    points: int, seed: int, choices: Mapping[str, Range | str | Sequence[Any]]
) -> dict[str, tuple[Any, ...]]:
    """The columns of `points` points: "section.field" -> its value in each.

    A choice is a `Range`, its text ("LO:HI" or "log:LO:HI"), or a list whose values are equally
    likely. Raises UsageError for fewer than 1 point, an empty list and text that is no range.
    """
    if not 1 <= points <= MOST_MEMBERS:
        raise UsageError(f"sample is {points}; it must be at least 1 and at most {MOST_MEMBERS}")
    return {path: _column(points, seed, path, choice) for path, choice in choices.items()}


def is_range(text: str) -> bool:
    """Whether a text has the form LO:HI or log:LO:HI."""
    return text.strip().removeprefix(LOG).count(":") == 1


def parse_draw(name: str, text: str) -> Range:
    """The range of "LO:HI" or "log:LO:HI"; raises UsageError, calling it `name`."""
    if not is_range(text):
        raise UsageError(f"{name} is {text!r}; a range to draw from is LO:HI or log:LO:HI")
    low, high = parse_range(name, text.strip().removeprefix(LOG))
    if low == high:
        raise UsageError(f"{name} is {text!r}; a range to draw from needs LO < HI")
    log = text.strip().startswith(LOG)
    if log:
        check_logarithm(name, text, low)
    return Range(low, high, log)


def _column(points: int, seed: int, path: str, choice: Range | str | Sequence[Any]) -> Any:
    # Streams of AUX: a field has the `sub` of its name, far above the rounds of `philox.feistel`.
    sub = zlib.crc32(path.encode())
    words = philox.word_rows(seed, philox.AUX, np.arange(points), sub, 0, 1)[:, 0]
    if isinstance(choice, str):
        choice = parse_draw(f"sample.{path}", choice)
    if isinstance(choice, Range):
        made = between_in_log if choice.log else between
        # the middle of the word's share of [0, 1): (word + 1/2) / 2^32
        return tuple(made(choice.low, choice.high, 2 * w + 1, 2**33) for w in words.tolist())
    values = list(choice)
    if not values:
        raise UsageError(f"sample.{path} is an empty list; there is nothing to draw")
    return tuple(values[i] for i in philox.integers(words, len(values)))
