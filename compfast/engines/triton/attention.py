"""Ensemble attention, softmax(Q K^T / sqrt(d_k) + bias + mask) V, the tile of scores on chip.

Q [M, N, H d_k], K [M, B T, H d_k], V [M, B T, H d_v], O [M, N, H d_v]; heads side by side. One
program holds one (member, group of whole sequences, head): as many sequences as fill a tile of
64 or 128 key rows, side by side and masked from each other, so that short sequences are not
padded. N is B T, or B where only each sequence's last row is asked (its query sees every key).
Head sizes are walked in chunks. Backward recomputes the weights P. T up to 128; attention_tiled.py
has no bound. The bias is of relative positions, [M, H, 2 T - 1], entry j - i + T - 1 for query i
and key j; attention_bias.py has its gradient.
Source: Vaswani et al. 2017; dS = P * (dP - rowsum(P * dP)) as in Dao et al. 2022.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from compfast.engines.triton.common import ATTENTION, power, product
from compfast.engines.triton.launch import Launch, Rows, roomy

LONGEST = 128
ON_CHIP = {"fp32": 128, "tf32": 64, "bf16": 64}
"""Positions up to which the tile of scores and its gradients stay in registers, by precision
(benchmarks/triton_resources.csv); above, attention_tiled.py is the one without spills."""


@triton.jit
def softmax_rows(scores, seen):
    """Softmax over the entries `seen`, zero elsewhere; a row that sees nothing is zero."""
    scores = tl.where(seen, scores, float("-inf"))
    top = tl.max(scores, axis=1)
    top = tl.where(top == float("-inf"), 0.0, top)
    # exp's error grows with |x|, but so does its smallness: its share of the sum stays exact.
    # Masked entries are chosen away, so that a NaN in one row does not reach the next.
    weight = tl.where(seen, tl.exp(scores - top[:, None]), 0.0)
    total = tl.sum(weight, axis=1)
    return weight / tl.where(total == 0.0, 1.0, total)[:, None]


@triton.jit
def sight(q, k, LAST: tl.constexpr, T: tl.constexpr, G: tl.constexpr, CAUSAL: tl.constexpr):
    """Which of a group's key rows k [1, K] the query rows q [Q, 1] see, [Q, K]."""
    if LAST:
        seen = (q == k // T) & (q < G) & (k < G * T)
    else:
        seen = (q // T == k // T) & (q < G * T) & (k < G * T)
        if CAUSAL:
            seen = seen & (k <= q)
    return seen


@triton.jit
def relative(bias, q, k, LAST: tl.constexpr, T: tl.constexpr):
    """The bias of query rows q [Q, 1] and key rows k [1, K] of a group, [Q, K]; bias [2 T - 1]."""
    apart = k % T + q * 0 if LAST else k % T - q % T + (T - 1)
    return tl.load(bias + apart)


@triton.jit
def row_scores(
    q,
    k,
    q_at,
    k_at,
    q_in,
    k_in,
    LDQ: tl.constexpr,
    LDK: tl.constexpr,
    D: tl.constexpr,
    Q_ROWS: tl.constexpr,
    K_ROWS: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Q K^T of one head, [Q_ROWS, K_ROWS]."""
    total = tl.zeros((Q_ROWS, K_ROWS), tl.float32)
    for start in range(0, D, INNER):
        d = start + tl.arange(0, INNER)
        inside = q_in[:, None] & (d < D)[None, :]
        a = tl.load(q + q_at[:, None] * LDQ + d[None, :], mask=inside, other=0.0)
        inside = k_in[None, :] & (d < D)[:, None]
        b = tl.load(k + k_at[None, :] * LDK + d[:, None], mask=inside, other=0.0)
        total += product(a, b, PRECISION)
    return total


@triton.jit
def _forward(
    q,  # [M, N, LDQ]
    k,  # [M, B T, LDK]
    v,  # [M, B T, LDV]
    o,  # [M, N, LDO]
    bias,  # [M, H, 2 T - 1]
    live,  # [M]
    SEQUENCES: tl.constexpr,
    T: tl.constexpr,
    G: tl.constexpr,
    D_K: tl.constexpr,
    D_V: tl.constexpr,
    SQ: tl.constexpr,
    LDQ: tl.constexpr,
    SK: tl.constexpr,
    LDK: tl.constexpr,
    SV: tl.constexpr,
    LDV: tl.constexpr,
    SO: tl.constexpr,
    LDO: tl.constexpr,
    SB: tl.constexpr,
    BIAS: tl.constexpr,
    SCALE: tl.constexpr,
    LAST: tl.constexpr,
    CAUSAL: tl.constexpr,
    TILES: tl.constexpr,
    Q_ROWS: tl.constexpr,
    K_ROWS: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    m = tl.program_id(2).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    group, head = tl.program_id(0) // TILES, tl.program_id(1)
    i, j = tl.program_id(0) % TILES * Q_ROWS + tl.arange(0, Q_ROWS), tl.arange(0, K_ROWS)
    each: tl.constexpr = 1 if LAST else T
    q_at, k_at = group * G * each + i, group * G * T + j
    q_in = (i < G * each) & (q_at < SEQUENCES * each)
    k_in = (j < G * T) & (k_at < SEQUENCES * T)
    scores = row_scores(
        q + m * SQ + head * D_K, k + m * SK + head * D_K,
        q_at, k_at, q_in, k_in, LDQ, LDK, D_K, Q_ROWS, K_ROWS, INNER, PRECISION,
    )  # fmt: skip
    scores *= SCALE
    if BIAS:
        diagonals = bias + m * SB + head * (2 * T - 1)
        scores += relative(diagonals, i[:, None], j[None, :], LAST, T)
    weight = softmax_rows(scores, sight(i[:, None], j[None, :], LAST, T, G, CAUSAL))
    for start in range(0, D_V, INNER):
        d = start + tl.arange(0, INNER)
        at = m * SV + head * D_V + k_at[:, None] * LDV + d[None, :]
        b = tl.load(v + at, mask=k_in[:, None] & (d < D_V)[None, :], other=0.0)
        at = m * SO + head * D_V + q_at[:, None] * LDO + d[None, :]
        out = product(weight, b, PRECISION)
        tl.store(o + at, out, mask=q_in[:, None] & (d < D_V)[None, :])


@triton.jit
def put_or_add(pointer, value, mask, tile, TILES: tl.constexpr):
    """Store the first query tile's share, add the later ones'."""
    if TILES > 1:
        value += tl.load(pointer, mask=mask & (tile > 0), other=0.0)
    tl.store(pointer, value, mask=mask)


@triton.jit
def _backward(
    q,  # [M, N, LDQ]
    k,  # [M, B T, LDK]
    v,  # [M, B T, LDV]
    do,  # [M, N, LDO]
    dq,  # like q
    dk,  # like k
    dv,  # like v
    bias,  # [M, H, 2 T - 1]
    live,
    SEQUENCES: tl.constexpr,
    T: tl.constexpr,
    G: tl.constexpr,
    D_K: tl.constexpr,
    D_V: tl.constexpr,
    SQ: tl.constexpr,
    LDQ: tl.constexpr,
    SK: tl.constexpr,
    LDK: tl.constexpr,
    SV: tl.constexpr,
    LDV: tl.constexpr,
    SO: tl.constexpr,
    LDO: tl.constexpr,
    SB: tl.constexpr,
    BIAS: tl.constexpr,
    SCALE: tl.constexpr,
    LAST: tl.constexpr,
    CAUSAL: tl.constexpr,
    TILES: tl.constexpr,
    Q_ROWS: tl.constexpr,
    K_ROWS: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    m = tl.program_id(2).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    group, head = tl.program_id(0), tl.program_id(1)
    j = tl.arange(0, K_ROWS)
    each: tl.constexpr = 1 if LAST else T
    k_at = group * G * T + j
    k_in = (j < G * T) & (k_at < SEQUENCES * T)
    q += m * SQ + head * D_K
    k += m * SK + head * D_K
    for tile in range(TILES):
        # Another thread of this program may have written what this one now adds to.
        tl.debug_barrier()
        i = tile * Q_ROWS + tl.arange(0, Q_ROWS)
        q_at = group * G * each + i
        q_in = (i < G * each) & (q_at < SEQUENCES * each)
        scores = row_scores(
            q, k, q_at, k_at, q_in, k_in, LDQ, LDK, D_K, Q_ROWS, K_ROWS, INNER, PRECISION
        )
        seen = sight(i[:, None], j[None, :], LAST, T, G, CAUSAL)
        scores *= SCALE
        if BIAS:
            diagonals = bias + m * SB + head * (2 * T - 1)
            scores += relative(diagonals, i[:, None], j[None, :], LAST, T)
        weight = softmax_rows(scores, seen)
        d_weight = tl.zeros((Q_ROWS, K_ROWS), tl.float32)
        for start in range(0, D_V, INNER):
            d = start + tl.arange(0, INNER)
            at = m * SO + head * D_V + q_at[:, None] * LDO + d[None, :]
            a = tl.load(do + at, mask=q_in[:, None] & (d < D_V)[None, :], other=0.0)
            inside = k_in[:, None] & (d < D_V)[None, :]
            at = m * SV + head * D_V + k_at[:, None] * LDV + d[None, :]
            b = tl.load(v + at, mask=inside, other=0.0)
            d_weight += product(a, tl.trans(b), PRECISION)
            put_or_add(dv + at, product(tl.trans(weight), a, PRECISION), inside, tile, TILES)
        along = tl.sum(weight * d_weight, axis=1)
        d_scores = weight * (d_weight - along[:, None]) * SCALE
        for start in range(0, D_K, INNER):
            d = start + tl.arange(0, INNER)
            q_inside = q_in[:, None] & (d < D_K)[None, :]
            k_inside = k_in[:, None] & (d < D_K)[None, :]
            q_here = q_at[:, None] * LDQ + d[None, :]
            k_here = k_at[:, None] * LDK + d[None, :]
            b = tl.load(k + k_here, mask=k_inside, other=0.0)
            out = dq + m * SQ + head * D_K + q_here
            tl.store(out, product(d_scores, b, PRECISION), mask=q_inside)
            a = tl.load(q + q_here, mask=q_inside, other=0.0)
            out = dk + m * SK + head * D_K + k_here
            put_or_add(out, product(tl.trans(d_scores), a, PRECISION), k_inside, tile, TILES)


def forward(
    q: Rows,
    k: Rows,
    v: Rows,
    o: Rows,
    live: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    **how: Any,
) -> Launch:
    """`how`: heads, causal, precision; `bias` [M, >= H (2 T - 1)]: a view into [M, P]."""
    pointers = {"q": q.pointer, "k": k.pointer, "v": v.pointer, "o": o.pointer}
    pointers |= {"bias": live if bias is None else bias, "live": live}
    (groups, heads), constants = constants_of(q, k, v, o, bias, **how)
    grid = (groups * constants["TILES"], heads)
    return Launch(_forward, (*grid, len(live)), pointers, constants, roomy(8))


def backward(
    do: Rows,
    q: Rows,
    k: Rows,
    v: Rows,
    dq: Rows,
    dk: Rows,
    dv: Rows,
    live: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    **how: Any,
) -> Launch:
    """Writes dq, dk and dv, which lie as q, k and v do; `how` as in `forward`."""
    pointers = {
        "q": q.pointer,
        "k": k.pointer,
        "v": v.pointer,
        "do": do.pointer,
        "dq": dq.pointer,
        "dk": dk.pointer,
        "dv": dv.pointer,
        "bias": live if bias is None else bias,
        "live": live,
    }
    grid, constants = constants_of(q, k, v, do, bias, **how)
    return Launch(_backward, (*grid, len(live)), pointers, constants, roomy(8))


def group_of(length: int, last: bool, rows: int = 64) -> tuple[int, int, int]:
    """(sequences of one program, rows of its key tile, rows of a query tile).

    The key tile has `rows` rows, or 128 where one sequence needs them: then there are query tiles
    of 32, one after the other, as 128 x 128 scores and their gradients do not stay in registers.
    """
    if length > LONGEST:
        raise ValueError(f"attention over {length} positions; the tile holds {LONGEST}")
    keys = power(length, rows)
    sequences = keys // length
    if last:
        return sequences, keys, power(sequences)
    return sequences, keys, 32 if keys == LONGEST else keys


def layout_of(q: Rows, k: Rows, v: Rows, o: Rows, heads: int) -> dict[str, Any]:
    """Head sizes, the scores' factor and the buffers' strides, as every kernel names them."""
    constants: dict[str, Any] = {"D_K": q.width // heads, "D_V": v.width // heads}
    constants["SCALE"] = 1.0 / math.sqrt(constants["D_K"])
    for name, rows in zip("QKVO", (q, k, v, o), strict=True):
        constants |= {f"S{name}": rows.stride, f"LD{name}": rows.ld}
    return constants


def constants_of(
    q: Rows,
    k: Rows,
    v: Rows,
    o: Rows,
    bias: torch.Tensor | None,
    *,
    heads: int,
    causal: bool,
    precision: str,
) -> tuple[tuple[int, int], dict[str, Any]]:
    """((groups, heads), what the kernels here and in attention_bias.py know)."""
    length, last = k.each, q.each < k.each
    sequences, (group, keys, queries) = k.count // length, group_of(length, last)
    known = layout_of(q, k, v, o, heads)
    constants = {
        **known,
        "SEQUENCES": sequences,
        "T": length,
        "G": group,
        "SB": 0 if bias is None else bias.stride(0),
        "BIAS": bias is not None,
        "LAST": last,
        "CAUSAL": causal,
        "TILES": 1 if last else keys // queries,
        "Q_ROWS": queries,
        "K_ROWS": keys,
        # registers: FMA wants every operand in every thread, three products twice the operands
        "INNER": min(32 if precision == "tf32" else 16, power(max(known["D_K"], known["D_V"]))),
        "PRECISION": ATTENTION[precision],
    }
    return (triton.cdiv(sequences, group), heads), constants
