"""The fused layer's backward, cut at S: kernels for its FFN half and its attention half.

block.py says what a layer is and launches them. A program owns one of PARTS stretches of rows, or
of groups of sequences, and adds its weight gradients up in place, so that their order is fixed.
"""

import triton
import triton.language as tl

from compfast.engines.triton.attention import sight, softmax_rows
from compfast.engines.triton.common import activated, normal_gradient, product, put
from compfast.engines.triton.tiles import (
    add_matrix,
    add_sums,
    anew,
    clear,
    matrix,
    put_rows,
    rows_of,
    scaled_normal,
    vector,
)


@triton.jit
def ffn_backward(
    params,  # [M, P] from the layer's first tensor on
    s,  # [M, N, LDX]
    r,  # [M, N, LDX]; post-norm
    dy,  # [M, N, LDX]: d loss/dY in, d loss/dS out
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
    d = tl.arange(0, WIDE)
    s += m * N * LDX
    r += m * N * LDX
    dy += m * N * LDX
    first_grad = grads + (m * PARTS + part) * P
    clear(first_grad + SPLIT, SIZE - SPLIT, 1024)
    for start in range(part * SHARE, (part + 1) * SHARE, ROWS):
        # Another thread of this program may have written what this one now adds to.
        tl.debug_barrier()
        nothing = anew(live + m)
        params_here = params + m * P + nothing
        grads_here = first_grad + nothing
        n = start + tl.arange(0, ROWS)
        n_in = n < N
        dt = rows_of(dy, n, n_in, LDX, D, WIDE)
        if not PRE:
            t = rows_of(r, n, n_in, LDX, D, WIDE)
            h, normal, rate = scaled_normal(
                t, params_here + SCALE2, params_here + SHIFT2, D, WIDE, EPSILON
            )
            add_sums(grads_here + SCALE2, dt * normal, D, WIDE)
            add_sums(grads_here + SHIFT2, dt, D, WIDE)
            dt = normal_gradient(dt * vector(params_here + SCALE2, D, WIDE), normal, rate, D)
        t = rows_of(s, n, n_in, LDX, D, WIDE)
        scale: tl.constexpr = SCALE2 if PRE else SCALE1
        shift: tl.constexpr = SHIFT2 if PRE else SHIFT1
        h, normal, rate = scaled_normal(
            t, params_here + scale, params_here + shift, D, WIDE, EPSILON
        )

        dh = tl.zeros((ROWS, WIDE), tl.float32)
        for column in range(0, FF, COLUMNS):
            c = column + tl.arange(0, COLUMNS)
            inside = (c < FF)[:, None] & (d < D)[None, :]
            at = c[:, None] * LDD + d[None, :]
            w = tl.load(params_here + WU + at, mask=inside, other=0.0)
            up = product(h, tl.trans(w), PRECISION)
            if FFN_BIASES:
                up += tl.load(params_here + BU + c, mask=c < FF, other=0.0)[None, :]
            up, slope = activated(up, ACTIVATION)
            d_inside = (d < D)[:, None] & (c < FF)[None, :]
            d_at = d[:, None] * LDF + c[None, :]
            put(grads_here + WD + d_at, product(tl.trans(dt), up, PRECISION), d_inside, True)
            w_down = tl.load(params_here + WD + d_at, mask=d_inside, other=0.0)
            dz = product(dt, w_down, PRECISION) * slope
            put(grads_here + WU + at, product(tl.trans(dz), h, PRECISION), inside, True)
            if FFN_BIASES:
                put(grads_here + BU + c, tl.sum(dz, axis=0), c < FF, True)
            # once more: kept from above it would cost registers
            w = tl.load(params_here + anew(live + m) + WU + at, mask=inside, other=0.0)
            dh += product(dz, w, PRECISION)
        if FFN_BIASES:
            add_sums(grads_here + BD, dt, D, WIDE)
        if not PRE:
            dh += dt
        add_sums(grads_here + scale, dh * normal, D, WIDE)
        add_sums(grads_here + shift, dh, D, WIDE)
        ds = normal_gradient(dh * vector(params_here + scale, D, WIDE), normal, rate, D)
        if PRE:
            ds += dt
        put_rows(dy, ds, n, n_in, LDX, D, WIDE, False)


@triton.jit
def attention_backward(
    x,  # [M, B T, LDX]
    params,  # [M, P] from the layer's first tensor on
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
    first_param = params + m * P
    first_grad = grads + (m * PARTS + part) * P
    clear(first_grad, SPLIT, 1024)
    for group in range(part * SHARE, (part + 1) * SHARE):
        # Another thread of this program may have written what this one now adds to.
        tl.debug_barrier()
        nothing = anew(live + m)
        params = first_param + nothing
        grads = first_grad + nothing
        i, j = tl.arange(0, Q_ROWS) + nothing, tl.arange(0, K_ROWS) + nothing
        q_at, k_at = group * G * each + i, group * G * T + j
        q_in = (i < G * each) & (q_at < SEQUENCES * each)
        k_in = (j < G * T) & (k_at < SEQUENCES * T)

        dt = rows_of(ds, q_at, q_in, LDX, D, WIDE)
        if BIASES:
            add_sums(grads + BO, dt, D, WIDE)
        keyed = rows_of(x, k_at, k_in, LDX, D, WIDE)
        asking = keyed
        if LAST:
            asking = rows_of(x, q_at * T + T - 1, q_in, LDX, D, WIDE)
        if PRE:
            keyed, _normal, _rate = scaled_normal(
                keyed, params + SCALE1, params + SHIFT1, D, WIDE, EPSILON
            )
            if LAST:
                asking, _normal, _rate = scaled_normal(
                    asking, params + SCALE1, params + SHIFT1, D, WIDE, EPSILON
                )
            else:
                asking = keyed
        dk_rows = tl.zeros((K_ROWS, WIDE), tl.float32)
        dq_rows = tl.zeros((Q_ROWS, WIDE), tl.float32)
        for head in range(H):
            at_k, at_v = head * D_K * LDD, head * D_V * LDD
            w = matrix(params + WQ + at_k, D_K, D, LDD, WIDE_K, WIDE)
            q = product(asking, tl.trans(w), PRECISION)
            w = matrix(params + WK + at_k, D_K, D, LDD, WIDE_K, WIDE)
            k = product(keyed, tl.trans(w), PRECISION)
            w = matrix(params + WV + at_v, D_V, D, LDD, WIDE_V, WIDE)
            v = product(keyed, tl.trans(w), PRECISION)
            if BIASES:
                q += vector(params + BQ + head * D_K, D_K, WIDE_K)
                k += vector(params + BK + head * D_K, D_K, WIDE_K)
                v += vector(params + BV + head * D_V, D_V, WIDE_V)
            seen = sight(i[:, None], j[None, :], LAST, T, G, CAUSAL)
            weight = softmax_rows(product(q, tl.trans(k), INNER_PRECISION) * SOFTEN, seen)
            mixed = product(weight, v, INNER_PRECISION)
            dw = product(tl.trans(dt), mixed, PRECISION)
            add_matrix(grads + WO + head * D_V, dw, D, D_V, LDO, WIDE, WIDE_V)
            w = matrix(params + WO + head * D_V, D, D_V, LDO, WIDE, WIDE_V)
            d_mixed = product(dt, w, PRECISION)
            d_weight = product(d_mixed, tl.trans(v), INNER_PRECISION)
            # each gradient goes to its weight and its rows before the next is made
            dv = product(tl.trans(weight), d_mixed, INNER_PRECISION)
            add_matrix(
                grads + WV + at_v, product(tl.trans(dv), keyed, PRECISION),
                D_V, D, LDD, WIDE_V, WIDE,
            )  # fmt: skip
            if BIASES:
                add_sums(grads + BV + head * D_V, dv, D_V, WIDE_V)
            # the weights once more: kept from above they would cost registers
            params = first_param + anew(live + m)
            w = matrix(params + WV + at_v, D_V, D, LDD, WIDE_V, WIDE)
            dk_rows += product(dv, w, PRECISION)
            along = tl.sum(weight * d_weight, axis=1)
            d_scores = weight * (d_weight - along[:, None]) * SOFTEN
            dq = product(d_scores, k, INNER_PRECISION)
            add_matrix(
                grads + WQ + at_k, product(tl.trans(dq), asking, PRECISION),
                D_K, D, LDD, WIDE_K, WIDE,
            )  # fmt: skip
            w = matrix(params + WQ + at_k, D_K, D, LDD, WIDE_K, WIDE)
            dq_rows += product(dq, w, PRECISION)
            dk = product(tl.trans(d_scores), q, INNER_PRECISION)
            add_matrix(
                grads + WK + at_k, product(tl.trans(dk), keyed, PRECISION),
                D_K, D, LDD, WIDE_K, WIDE,
            )  # fmt: skip
            w = matrix(params + WK + at_k, D_K, D, LDD, WIDE_K, WIDE)
            dk_rows += product(dk, w, PRECISION)
            if BIASES:
                add_sums(grads + BQ + head * D_K, dq, D_K, WIDE_K)
                add_sums(grads + BK + head * D_K, dk, D_K, WIDE_K)

        x_anew = x + anew(live + m)
        if LAST:
            if PRE:
                t = rows_of(x_anew, k_at, k_in, LDX, D, WIDE)
                _h, key_normal, key_rate = scaled_normal(
                    t, params + SCALE1, params + SHIFT1, D, WIDE, EPSILON
                )
                add_sums(grads + SCALE1, dk_rows * key_normal, D, WIDE)
                add_sums(grads + SHIFT1, dk_rows, D, WIDE)
                scale = vector(params + SCALE1, D, WIDE)
                dk_rows = normal_gradient(dk_rows * scale, key_normal, key_rate, D)
            put_rows(dx, dk_rows, k_at, k_in, LDX, D, WIDE, False)
            tl.debug_barrier()
        else:
            dq_rows += dk_rows
        if PRE:
            # read and normalised once more: kept over the heads it would cost registers
            if LAST:
                t = rows_of(x_anew, q_at * T + T - 1, q_in, LDX, D, WIDE)
            else:
                t = rows_of(x_anew, k_at, k_in, LDX, D, WIDE)
            h, normal, rate = scaled_normal(t, params + SCALE1, params + SHIFT1, D, WIDE, EPSILON)
            add_sums(grads + SCALE1, dq_rows * normal, D, WIDE)
            add_sums(grads + SHIFT1, dq_rows, D, WIDE)
            scale = vector(params + SCALE1, D, WIDE)
            dq_rows = normal_gradient(dq_rows * scale, normal, rate, D)
        dq_rows += dt
        if LAST:
            put_rows(dx, dq_rows, q_at * T + T - 1, q_in, LDX, D, WIDE, True)
        else:
            put_rows(dx, dq_rows, q_at, q_in, LDX, D, WIDE, False)
