"""The fused layer's forward; block.py says what a layer is and launches it."""

import triton
import triton.language as tl

from compfast.engines.triton.attention import sight, softmax_rows
from compfast.engines.triton.block_heads import head_projections
from compfast.engines.triton.common import activated, product
from compfast.engines.triton.tiles import (
    anew,
    matrix,
    normed,
    put_rows,
    rows_of,
    statistics,
    vector,
)


@triton.jit
def layer_forward(
    x,  # [M, B T, LDX]
    weights,  # [M, P] from the layer's first tensor on
    s,  # [M, N, LDX]
    r,  # [M, N, LDX]; post-norm
    y,  # [M, N, LDX]
    live,  # [M]
    SEQUENCES: tl.constexpr, T: tl.constexpr, G: tl.constexpr, P: tl.constexpr,
    D: tl.constexpr, H: tl.constexpr, D_K: tl.constexpr, D_V: tl.constexpr, FF: tl.constexpr,
    LDX: tl.constexpr, LDD: tl.constexpr, LDO: tl.constexpr, LDF: tl.constexpr,
    SCALE1: tl.constexpr, SHIFT1: tl.constexpr, SCALE2: tl.constexpr, SHIFT2: tl.constexpr,
    WQ: tl.constexpr, WK: tl.constexpr, WV: tl.constexpr, WO: tl.constexpr,
    BQ: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BO: tl.constexpr,
    WU: tl.constexpr, WD: tl.constexpr, BU: tl.constexpr, BD: tl.constexpr,
    SOFTEN: tl.constexpr, EPSILON: tl.constexpr, PRE: tl.constexpr, LAST: tl.constexpr,
    CAUSAL: tl.constexpr, BIASES: tl.constexpr, FFN_BIASES: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, INNER_PRECISION: tl.constexpr,
    Q_ROWS: tl.constexpr, K_ROWS: tl.constexpr, WIDE: tl.constexpr, WIDE_K: tl.constexpr,
    WIDE_V: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    group = tl.program_id(0)
    i, j = tl.arange(0, Q_ROWS), tl.arange(0, K_ROWS)
    each: tl.constexpr = 1 if LAST else T
    q_at, k_at = group * G * each + i, group * G * T + j
    q_in = (i < G * each) & (q_at < SEQUENCES * each)
    k_in = (j < G * T) & (k_at < SEQUENCES * T)
    x_at = q_at * T + T - 1 if LAST else q_at
    x += m * SEQUENCES * T * LDX
    weights += m * P
    s += m * SEQUENCES * each * LDX
    r += m * SEQUENCES * each * LDX
    y += m * SEQUENCES * each * LDX

    # not known beforehand, so that the chunks' loops are not unrolled
    stop = D + anew(live + m) if D > WIDE else D
    k_mean = tl.zeros((K_ROWS,), tl.float32)
    k_rate = k_mean
    if PRE:
        k_mean, k_rate = statistics(x, k_at, k_in, LDX, D, WIDE, EPSILON)
    q_mean = tl.zeros((Q_ROWS,), tl.float32)
    q_rate = q_mean
    if PRE and LAST:
        q_mean, q_rate = statistics(x, x_at, q_in, LDX, D, WIDE, EPSILON)
    for c in range(0, D, WIDE):
        start = rows_of(x, x_at, q_in, c, LDX, D, WIDE)
        if BIASES:
            start += vector(weights + BO, c, D, WIDE)
        put_rows(s, start, q_at, q_in, c, False, LDX, D, WIDE)
    tl.debug_barrier()
    seen = sight(i[:, None], j[None, :], LAST, T, G, CAUSAL)
    for head in range(H):
        q, k, v = head_projections(
            x, k_at, k_in, k_mean, k_rate, x_at, q_in, q_mean, q_rate, weights, head, stop,
            D, D_K, D_V, LDX, LDD, SCALE1, SHIFT1, WQ, WK, WV, BQ, BK, BV, PRE, LAST, BIASES,
            PRECISION, Q_ROWS, K_ROWS, WIDE, WIDE_K, WIDE_V,
        )  # fmt: skip
        weight = softmax_rows(product(q, tl.trans(k), INNER_PRECISION) * SOFTEN, seen)
        mixed = product(weight, v, INNER_PRECISION)
        for c in range(0, stop, WIDE):
            w = matrix(weights + WO + head * D_V, c, 0, D, D_V, LDO, WIDE, WIDE_V)
            value = product(mixed, tl.trans(w), PRECISION)
            put_rows(s, value, q_at, q_in, c, True, LDX, D, WIDE)
        tl.debug_barrier()

    first_scale = weights + (SCALE2 if PRE else SCALE1)
    first_shift = weights + (SHIFT2 if PRE else SHIFT1)
    mean, rate = statistics(s, q_at, q_in, LDX, D, WIDE, EPSILON)
    into = y if PRE else r
    for c in range(0, stop, WIDE):
        # pre: the residual is S itself; post: its norm
        value = rows_of(s, q_at, q_in, c, LDX, D, WIDE)
        if not PRE:
            value = normed(
                s, q_at, q_in, c, mean, rate, first_scale, first_shift, LDX, D, WIDE, True
            )
        if FFN_BIASES:
            value += vector(weights + BD, c, D, WIDE)
        put_rows(into, value, q_at, q_in, c, False, LDX, D, WIDE)
    tl.debug_barrier()
    for f in range(0, FF, COLUMNS):
        up = tl.zeros((Q_ROWS, COLUMNS), tl.float32)
        for c in range(0, stop, WIDE):
            h = normed(s, q_at, q_in, c, mean, rate, first_scale, first_shift, LDX, D, WIDE, True)
            w = matrix(weights + WU, f, c, FF, D, LDD, COLUMNS, WIDE)
            up += product(h, tl.trans(w), PRECISION)
        if FFN_BIASES:
            up += vector(weights + BU, f, FF, COLUMNS)
        up, _slope = activated(up, ACTIVATION)
        for c in range(0, stop, WIDE):
            w = matrix(weights + WD, c, f, D, FF, LDF, WIDE, COLUMNS)
            value = product(up, tl.trans(w), PRECISION)
            put_rows(into, value, q_at, q_in, c, True, LDX, D, WIDE)
        tl.debug_barrier()
    if not PRE:
        mean, rate = statistics(r, q_at, q_in, LDX, D, WIDE, EPSILON)
        for c in range(0, stop, WIDE):
            value = normed(
                r, q_at, q_in, c, mean, rate, weights + SCALE2, weights + SHIFT2,
                LDX, D, WIDE, True,
            )  # fmt: skip
            put_rows(y, value, q_at, q_in, c, False, LDX, D, WIDE)
