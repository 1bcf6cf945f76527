"""The gradient of attention's relative position bias, in a fixed number of partial sums.

d bias [M, PARTS, H, 2 T - 1]: entry d holds the sum of d scores[i, j] over j - i = d - T + 1. One
program owns one of PARTS stretches of groups, adds their tiles of d scores up in order (recomputed
as in attention.py) and then the tile's diagonals. No atomics.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from compfast.engines.triton.attention import (
    constants_of,
    put_or_add,
    relative,
    row_scores,
    sight,
    softmax_rows,
)
from compfast.engines.triton.common import product
from compfast.engines.triton.launch import Launch, Rows, roomy


@triton.jit
def _bias_gradient(
    q,  # [M, N, LDQ]
    k,  # [M, B T, LDK]
    v,  # [M, B T, LDV]
    do,  # [M, N, LDO]
    bias,  # [M, H, 2 T - 1]
    d_bias,  # [M, PARTS, H, 2 T - 1]
    live,
    SEQUENCES: tl.constexpr, T: tl.constexpr, G: tl.constexpr, D_K: tl.constexpr,
    D_V: tl.constexpr, SQ: tl.constexpr, LDQ: tl.constexpr, SK: tl.constexpr, LDK: tl.constexpr,
    SV: tl.constexpr, LDV: tl.constexpr, SO: tl.constexpr, LDO: tl.constexpr,
    SB: tl.constexpr, BIAS: tl.constexpr, SCALE: tl.constexpr, LAST: tl.constexpr,
    CAUSAL: tl.constexpr, TILES: tl.constexpr, Q_ROWS: tl.constexpr, K_ROWS: tl.constexpr,
    INNER: tl.constexpr, PRECISION: tl.constexpr, SG: tl.constexpr, SP: tl.constexpr,
    SHARE: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(2).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    part, head = tl.program_id(0), tl.program_id(1)
    j = tl.arange(0, K_ROWS)
    each: tl.constexpr = 1 if LAST else T
    diagonals: tl.constexpr = 2 * T - 1
    bias += m * SB + head * diagonals
    for tile in range(TILES):
        i = tile * Q_ROWS + tl.arange(0, Q_ROWS)
        seen = sight(i[:, None], j[None, :], LAST, T, G, CAUSAL)
        total = tl.zeros((Q_ROWS, K_ROWS), tl.float32)
        for group in range(part * SHARE, (part + 1) * SHARE):
            q_at, k_at = group * G * each + i, group * G * T + j
            q_in = (i < G * each) & (q_at < SEQUENCES * each)
            k_in = (j < G * T) & (k_at < SEQUENCES * T)
            scores = row_scores(
                q + m * SQ + head * D_K, k + m * SK + head * D_K,
                q_at, k_at, q_in, k_in, LDQ, LDK, D_K, Q_ROWS, K_ROWS, INNER, PRECISION,
            )  # fmt: skip
            scores = scores * SCALE + relative(bias, i[:, None], j[None, :], LAST, T)
            weight = softmax_rows(scores, seen)
            d_weight = tl.zeros((Q_ROWS, K_ROWS), tl.float32)
            for start in range(0, D_V, INNER):
                d = start + tl.arange(0, INNER)[None, :]
                at = m * SO + head * D_V + q_at[:, None] * LDO + d
                a = tl.load(do + at, mask=q_in[:, None] & (d < D_V), other=0.0)
                at = m * SV + head * D_V + k_at[:, None] * LDV + d
                b = tl.load(v + at, mask=k_in[:, None] & (d < D_V), other=0.0)
                d_weight += product(a, tl.trans(b), PRECISION)
            along = tl.sum(weight * d_weight, axis=1)
            total += tl.where(seen, weight * (d_weight - along[:, None]), 0.0)
        query = i[:, None] * 0 + T - 1 if LAST else i[:, None] % T
        apart = j[None, :] % T - query + T - 1
        out = d_bias + m * SG + part * SP + head * diagonals
        tl.debug_barrier()
        for diagonal in range(diagonals):
            chosen = tl.where(seen & (apart == diagonal), total, 0.0)
            put_or_add(out + diagonal, tl.sum(tl.sum(chosen, axis=1), axis=0), True, tile, TILES)


def bias_gradient(
    do: Rows,
    q: Rows,
    k: Rows,
    v: Rows,
    bias: torch.Tensor,
    d_bias: torch.Tensor,
    live: torch.Tensor,
    **how: Any,
) -> Launch:
    """Into a view of the partial gradients [M, PARTS, P]; `how` as in `attention.forward`."""
    pointers = {
        "q": q.pointer,
        "k": k.pointer,
        "v": v.pointer,
        "do": do.pointer,
        "bias": bias,
        "d_bias": d_bias,
        "live": live,
    }
    (groups, heads), constants = constants_of(q, k, v, do, bias, **how)
    parts = d_bias.shape[1]
    constants |= {"SG": d_bias.stride(0), "SP": d_bias.stride(1)}
    constants["SHARE"] = triton.cdiv(groups, parts)
    return Launch(_bias_gradient, (parts, heads, len(live)), pointers, constants, roomy(8))
