"""The rules of symbolic Raven matrices, and whether a grid has more than one answer.

Schug et al., arXiv 2406.05816, section 4.1. A rule makes a row of three symbols in 0..F-1.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from compfast.streams import philox
from compfast.tasks.base import Int32

RULES = (
    "constant",  # a, a, a
    "progression +1",  # a, a + 1, a + 2
    "progression +2",
    "progression -1",
    "progression -2",
    "addition",  # a, b, a + b
    "difference",  # a, b, a - b
    "distribute three",  # the same three symbols in each row, in any order
)
STEPS = (0, 1, 2, -1, -2)  # of the first five
ADDITION, DIFFERENCE, DISTRIBUTE = 5, 6, 7
ROW_WORDS = 2  # of a feature's row


def permutations(count: int) -> Int32:
    """All permutations of 0..count-1 in lexicographic order, [count!, count]."""
    return np.array(list(itertools.permutations(range(count))), np.int32)


def triples(symbols: int) -> Int32:
    """All rows of three different symbols in lexicographic order, [.., 3]."""
    return np.array(list(itertools.permutations(range(symbols), 3)), np.int32)


def grids(rules: Int32, words: NDArray[np.uint32], symbols: int) -> Int32:
    """Symbols [B, K, row, column] of rules [B, K], from words [B, K, row, 2].

    Of a row, the first word draws a and the second b. Distribute three takes its first row from
    the first word there, and orders it anew in the next two, by the first word of each.
    """
    drawn = philox.integers(words, symbols)  # [B, K, row, 2]
    a, b = drawn[..., 0], drawn[..., 1]
    step = np.array([*STEPS, 0, 0, 0])[rules][..., None, None]
    rows = a[..., None] + step * np.arange(3)
    kind = rules[..., None, None]
    rows = np.where(kind == ADDITION, np.stack([a, b, a + b], axis=-1), rows)
    rows = np.where(kind == DIFFERENCE, np.stack([a, b, a - b], axis=-1), rows) % symbols
    three, orders = triples(symbols), permutations(3)
    first = three[philox.integers(words[..., 0, 0], len(three))]  # [B, K, 3]
    later = orders[philox.integers(words[..., 1:, 0], len(orders))].astype(int)  # [B, K, 2, 3]
    again = np.take_along_axis(first[..., None, :], later, axis=-1)
    spread = np.concatenate([first[..., None, :], again], axis=-2)
    result: Int32 = np.where(kind == DISTRIBUTE, spread, rows).astype(np.int32)
    return result


def ambiguous(panels: Int32, symbols: int, permuted: bool) -> tuple[NDArray[np.bool_], ...]:
    """Whether the eight panels allow another ninth one, [B], and one that differs everywhere, [B].

    An assignment says which feature of each column belongs together (any, or `permuted` false:
    those in one place) and which rule each of these follows; it is consistent where the two full
    rows and the last row's two panels obey the rules. The second is what the paper's own check
    counts: an assignment whose answers can all be wrong.
    """
    count, features = len(panels), panels.shape[3]
    places = range(features)
    threads = {}
    for i, j, k in itertools.product(places, repeat=3) if permuted else ((i,) * 3 for i in places):
        grid = np.stack([panels[:, :, 0, i], panels[:, :, 1, j], panels[:, :, 2, k]], axis=-1)
        allowed = _answers(grid, symbols)  # [B, F]
        right = panels[:, 2, 2, k]
        other = allowed.sum(axis=1) > allowed[np.arange(count), right]
        threads[i, j, k] = allowed.any(axis=1), other
    some, all_wrong = np.zeros((2, count), np.bool_)
    orders = list(itertools.permutations(places)) if permuted else [tuple(places)]
    for second, third in itertools.product(orders, orders):
        chosen = [threads[i, second[i], third[i]] for i in places]
        fits = np.logical_and.reduce([fit for fit, _ in chosen])
        some |= fits & np.logical_or.reduce([other for _, other in chosen])
        all_wrong |= np.logical_and.reduce([other for _, other in chosen])
    return some, all_wrong


def _answers(grid: Int32, symbols: int) -> NDArray[np.bool_]:
    """Which symbols some rule puts at the end of the third row, [B, F], from grids [B, 3, 3].

    What the grid has there is not looked at.
    """
    a, b, c = np.moveaxis(grid, 2, 0)  # [B, row]
    found = np.zeros((len(grid), symbols), np.bool_)
    row = np.arange(len(grid))

    def allow(fits: NDArray[np.bool_], answer: NDArray[np.integer]) -> None:
        found[row[fits], (answer % symbols)[fits]] = True

    for step in STEPS:
        starts = ((b - a - step) % symbols == 0).all(axis=1)
        allow(starts & ((c - b - step) % symbols == 0)[:, :2].all(axis=1), b[:, 2] + step)
    allow(((a + b - c) % symbols == 0)[:, :2].all(axis=1), a[:, 2] + b[:, 2])
    allow(((a - b - c) % symbols == 0)[:, :2].all(axis=1), a[:, 2] - b[:, 2])
    three = np.sort(grid[:, :2], axis=2)  # [B, 2, 3]
    same = (three[:, 0] == three[:, 1]).all(axis=1) & (np.diff(three[:, 0]) > 0).all(axis=1)
    shown = (three[:, 0, :, None] == grid[:, 2, None, :2]).any(axis=1).all(axis=1)
    rest = three[:, 0].sum(axis=1) - a[:, 2] - b[:, 2]
    allow(same & shown & (a[:, 2] != b[:, 2]), rest)
    return found
