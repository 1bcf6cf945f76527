"""Ensemble attention over any number of positions: tiles of keys, softmax on the way.

Q [M, N, H d_k], K [M, B T, H d_k], V [M, B T, H d_v], O [M, N, H d_v], as in attention.py, and
L [M, N, H], the logarithm of each row's sum of exponentials, which backward reads. One forward
program holds a tile of one sequence's queries, one head and a chunk of d_v, and walks the keys in
order; backward is one kernel for dQ, which walks keys, and one for dK and dV, which walks queries.
Source: Dao et al. 2022 (FlashAttention), equations 1 and 4.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from compfast.engines.triton.attention import layout_of, row_scores
from compfast.engines.triton.common import ATTENTION, power, product
from compfast.engines.triton.launch import Launch, Rows, roomy

_TILE = 32  # queries or keys
_CHUNK = 64  # columns of a head that a program accumulates, at most


@triton.jit
def _sight(i, j, T: tl.constexpr, EACH: tl.constexpr, CAUSAL: tl.constexpr):
    """Which keys j [1, K] the queries i [Q, 1] of one sequence see; a lone query sees all."""
    seen = (i < EACH) & (j < T)
    if CAUSAL and EACH > 1:
        seen = seen & (j <= i)
    return seen


@triton.jit
def _chunk(pointer, at, inside, start, LD: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr):
    """Columns [start, start + SIZE) of rows `at` of one head, [R, SIZE], zero outside."""
    d = start + tl.arange(0, SIZE)[None, :]
    return tl.load(pointer + at[:, None] * LD + d, mask=inside[:, None] & (d < D), other=0.0)


@triton.jit
def _put_chunk(
    pointer, value, at, inside, start, LD: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr
):
    d = start + tl.arange(0, SIZE)[None, :]
    tl.store(pointer + at[:, None] * LD + d, value, mask=inside[:, None] & (d < D))


@triton.jit
def _forward(
    q,  # [M, N, LDQ]
    k,  # [M, B T, LDK]
    v,  # [M, B T, LDV]
    o,  # [M, N, LDO]
    sums,  # [M, N, LDL]
    live,  # [M]
    T: tl.constexpr, EACH: tl.constexpr, D_K: tl.constexpr, D_V: tl.constexpr,
    SQ: tl.constexpr, LDQ: tl.constexpr, SK: tl.constexpr, LDK: tl.constexpr,
    SV: tl.constexpr, LDV: tl.constexpr, SO: tl.constexpr, LDO: tl.constexpr,
    SL: tl.constexpr, LDL: tl.constexpr, SCALE: tl.constexpr, CAUSAL: tl.constexpr,
    CHUNKS: tl.constexpr, CHUNK: tl.constexpr,
    Q_ROWS: tl.constexpr, K_ROWS: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(2).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    tiles: tl.constexpr = (EACH + Q_ROWS - 1) // Q_ROWS
    sequence, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    head, chunk = tl.program_id(1) // CHUNKS, tl.program_id(1) % CHUNKS * CHUNK
    i = tile * Q_ROWS + tl.arange(0, Q_ROWS)
    q_at, q_in = sequence * EACH + i, i < EACH
    top = tl.full((Q_ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((Q_ROWS,), tl.float32)
    out = tl.zeros((Q_ROWS, CHUNK), tl.float32)
    end = T
    if CAUSAL and EACH > 1:
        end = tl.minimum(T, (tile + 1) * Q_ROWS)
    for start in range(0, end, K_ROWS):
        j = start + tl.arange(0, K_ROWS)
        k_at, k_in = sequence * T + j, j < T
        scores = row_scores(
            q + m * SQ + head * D_K, k + m * SK + head * D_K,
            q_at, k_at, q_in, k_in, LDQ, LDK, D_K, Q_ROWS, K_ROWS, INNER, PRECISION,
        )  # fmt: skip
        seen = _sight(i[:, None], j[None, :], T, EACH, CAUSAL)
        scores = tl.where(seen, scores * SCALE, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, axis=1))
        # a row that has seen nothing yet keeps its zeros
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weight = tl.where(seen, tl.exp(scores - base[:, None]), 0.0)
        shrink = tl.exp(top - base)
        total = total * shrink + tl.sum(weight, axis=1)
        b = _chunk(v + m * SV + head * D_V, k_at, k_in, chunk, LDV, D_V, CHUNK)
        out = out * shrink[:, None] + product(weight, b, PRECISION)
        top = higher
    whole = tl.where(total == 0.0, 1.0, total)
    _put_chunk(o + m * SO + head * D_V, out / whole[:, None], q_at, q_in, chunk, LDO, D_V, CHUNK)
    first = i < tl.where(chunk == 0, EACH, 0)
    tl.store(sums + m * SL + q_at * LDL + head, top + tl.log(whole), mask=first)


@triton.jit
def _d_scores(
    q, k, v, do, o, sums, q_at, k_at, q_in, k_in, seen,
    D_K: tl.constexpr, D_V: tl.constexpr, LDQ: tl.constexpr, LDK: tl.constexpr,
    LDV: tl.constexpr, LDO: tl.constexpr, LDG: tl.constexpr, LDL: tl.constexpr,
    SCALE: tl.constexpr, Q_ROWS: tl.constexpr, K_ROWS: tl.constexpr, INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """(P, dS) of a tile of one head, both [Q_ROWS, K_ROWS]."""
    scores = row_scores(
        q, k, q_at, k_at, q_in, k_in, LDQ, LDK, D_K, Q_ROWS, K_ROWS, INNER, PRECISION
    )
    each = tl.load(sums + q_at * LDL, mask=q_in, other=0.0)
    weight = tl.where(seen, tl.exp(scores * SCALE - each[:, None]), 0.0)
    d_weight = tl.zeros((Q_ROWS, K_ROWS), tl.float32)
    along = tl.zeros((Q_ROWS,), tl.float32)
    for start in range(0, D_V, INNER):
        a = _chunk(do, q_at, q_in, start, LDG, D_V, INNER)
        b = _chunk(v, k_at, k_in, start, LDV, D_V, INNER)
        d_weight += product(a, tl.trans(b), PRECISION)
        along += tl.sum(a * _chunk(o, q_at, q_in, start, LDO, D_V, INNER), axis=1)
    return weight, tl.where(seen, weight * (d_weight - along[:, None]) * SCALE, 0.0)


@triton.jit
def _query_gradient(
    q, k, v, do, o, sums,
    dq,  # like q
    live,
    T: tl.constexpr, EACH: tl.constexpr, D_K: tl.constexpr, D_V: tl.constexpr,
    SQ: tl.constexpr, LDQ: tl.constexpr, SK: tl.constexpr, LDK: tl.constexpr,
    SV: tl.constexpr, LDV: tl.constexpr, SO: tl.constexpr, LDO: tl.constexpr,
    SG: tl.constexpr, LDG: tl.constexpr,
    SL: tl.constexpr, LDL: tl.constexpr, SCALE: tl.constexpr, CAUSAL: tl.constexpr,
    CHUNKS: tl.constexpr, CHUNK: tl.constexpr,
    Q_ROWS: tl.constexpr, K_ROWS: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # a chunk of dQ = dS K, keys in order
    m = tl.program_id(2).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    tiles: tl.constexpr = (EACH + Q_ROWS - 1) // Q_ROWS
    sequence, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    head, chunk = tl.program_id(1) // CHUNKS, tl.program_id(1) % CHUNKS * CHUNK
    i = tile * Q_ROWS + tl.arange(0, Q_ROWS)
    q_at, q_in = sequence * EACH + i, i < EACH
    q += m * SQ + head * D_K
    k += m * SK + head * D_K
    total = tl.zeros((Q_ROWS, CHUNK), tl.float32)
    end = T
    if CAUSAL and EACH > 1:
        end = tl.minimum(T, (tile + 1) * Q_ROWS)
    for start in range(0, end, K_ROWS):
        j = start + tl.arange(0, K_ROWS)
        k_at, k_in = sequence * T + j, j < T
        weight, d_scores = _d_scores(
            q, k, v + m * SV + head * D_V, do + m * SG + head * D_V, o + m * SO + head * D_V,
            sums + m * SL + head, q_at, k_at, q_in, k_in,
            _sight(i[:, None], j[None, :], T, EACH, CAUSAL), D_K, D_V, LDQ, LDK, LDV, LDO, LDG,
            LDL, SCALE, Q_ROWS, K_ROWS, INNER, PRECISION,
        )  # fmt: skip
        b = _chunk(k, k_at, k_in, chunk, LDK, D_K, CHUNK)
        total += product(d_scores, b, PRECISION)
    _put_chunk(dq + m * SQ + head * D_K, total, q_at, q_in, chunk, LDQ, D_K, CHUNK)


@triton.jit
def _key_gradients(
    q, k, v, do, o, sums,
    dk,  # like k
    dv,  # like v
    live,
    T: tl.constexpr, EACH: tl.constexpr, D_K: tl.constexpr, D_V: tl.constexpr,
    SQ: tl.constexpr, LDQ: tl.constexpr, SK: tl.constexpr, LDK: tl.constexpr,
    SV: tl.constexpr, LDV: tl.constexpr, SO: tl.constexpr, LDO: tl.constexpr,
    SG: tl.constexpr, LDG: tl.constexpr,
    SL: tl.constexpr, LDL: tl.constexpr, SCALE: tl.constexpr, CAUSAL: tl.constexpr,
    CHUNKS: tl.constexpr, CHUNK: tl.constexpr,
    Q_ROWS: tl.constexpr, K_ROWS: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # a chunk of dV = P^T dO and of dK = dS^T Q, queries in order
    m = tl.program_id(2).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    tiles: tl.constexpr = (T + K_ROWS - 1) // K_ROWS
    sequence, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    head, chunk = tl.program_id(1) // CHUNKS, tl.program_id(1) % CHUNKS * CHUNK
    j = tile * K_ROWS + tl.arange(0, K_ROWS)
    k_at, k_in = sequence * T + j, j < T
    q += m * SQ + head * D_K
    k += m * SK + head * D_K
    v += m * SV + head * D_V
    do += m * SG + head * D_V
    dk_total = tl.zeros((K_ROWS, CHUNK), tl.float32)
    dv_total = tl.zeros((K_ROWS, CHUNK), tl.float32)
    first = 0
    if CAUSAL and EACH > 1:
        first = tile * K_ROWS // Q_ROWS * Q_ROWS
    for start in range(first, EACH, Q_ROWS):
        i = start + tl.arange(0, Q_ROWS)
        q_at, q_in = sequence * EACH + i, i < EACH
        weight, d_scores = _d_scores(
            q, k, v, do, o + m * SO + head * D_V, sums + m * SL + head, q_at, k_at, q_in, k_in,
            _sight(i[:, None], j[None, :], T, EACH, CAUSAL), D_K, D_V, LDQ, LDK, LDV, LDO, LDG,
            LDL, SCALE, Q_ROWS, K_ROWS, INNER, PRECISION,
        )  # fmt: skip
        a = _chunk(do, q_at, q_in, chunk, LDG, D_V, CHUNK)
        dv_total += product(tl.trans(weight), a, PRECISION)
        a = _chunk(q, q_at, q_in, chunk, LDQ, D_K, CHUNK)
        dk_total += product(tl.trans(d_scores), a, PRECISION)
    _put_chunk(dk + m * SK + head * D_K, dk_total, k_at, k_in, chunk, LDK, D_K, CHUNK)
    _put_chunk(dv + m * SV + head * D_V, dv_total, k_at, k_in, chunk, LDV, D_V, CHUNK)


def forward(q: Rows, k: Rows, v: Rows, o: Rows, sums: Rows, live: Any, **how: Any) -> Launch:
    """`how`: heads, causal, precision; `sums` [M, N, H] is left for `backward`."""
    pointers = {
        "q": q.pointer,
        "k": k.pointer,
        "v": v.pointer,
        "o": o.pointer,
        "sums": sums.pointer,
        "live": live,
    }
    constants, heads = _constants(q, k, v, o, sums, **how)
    chunk, chunks = _chunks(v.width // heads)
    constants |= {"CHUNKS": chunks, "CHUNK": chunk}
    grid = (_programs(q, constants["Q_ROWS"]), heads * chunks, len(live))
    return Launch(_forward, grid, pointers, constants, roomy(8))


def backward(
    do: Rows,
    o: Rows,
    sums: Rows,
    q: Rows,
    k: Rows,
    v: Rows,
    dq: Rows,
    dk: Rows,
    dv: Rows,
    live: Any,
    **how: Any,
) -> tuple[Launch, Launch]:
    """Writes dq, dk and dv, which lie as q, k and v do; `how` as in `forward`."""
    pointers = {
        "q": q.pointer,
        "k": k.pointer,
        "v": v.pointer,
        "do": do.pointer,
        "o": o.pointer,
        "sums": sums.pointer,
    }
    constants, heads = _constants(q, k, v, o, sums, **how)
    constants |= {"SG": do.stride, "LDG": do.ld}
    d_k, d_v = q.width // heads, v.width // heads
    chunk, chunks = _chunks(d_k)
    asked = Launch(
        _query_gradient,
        (_programs(q, constants["Q_ROWS"]), heads * chunks, len(live)),
        {**pointers, "dq": dq.pointer, "live": live},
        {**constants, "CHUNKS": chunks, "CHUNK": chunk},
        roomy(8),
    )
    chunk, chunks = _chunks(max(d_k, d_v))
    keyed = Launch(
        _key_gradients,
        (_programs(k, constants["K_ROWS"]), heads * chunks, len(live)),
        {**pointers, "dk": dk.pointer, "dv": dv.pointer, "live": live},
        {**constants, "CHUNKS": chunks, "CHUNK": chunk},
        roomy(8),
    )
    return asked, keyed


def _programs(rows: Rows, tile: int) -> int:
    """Tiles of all sequences; a tile has rows of one sequence only."""
    return rows.count // rows.each * triton.cdiv(rows.each, tile)


def _chunks(width: int) -> tuple[int, int]:
    """(columns of a chunk, chunks) of a head of this width."""
    chunk = min(_CHUNK, power(width))
    return chunk, triton.cdiv(width, chunk)


def _constants(
    q: Rows,
    k: Rows,
    v: Rows,
    o: Rows,
    sums: Rows,
    *,
    heads: int,
    causal: bool,
    precision: str,
) -> tuple[dict[str, Any], int]:
    known = layout_of(q, k, v, o, heads)
    constants = {
        **known,
        "T": k.each,
        "EACH": q.each,
        "SL": sums.stride,
        "LDL": sums.ld,
        "CAUSAL": causal,
        "Q_ROWS": min(_TILE, power(q.each)),
        "K_ROWS": _TILE,
        "INNER": min(32, power(max(known["D_K"], known["D_V"]))),
        "PRECISION": ATTENTION[precision],
    }
    return constants, heads
