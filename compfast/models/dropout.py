"""Dropped attention weights: the mask of a training step, from the dropout streams.

One mask a layer for all heads and sequences, as arXiv 2406.05816's code broadcasts it. Word
q T + k of the stream (init_seed, DROPOUT, step, layer) decides on query q and key k.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compfast.streams import philox


def keep_mask(rate: float, seed: int, step: int, layer: int, length: int) -> NDArray[np.float32]:
    """float32 [length, length]: 0 where a weight is dropped, else 1 / (1 - rate)."""
    words = philox.words(seed, philox.DROPOUT, step, layer, 0, length * length)
    kept = words >= np.uint64(threshold(rate))
    scale = np.float32(1.0 / (1.0 - rate))
    return np.where(kept, scale, np.float32(0)).reshape(length, length)


def threshold(rate: float) -> int:
    """Words below it drop, of 2^32."""
    return int(rate * 2.0**32)
