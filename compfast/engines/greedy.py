"""Greedy decoding by full passes over all positions, nothing kept from one to the next.

It is the oracle of the engines that keep keys and values, and what those without do. A causal
network does not see what stands after a position, so that prompts of different lengths go
together.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from compfast.config import Prompts
from compfast.engines.base import Int32

# tokens [m, n, T] of so many sequences -> the likeliest token after position T - 1, [m, n]
Likeliest = Callable[[Int32], NDArray[np.integer]]


def greedy(prompts: Prompts, members: int, likeliest: Likeliest) -> Int32:
    """Told [members, N, max_new] of checked prompts, -1 where a row is told no further."""
    count, longest = len(prompts.tokens), int(prompts.lengths.max(initial=1))
    told = np.full((members, count, prompts.max_new), -1, np.int32)
    tokens = np.zeros((members, count, longest + prompts.max_new - 1), np.int32)
    tokens[:, :, :longest] = prompts.tokens[:, :longest]
    going = np.ones((members, count), np.bool_)
    for at in range(int(prompts.lengths.min(initial=longest)), tokens.shape[2] + 1):
        index = at - prompts.lengths  # [N] of the token that is told next
        asked = going & (index >= 0) & (index < prompts.max_new)
        rows = np.flatnonzero(asked.any(0))
        if not rows.size:
            continue
        found = np.full((members, count), -1, np.int32)
        found[:, rows] = likeliest(np.ascontiguousarray(tokens[:, rows, :at]))
        who, which = np.nonzero(asked)
        told[who, which, index[which]] = found[who, which]
        if at < tokens.shape[2]:
            tokens[who, which, at] = found[who, which]
        going &= ~(asked & (found == prompts.end))
    return told
