"""Gradients of generalised attention's own weights: sequences' sums added up in order.

Each of PARTS programs owns a stretch of sequences; `adamw.reduce` adds the parts. No atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from compfast.engines.triton.launch import Launch

_SIZE = 128


@triton.jit
def _relative(
    sums,  # [M, B, H, 2 K]: of the distance k - q, at k - q + K
    buckets,  # [2 T - 1] int32: of the distance k - q, at k - q + T - 1
    d_table,  # [M, PARTS, H, LD]
    live,  # [M]
    B: tl.constexpr,
    SHARE: tl.constexpr,
    HEADS: tl.constexpr,
    T: tl.constexpr,
    K: tl.constexpr,
    COUNT: tl.constexpr,
    SG: tl.constexpr,
    SP: tl.constexpr,
    LD: tl.constexpr,
):
    m = tl.program_id(2).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    h, part = tl.program_id(0), tl.program_id(1)
    p = tl.arange(0, 2 * K)
    total = tl.zeros((2 * K,), tl.float32)
    for each in range(SHARE):
        b = part * SHARE + each
        at = ((m * B + b) * HEADS + h) * 2 * K + p
        total += tl.load(sums + at, mask=p < tl.where(b < B, 2 * K, 0), other=0.0)
    place = p - K + (T - 1)
    inside = (place >= 0) & (place < 2 * T - 1)
    bucket = tl.load(buckets + place, mask=inside, other=-1)
    row = d_table + m * SG + part * SP + h * LD
    for chosen in range(COUNT):
        tl.store(row + chosen, tl.sum(tl.where(bucket == chosen, total, 0.0), axis=0))


@triton.jit
def _deep(
    sums,  # [M, B, N D]
    d_weight,  # [M, PARTS, N, LD]
    live,  # [M]
    B: tl.constexpr,
    SHARE: tl.constexpr,
    COUNT: tl.constexpr,  # N D
    D: tl.constexpr,
    SG: tl.constexpr,
    SP: tl.constexpr,
    LD: tl.constexpr,
    SIZE: tl.constexpr,
):
    m = tl.program_id(2).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    part = tl.program_id(1)
    n = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    total = tl.zeros((SIZE,), tl.float32)
    for each in range(SHARE):
        b = part * SHARE + each
        total += tl.load(
            sums + (m * B + b) * COUNT + n, mask=n < tl.where(b < B, COUNT, 0), other=0.0
        )
    row = d_weight + m * SG + part * SP
    tl.store(row + n // D * LD + n % D, total, mask=n < COUNT)


def relative(
    sums: torch.Tensor, buckets: torch.Tensor, d_table: torch.Tensor, live: torch.Tensor,
    *, count: int, ld: int,
) -> Launch:  # fmt: skip
    """sums [M, B, H, 2 K] into a view of the partial gradients [M, PARTS, P]; `count` buckets."""
    members, batch, heads, wide = sums.shape
    parts = d_table.shape[1]
    constants = {
        "B": batch,
        "SHARE": triton.cdiv(batch, parts),
        "HEADS": heads,
        "T": (len(buckets) + 1) // 2,
        "K": wide // 2,
        "COUNT": count,
        "SG": d_table.stride(0),
        "SP": d_table.stride(1),
        "LD": ld,
    }
    pointers = {"sums": sums, "buckets": buckets, "d_table": d_table, "live": live}
    return Launch(_relative, (heads, parts, members), pointers, constants)


def deep(sums: torch.Tensor, d_weight: torch.Tensor, live: torch.Tensor, *, ld: int) -> Launch:
    """sums [M, B, N, D] into a view of the partial gradients [M, PARTS, P]."""
    members, batch, rows, columns = sums.shape
    parts, count = d_weight.shape[1], rows * columns
    constants = {
        "B": batch,
        "SHARE": triton.cdiv(batch, parts),
        "COUNT": count,
        "D": columns,
        "SG": d_weight.stride(0),
        "SP": d_weight.stride(1),
        "LD": ld,
        "SIZE": _SIZE,
    }
    pointers = {"sums": sums, "d_weight": d_weight, "live": live}
    return Launch(_deep, (triton.cdiv(count, _SIZE), parts, members), pointers, constants)
