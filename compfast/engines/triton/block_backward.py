"""The fused layer's backward, cut at S: kernels for its FFN half and its attention half.

block.py says what a layer is and launches them. A program owns one of PARTS stretches of rows, or
of groups of sequences, and adds its weight gradients up in place, so that their order is fixed.
"""

import triton
import triton.language as tl

from compfast.engines.triton.attention import sight, softmax_rows
from compfast.engines.triton.block_heads import head_projections
from compfast.engines.triton.common import activated, product
from compfast.engines.triton.tiles import (
    add_matrix,
    add_sums,
    anew,
    clear,
    matrix,
    norm_back,
    norm_gradients,
    norm_through,
    normed,
    put_rows,
    rows_of,
    statistics,
    vector,
)


@triton.jit
def ffn_backward(
    weights,  # [M, P] from the layer's first tensor on
    s,  # [M, N, LDX]
    r,  # [M, N, LDX]; post-norm
    dy,  # [M, N, LDX]: d loss/dY in, d loss/dS out
    dh,  # [M, N, LDX]: scratch
    grads,  # [M, PARTS, P] from the layer's first tensor on
    live,  # [M]
    PARTS: tl.constexpr, SPLIT: tl.constexpr, SIZE: tl.constexpr, SHARE: tl.constexpr,
    N: tl.constexpr, P: tl.constexpr, D: tl.constexpr, FF: tl.constexpr,
    LDX: tl.constexpr, LDD: tl.constexpr, LDF: tl.constexpr,
    SCALE1: tl.constexpr, SHIFT1: tl.constexpr, SCALE2: tl.constexpr, SHIFT2: tl.constexpr,
    WU: tl.constexpr, WD: tl.constexpr, BU: tl.constexpr, BD: tl.constexpr,
    EPSILON: tl.constexpr, PRE: tl.constexpr, FFN_BIASES: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, WIDE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    part = tl.program_id(0)
    scale: tl.constexpr = SCALE2 if PRE else SCALE1
    shift: tl.constexpr = SHIFT2 if PRE else SHIFT1
    s += m * N * LDX
    r += m * N * LDX
    dy += m * N * LDX
    dh += m * N * LDX
    first_param = weights + m * P
    first_grad = grads + (m * PARTS + part) * P
    clear(first_grad + SPLIT, SIZE - SPLIT, 1024)
    for start in range(part * SHARE, (part + 1) * SHARE, ROWS):
        # Another thread of this program may have written what this one now adds to.
        tl.debug_barrier()
        nothing = anew(live + m)
        weights = first_param + nothing
        grads = first_grad + nothing
        # not known beforehand, so that the chunks' loops are not unrolled
        stop = D + nothing if D > WIDE else D
        n = start + tl.arange(0, ROWS)
        n_in = n < N
        if not PRE:
            mean, rate = statistics(r, n, n_in, LDX, D, WIDE, EPSILON)
            norm_through(
                dy, r, n, n_in, mean, rate, weights + SCALE2, grads + SCALE2, grads + SHIFT2,
                LDX, D, WIDE,
            )  # fmt: skip
            tl.debug_barrier()
            for c in range(0, D, WIDE):
                dt = rows_of(dy, n, n_in, c, LDX, D, WIDE)
                put_rows(dh, dt, n, n_in, c, False, LDX, D, WIDE)
            tl.debug_barrier()
        mean, rate = statistics(s, n, n_in, LDX, D, WIDE, EPSILON)
        for f in range(0, FF, COLUMNS):
            up = tl.zeros((ROWS, COLUMNS), tl.float32)
            for c in range(0, stop, WIDE):
                h = normed(
                    s, n, n_in, c, mean, rate, weights + scale, weights + shift, LDX, D, WIDE, True
                )
                w = matrix(weights + WU, f, c, FF, D, LDD, COLUMNS, WIDE)
                up += product(h, tl.trans(w), PRECISION)
            if FFN_BIASES:
                up += vector(weights + BU, f, FF, COLUMNS)
            up, slope = activated(up, ACTIVATION)
            dz = tl.zeros((ROWS, COLUMNS), tl.float32)
            for c in range(0, stop, WIDE):
                dt = rows_of(dy, n, n_in, c, LDX, D, WIDE)
                dw = product(tl.trans(dt), up, PRECISION)
                add_matrix(grads + WD, dw, c, f, D, FF, LDF, WIDE, COLUMNS)
                w = matrix(weights + WD, c, f, D, FF, LDF, WIDE, COLUMNS)
                dz += product(dt, w, PRECISION)
            dz *= slope
            if FFN_BIASES:
                add_sums(grads + BU, dz, f, FF, COLUMNS)
            for c in range(0, stop, WIDE):
                h = normed(
                    s, n, n_in, c, mean, rate, weights + scale, weights + shift, LDX, D, WIDE, True
                )
                dw = product(tl.trans(dz), h, PRECISION)
                add_matrix(grads + WU, dw, f, c, FF, D, LDD, COLUMNS, WIDE)
                w = matrix(weights + WU, f, c, FF, D, LDD, COLUMNS, WIDE)
                again = (f > 0) | (not PRE)
                value = product(dz, w, PRECISION)
                put_rows(dh, value, n, n_in, c, again, LDX, D, WIDE)
        tl.debug_barrier()
        total, along = norm_gradients(
            dh, s, n, n_in, mean, rate, weights + scale, grads + scale, grads + shift, LDX, D, WIDE
        )
        tl.debug_barrier()
        for c in range(0, D, WIDE):
            ds = norm_back(
                dh, s, n, n_in, c, mean, rate, total, along, weights + scale, LDX, D, WIDE
            )
            dt = rows_of(dy, n, n_in, c, LDX, D, WIDE)
            if FFN_BIASES:
                add_sums(grads + BD, dt, c, D, WIDE)
            if PRE:
                ds += dt
            put_rows(dy, ds, n, n_in, c, False, LDX, D, WIDE)


@triton.jit
def attention_backward(
    x,  # [M, B T, LDX]
    weights,  # [M, P] from the layer's first tensor on
    ds,  # [M, N, LDX]
    dx,  # [M, B T, LDX]
    grads,  # [M, PARTS, P] from the layer's first tensor on
    live,  # [M]
    PARTS: tl.constexpr, SPLIT: tl.constexpr, SHARE: tl.constexpr,
    SEQUENCES: tl.constexpr, T: tl.constexpr, G: tl.constexpr, P: tl.constexpr,
    D: tl.constexpr, H: tl.constexpr, D_K: tl.constexpr, D_V: tl.constexpr,
    LDX: tl.constexpr, LDD: tl.constexpr, LDO: tl.constexpr,
    SCALE1: tl.constexpr, SHIFT1: tl.constexpr,
    WQ: tl.constexpr, WK: tl.constexpr, WV: tl.constexpr, WO: tl.constexpr,
    BQ: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BO: tl.constexpr,
    SOFTEN: tl.constexpr, EPSILON: tl.constexpr, PRE: tl.constexpr, LAST: tl.constexpr,
    CAUSAL: tl.constexpr, BIASES: tl.constexpr,
    PRECISION: tl.constexpr, INNER_PRECISION: tl.constexpr,
    Q_ROWS: tl.constexpr, K_ROWS: tl.constexpr, WIDE: tl.constexpr, WIDE_K: tl.constexpr,
    WIDE_V: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    part = tl.program_id(0)
    each: tl.constexpr = 1 if LAST else T
    x += m * SEQUENCES * T * LDX
    dx += m * SEQUENCES * T * LDX
    ds += m * SEQUENCES * each * LDX
    first_param = weights + m * P
    first_grad = grads + (m * PARTS + part) * P
    clear(first_grad, SPLIT, 1024)
    for group in range(part * SHARE, (part + 1) * SHARE):
        # Another thread of this program may have written what this one now adds to.
        tl.debug_barrier()
        nothing = anew(live + m)
        weights = first_param + nothing
        grads = first_grad + nothing
        i, j = tl.arange(0, Q_ROWS) + nothing, tl.arange(0, K_ROWS) + nothing
        q_at, k_at = group * G * each + i, group * G * T + j
        q_in = (i < G * each) & (q_at < SEQUENCES * each)
        k_in = (j < G * T) & (k_at < SEQUENCES * T)
        x_at = q_at * T + T - 1 if LAST else q_at

        k_mean = tl.zeros((K_ROWS,), tl.float32)
        k_rate = k_mean
        if PRE:
            k_mean, k_rate = statistics(x, k_at, k_in, LDX, D, WIDE, EPSILON)
        q_mean = tl.zeros((Q_ROWS,), tl.float32)
        q_rate = q_mean
        if PRE and LAST:
            q_mean, q_rate = statistics(x, x_at, q_in, LDX, D, WIDE, EPSILON)
        # not known beforehand, so that the chunks' loops are not unrolled
        stop = D + nothing if D > WIDE else D
        for head in range(H):
            at_k, at_v, at_o = head * D_K * LDD, head * D_V * LDD, head * D_V
            q, k, v = head_projections(
                x, k_at, k_in, k_mean, k_rate, x_at, q_in, q_mean, q_rate, weights, head, stop,
                D, D_K, D_V, LDX, LDD, SCALE1, SHIFT1, WQ, WK, WV, BQ, BK, BV, PRE, LAST, BIASES,
                PRECISION, Q_ROWS, K_ROWS, WIDE, WIDE_K, WIDE_V,
            )  # fmt: skip
            seen = sight(i[:, None], j[None, :], LAST, T, G, CAUSAL)
            weight = softmax_rows(product(q, tl.trans(k), INNER_PRECISION) * SOFTEN, seen)
            mixed = product(weight, v, INNER_PRECISION)
            d_mixed = tl.zeros((Q_ROWS, WIDE_V), tl.float32)
            for c in range(0, stop, WIDE):
                dt = rows_of(ds, q_at, q_in, c, LDX, D, WIDE)
                dw = product(tl.trans(dt), mixed, PRECISION)
                add_matrix(grads + WO + at_o, dw, c, 0, D, D_V, LDO, WIDE, WIDE_V)
                w = matrix(weights + WO + at_o, c, 0, D, D_V, LDO, WIDE, WIDE_V)
                d_mixed += product(dt, w, PRECISION)
            d_weight = product(d_mixed, tl.trans(v), INNER_PRECISION)
            dv = product(tl.trans(weight), d_mixed, INNER_PRECISION)
            along = tl.sum(weight * d_weight, axis=1)
            d_scores = weight * (d_weight - along[:, None]) * SOFTEN
            dq = product(d_scores, k, INNER_PRECISION)
            dk = product(tl.trans(d_scores), q, INNER_PRECISION)
            if BIASES:
                add_sums(grads + BQ + head * D_K, dq, 0, D_K, WIDE_K)
                add_sums(grads + BK + head * D_K, dk, 0, D_K, WIDE_K)
                add_sums(grads + BV + head * D_V, dv, 0, D_V, WIDE_V)
            tl.debug_barrier()
            nothing = anew(live + m)
            weights = first_param + nothing
            grads = first_grad + nothing
            for c in range(0, stop, WIDE):
                keyed = normed(
                    x, k_at, k_in, c, k_mean, k_rate, weights + SCALE1, weights + SHIFT1,
                    LDX, D, WIDE, PRE,
                )  # fmt: skip
                dw = product(tl.trans(dv), keyed, PRECISION)
                add_matrix(grads + WV + at_v, dw, 0, c, D_V, D, LDD, WIDE_V, WIDE)
                w = matrix(weights + WV + at_v, 0, c, D_V, D, LDD, WIDE_V, WIDE)
                d_rows = product(dv, w, PRECISION)
                dw = product(tl.trans(dk), keyed, PRECISION)
                add_matrix(grads + WK + at_k, dw, 0, c, D_K, D, LDD, WIDE_K, WIDE)
                w = matrix(weights + WK + at_k, 0, c, D_K, D, LDD, WIDE_K, WIDE)
                d_rows += product(dk, w, PRECISION)
                asking = keyed
                if LAST:
                    asking = normed(
                        x, x_at, q_in, c, q_mean, q_rate, weights + SCALE1, weights + SHIFT1,
                        LDX, D, WIDE, PRE,
                    )  # fmt: skip
                dw = product(tl.trans(dq), asking, PRECISION)
                add_matrix(grads + WQ + at_k, dw, 0, c, D_K, D, LDD, WIDE_K, WIDE)
                w = matrix(weights + WQ + at_k, 0, c, D_K, D, LDD, WIDE_K, WIDE)
                if LAST:
                    put_rows(dx, d_rows, k_at, k_in, c, head > 0, LDX, D, WIDE)
                    tl.debug_barrier()
                    d_rows = product(dq, w, PRECISION)
                    put_rows(dx, d_rows, x_at, q_in, c, True, LDX, D, WIDE)
                    tl.debug_barrier()
                else:
                    d_rows += product(dq, w, PRECISION)
                    put_rows(dx, d_rows, k_at, k_in, c, head > 0, LDX, D, WIDE)
        tl.debug_barrier()
        if PRE:
            norm_through(
                dx, x, k_at, k_in, k_mean, k_rate, weights + SCALE1, grads + SCALE1, grads + SHIFT1,
                LDX, D, WIDE,
            )  # fmt: skip
            tl.debug_barrier()
        for c in range(0, D, WIDE):
            dt = rows_of(ds, q_at, q_in, c, LDX, D, WIDE)
            if BIASES:
                add_sums(grads + BO, dt, c, D, WIDE)
            put_rows(dx, dt, x_at, q_in, c, True, LDX, D, WIDE)
