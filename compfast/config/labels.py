"""Values as short texts for people: numbers in as many digits as tell neighbours apart."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

_EXACT = 17  # significant digits that tell any two float64 apart
_LONG = 28  # characters that a list may take
_HEAD, _TAIL = 16, 8  # what is kept of a longer one
_SENTENCE = 200  # characters that a value may take in a sentence


def numbers(values: Iterable[float], least: int = 4) -> list[str]:
    """A text a number, in the fewest significant digits from `least` on that keep all apart."""
    exact = [float(value) for value in values]
    texts: list[str] = []
    for digits in range(least, _EXACT + 1):
        texts = [f"{value:.{digits}g}" for value in exact]
        if len(set(texts)) >= len(set(exact)):
            break
    return texts


def labels(values: Sequence[Any], least: int = 4) -> list[str]:
    """A text a value of one field, all different: lists and words as a settings file has them.

    A list too long for a table or a figure loses its middle, and then carries its place.
    """
    floats = iter(numbers((v for v in values if isinstance(v, float)), least))
    texts = [next(floats) if isinstance(value, float) else _word(value) for value in values]
    short = [_shortened(text) for text in texts]
    if len(set(short)) < len(set(texts)):
        return [f"{place}: {text}" for place, text in enumerate(short, 1)]
    return short


def listed(values: Sequence[Any], most: int = 6, least: int = 4) -> str:
    """The labels in one line; of more than `most` values only the two ends."""
    texts = labels(values, least)
    return f"{texts[0]} to {texts[-1]}" if len(texts) > most else ", ".join(texts)


def extent(values: Sequence[Any], most: int = 6, least: int = 4) -> str:
    """Distinct values in one line; of more than `most` numbers the least and the greatest."""
    distinct = list(dict.fromkeys(values))
    if all(isinstance(value, (int, float)) for value in distinct):
        distinct.sort()
        if len(distinct) > most:
            return " to ".join(labels((distinct[0], distinct[-1]), least))
    return listed(distinct, most, least)


def brief(value: Any) -> str:
    """A value inside of a sentence: of a long one, such as a whole grammar, its beginning."""
    text = str(value)
    return text if len(text) <= _SENTENCE else f"{text[:_SENTENCE]}..."


def _word(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, (bool, tuple, list)):
        return json.dumps(value, separators=(",", ":"))
    return str(value)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[:_HEAD]}...{text[-_TAIL:]}"
