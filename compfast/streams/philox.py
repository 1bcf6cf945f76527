"""Counter-based random streams: Philox4x32-10 in NumPy, the reference for C++ and Triton.

Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC11). A stream is named by
(seed, purpose, step, sub); its word i is word i % 4 of the block with counter
(i // 4, step, purpose, sub) and key (seed & 0xffffffff, seed >> 32).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from compfast.streams import fixedmath

UInt32 = NDArray[np.uint32]
UInt64 = NDArray[np.uint64]
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

INIT, TRAIN, EVAL, DROPOUT, AUX, DRAWN = range(6)

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_MASK = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox4x32(counter: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> UInt32:
    """One block a counter: four words below 2^32, broadcast to [...] -> uint32 [..., 4]."""
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, dtype=np.uint64) for c in counter))
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c2 = (p1 >> _32) ^ c1 ^ np.uint64(k0), (p0 >> _32) ^ c3 ^ np.uint64(k1)
        c1, c3 = p1 & _MASK, p0 & _MASK
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    block: UInt32 = np.stack((c0, c1, c2, c3), axis=-1).astype(np.uint32)
    return block


def words(seed: int, purpose: int, step: int, sub: int, start: int, count: int) -> UInt32:
    """Words [start, start + count) of one stream, uint32 [count]."""
    row: UInt32 = word_rows(seed, purpose, np.array([step]), sub, start, count)[0]
    return row


def word_rows(
    seed: int, purpose: int, steps: NDArray[Any], sub: int, start: int, count: int
) -> UInt32:
    """Words [start, start + count) of the streams of several steps, uint32 [len(steps), count]."""
    first, last = start // 4, -(-(start + count) // 4)
    blocks = np.arange(first, last)
    out = philox4x32((blocks[None, :], np.asarray(steps)[:, None], purpose, sub), _key(seed))
    flat = out.reshape(len(steps), 4 * (last - first))
    return flat[:, start - 4 * first : start - 4 * first + count]


def integers(u: UInt32, n: int | NDArray[np.integer[Any]]) -> Int64:
    """Integers in [0, n) from words, (u * n) >> 32; `n` at most 2^32. Shape of `u`."""
    return ((u.astype(np.uint64) * np.asarray(n, dtype=np.uint64)) >> _32).astype(np.int64)


def uniforms(u: UInt32) -> Float32:
    """((u >> 9) + 0.5) * 2^-23: exact float32 inside (0, 1). Shape of `u`."""
    whole = (u >> np.uint32(9)).astype(np.float32)
    return (whole + np.float32(0.5)) * np.float32(2.0**-23)


def normals(seed: int, purpose: int, step: int, sub: int, count: int) -> Float64:
    """The first `count` standard normals of a stream, float64 [count].

    Box-Muller on u = (word + 0.5) * 2^-32: words 2j, 2j+1 give r cos a, r sin a with
    r = sqrt(-2 log u_2j), a = 2 pi u_2j+1. An odd count drops the last partner.
    """
    pairs = -(-count // 2)
    u = (words(seed, purpose, step, sub, 0, 2 * pairs).astype(np.float64) + 0.5) * 2.0**-32
    radius = np.sqrt(-2.0 * fixedmath.log(u[0::2]))
    sine, cosine = fixedmath.sincos_turn(u[1::2])
    return np.stack((radius * cosine, radius * sine), axis=-1).reshape(-1)[:count]


def feistel(seed: int, epoch: int, indices: NDArray[Any], n: int) -> Int64:
    """A permutation of [0, n) keyed by (seed, epoch), applied to `indices`, int64 [len(indices)].

    A balanced 6-round Feistel network over the least even number of bits (at least 2) that
    holds n; results of n or more are sent through again (cycle walking).
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    key = _key(seed)
    out = np.array(indices, dtype=np.uint64)
    pending = np.ones(out.shape, dtype=np.bool_)
    while pending.any():
        index = out[pending]
        left, right = index >> shift, index & mask
        for r in range(6):
            word = philox4x32((right, epoch, AUX, r), key)[..., 0].astype(np.uint64)
            left, right = right, left ^ (word & mask)
        out[pending] = (left << shift) | right
        pending &= out >= np.uint64(n)
    return out.astype(np.int64)


def _key(seed: int) -> tuple[int, int]:
    return seed & 0xFFFFFFFF, seed >> 32
