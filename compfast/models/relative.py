"""Relative positions: the bucket of each distance between a query and a key.

Raffel et al. 2020 (T5), one direction only, as arXiv 2406.05816 has it: a key after the query is
in bucket 0 with the query's own position, near ones have a bucket each, far ones share buckets
that widen with the logarithm of the distance.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_EPSILON = 2.0**-23  # of float32: added to the ratio under the logarithm [code of 2406.05816]


def distance_buckets(length: int, buckets: int) -> NDArray[np.int32]:
    """int32 [2 length - 1]: entry k - q + length - 1 is the bucket of query q and key k.

    `buckets` is the number of buckets and the distance from which on all share the last one.
    """
    exact = buckets // 2
    found = np.zeros(2 * length - 1, np.int32)
    for distance in range(1, length):
        found[length - 1 - distance] = _bucket(distance, exact, buckets)
    return found


def bucket_table(length: int, buckets: int) -> NDArray[np.int64]:
    """[length, length]: the bucket of query q (row) and key k (column)."""
    at = np.arange(length)
    place = at[None, :] - at[:, None] + length - 1
    table: NDArray[np.int64] = distance_buckets(length, buckets)[place].astype(np.int64)
    return table


def _bucket(distance: int, exact: int, buckets: int) -> int:
    if distance < exact or buckets == 1:
        return min(distance, buckets - 1)
    if exact == 0:
        return buckets - 1
    ratio = math.log(distance / exact + _EPSILON) / math.log(buckets / exact)
    return min(exact + int(ratio * (buckets - exact)), buckets - 1)
