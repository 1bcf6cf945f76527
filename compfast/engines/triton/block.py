"""A whole transformer layer in one kernel forward and one backward, for narrow members.

X [M, B T, D] -> Y [M, N, D] with N = B T, or B where only each sequence's last row is asked.
    pre:  S = X + attention(norm1(X)),         Y = S + ffn(norm2(S))
    post: S = X + attention(X), U = norm1(S),  R = U + ffn(U), Y = norm2(R)
One program holds a group of whole sequences (as in attention.py) in registers and walks heads and
FFN columns. Forward leaves S (and R), from which backward computes the rest anew; a backward
program owns one of PARTS stretches of groups and adds its weight gradients up in place, group
after group, so that no order depends on what else runs.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from compfast.engines.layout import pad
from compfast.engines.triton.attention import group_of, sight, softmax_rows
from compfast.engines.triton.common import (
    ATTENTION,
    LINEAR,
    activated,
    normal_gradient,
    normal_rows,
    power,
    product,
    put,
)
from compfast.engines.triton.launch import Launch, Rows

_OPTIONS = {"enable_fp_fusion": True, "num_warps": 8}
_ROWS = 32  # of a tile of keys, more where one sequence is longer
WIDEST = 32  # of D, d_k and d_v; at 64 the backward kernel spills
LONGEST = 64  # positions


@triton.jit
def rows_of(pointer, n, inside, LD: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr):
    """Rows n [R] of a buffer, [R, WIDE], zero outside."""
    d = tl.arange(0, WIDE)[None, :]
    return tl.load(pointer + n[:, None] * LD + d, mask=inside[:, None] & (d < D), other=0.0)


@triton.jit
def put_rows(
    pointer, value, n, inside,
    LD: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    d = tl.arange(0, WIDE)[None, :]
    put(pointer + n[:, None] * LD + d, value, inside[:, None] & (d < D), ADD)


@triton.jit
def vector(pointer, D: tl.constexpr, WIDE: tl.constexpr):
    """[1, WIDE]."""
    d = tl.arange(0, WIDE)[None, :]
    return tl.load(pointer + d, mask=d < D, other=0.0)


@triton.jit
def matrix(
    pointer, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    LD: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """[TALL, WIDE] with zeros past ROWS and COLUMNS."""
    r, c = tl.arange(0, TALL)[:, None], tl.arange(0, WIDE)[None, :]
    return tl.load(pointer + r * LD + c, mask=(r < ROWS) & (c < COLUMNS), other=0.0)


@triton.jit
def add_matrix(
    pointer, value, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    LD: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    r, c = tl.arange(0, TALL)[:, None], tl.arange(0, WIDE)[None, :]
    put(pointer + r * LD + c, value, (r < ROWS) & (c < COLUMNS), True)


@triton.jit
def add_sums(pointer, value, D: tl.constexpr, WIDE: tl.constexpr):
    """Add the column sums of value [R, WIDE]."""
    d = tl.arange(0, WIDE)
    put(pointer + d, tl.sum(value, axis=0), d < D, True)


@triton.jit
def clear(pointer, COUNT: tl.constexpr, SIZE: tl.constexpr):
    for start in range(0, COUNT, SIZE):
        i = start + tl.arange(0, SIZE)
        tl.store(pointer + i, tl.zeros((SIZE,), tl.float32), mask=i < COUNT)


@triton.jit
def anew(one):
    """0, from the address of a 1: what the compiler cannot know before it is in the loop.

    Else it computes the addresses of all weights before the loop and has no registers left.
    """
    return (tl.load(one, volatile=True) - 1) * 16


@triton.jit
def scaled_normal(x, scale, shift, D: tl.constexpr, WIDE: tl.constexpr, EPSILON: tl.constexpr):
    """(layer norm of x [R, WIDE], normal, rate)."""
    inside = tl.arange(0, WIDE)[None, :] < D
    normal, rate = normal_rows(x, inside, D, EPSILON)
    return normal * vector(scale, D, WIDE) + vector(shift, D, WIDE), normal, rate


@triton.jit
def _forward(
    x,  # [M, B T, LDX]
    params,  # [M, P] from the layer's first tensor on
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
    x += m * SEQUENCES * T * LDX
    params += m * P
    out = m * SEQUENCES * each * LDX

    keyed = rows_of(x, k_at, k_in, LDX, D, WIDE)
    asking = keyed
    if LAST:
        asking = rows_of(x, q_at * T + T - 1, q_in, LDX, D, WIDE)
    total = asking
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
    seen = sight(i[:, None], j[None, :], LAST, T, G, CAUSAL)
    if BIASES:
        total += vector(params + BO, D, WIDE)
    for head in range(H):
        row = params + head * D_K * LDD
        q = product(asking, tl.trans(matrix(row + WQ, D_K, D, LDD, WIDE_K, WIDE)), PRECISION)
        k = product(keyed, tl.trans(matrix(row + WK, D_K, D, LDD, WIDE_K, WIDE)), PRECISION)
        row = params + head * D_V * LDD
        v = product(keyed, tl.trans(matrix(row + WV, D_V, D, LDD, WIDE_V, WIDE)), PRECISION)
        if BIASES:
            q += vector(params + BQ + head * D_K, D_K, WIDE_K)
            k += vector(params + BK + head * D_K, D_K, WIDE_K)
            v += vector(params + BV + head * D_V, D_V, WIDE_V)
        weight = softmax_rows(product(q, tl.trans(k), INNER_PRECISION) * SOFTEN, seen)
        mixed = product(weight, v, INNER_PRECISION)
        w = matrix(params + WO + head * D_V, D, D_V, LDO, WIDE, WIDE_V)
        total += product(mixed, tl.trans(w), PRECISION)
    put_rows(s + out, total, q_at, q_in, LDX, D, WIDE, False)

    if PRE:
        h, _normal, _rate = scaled_normal(total, params + SCALE2, params + SHIFT2, D, WIDE, EPSILON)
    else:
        h, _normal, _rate = scaled_normal(total, params + SCALE1, params + SHIFT1, D, WIDE, EPSILON)
        total = h
    if FFN_BIASES:
        total += vector(params + BD, D, WIDE)
    for start in range(0, FF, COLUMNS):
        c = start + tl.arange(0, COLUMNS)
        d = tl.arange(0, WIDE)
        at = params + WU + c[:, None] * LDD + d[None, :]
        w = tl.load(at, mask=(c < FF)[:, None] & (d < D)[None, :], other=0.0)
        up = product(h, tl.trans(w), PRECISION)
        if FFN_BIASES:
            up += tl.load(params + BU + c, mask=c < FF, other=0.0)[None, :]
        up, _slope = activated(up, ACTIVATION)
        at = params + WD + d[:, None] * LDF + c[None, :]
        w = tl.load(at, mask=(d < D)[:, None] & (c < FF)[None, :], other=0.0)
        total += product(up, tl.trans(w), PRECISION)
    if not PRE:
        put_rows(r + out, total, q_at, q_in, LDX, D, WIDE, False)
        total, _normal, _rate = scaled_normal(
            total, params + SCALE2, params + SHIFT2, D, WIDE, EPSILON
        )
    put_rows(y + out, total, q_at, q_in, LDX, D, WIDE, False)


@triton.jit
def _backward(
    x,  # [M, B T, LDX]
    params,  # [M, P] from the layer's first tensor on
    s,  # [M, N, LDX]
    r,  # [M, N, LDX]; post-norm
    dy,  # [M, N, LDX]
    dx,  # [M, B T, LDX]
    grads,  # [M, PARTS, P] from the layer's first tensor on
    live,  # [M]
    PARTS: tl.constexpr, SIZE: tl.constexpr, SHARE: tl.constexpr,
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
    part = tl.program_id(0)
    i, j = tl.arange(0, Q_ROWS), tl.arange(0, K_ROWS)
    d = tl.arange(0, WIDE)
    each: tl.constexpr = 1 if LAST else T
    x += m * SEQUENCES * T * LDX
    dx += m * SEQUENCES * T * LDX
    s += m * SEQUENCES * each * LDX
    r += m * SEQUENCES * each * LDX
    dy += m * SEQUENCES * each * LDX
    first_param = params + m * P
    first_grad = grads + (m * PARTS + part) * P
    clear(first_grad, SIZE, 1024)
    for group in range(part * SHARE, (part + 1) * SHARE):
        # Another thread of this program may have written what this one now adds to.
        tl.debug_barrier()
        nothing = anew(live + m)
        params = first_param + nothing
        grads = first_grad + nothing
        q_at, k_at = group * G * each + i, group * G * T + j
        q_in = (i < G * each) & (q_at < SEQUENCES * each)
        k_in = (j < G * T) & (k_at < SEQUENCES * T)

        dt = rows_of(dy, q_at, q_in, LDX, D, WIDE)
        if not PRE:
            t = rows_of(r, q_at, q_in, LDX, D, WIDE)
            h, normal, rate = scaled_normal(t, params + SCALE2, params + SHIFT2, D, WIDE, EPSILON)
            add_sums(grads + SCALE2, dt * normal, D, WIDE)
            add_sums(grads + SHIFT2, dt, D, WIDE)
            dt = normal_gradient(dt * vector(params + SCALE2, D, WIDE), normal, rate, D)
        t = rows_of(s, q_at, q_in, LDX, D, WIDE)
        if PRE:
            h, normal, rate = scaled_normal(t, params + SCALE2, params + SHIFT2, D, WIDE, EPSILON)
        else:
            h, normal, rate = scaled_normal(t, params + SCALE1, params + SHIFT1, D, WIDE, EPSILON)

        dh = tl.zeros((Q_ROWS, WIDE), tl.float32)
        for start in range(0, FF, COLUMNS):
            c = start + tl.arange(0, COLUMNS)
            inside = (c < FF)[:, None] & (d < D)[None, :]
            at = c[:, None] * LDD + d[None, :]
            w = tl.load(params + WU + at, mask=inside, other=0.0)
            up = product(h, tl.trans(w), PRECISION)
            if FFN_BIASES:
                up += tl.load(params + BU + c, mask=c < FF, other=0.0)[None, :]
            up, slope = activated(up, ACTIVATION)
            d_inside = (d < D)[:, None] & (c < FF)[None, :]
            d_at = d[:, None] * LDF + c[None, :]
            put(grads + WD + d_at, product(tl.trans(dt), up, PRECISION), d_inside, True)
            w_down = tl.load(params + WD + d_at, mask=d_inside, other=0.0)
            dz = product(dt, w_down, PRECISION) * slope
            put(grads + WU + at, product(tl.trans(dz), h, PRECISION), inside, True)
            if FFN_BIASES:
                put(grads + BU + c, tl.sum(dz, axis=0), c < FF, True)
            dh += product(dz, w, PRECISION)
        if FFN_BIASES:
            add_sums(grads + BD, dt, D, WIDE)
        if PRE:
            add_sums(grads + SCALE2, dh * normal, D, WIDE)
            add_sums(grads + SHIFT2, dh, D, WIDE)
            dt += normal_gradient(dh * vector(params + SCALE2, D, WIDE), normal, rate, D)
        else:
            dt += dh
            add_sums(grads + SCALE1, dt * normal, D, WIDE)
            add_sums(grads + SHIFT1, dt, D, WIDE)
            dt = normal_gradient(dt * vector(params + SCALE1, D, WIDE), normal, rate, D)

        # dt is now the gradient of S
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
        i_anew, j_anew = i + anew(live + m), j + anew(live + m)
        seen = sight(i_anew[:, None], j_anew[None, :], LAST, T, G, CAUSAL)
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
            weight = softmax_rows(product(q, tl.trans(k), INNER_PRECISION) * SOFTEN, seen)
            mixed = product(weight, v, INNER_PRECISION)
            w = matrix(params + WO + head * D_V, D, D_V, LDO, WIDE, WIDE_V)
            dw = product(tl.trans(dt), mixed, PRECISION)
            add_matrix(grads + WO + head * D_V, dw, D, D_V, LDO, WIDE, WIDE_V)
            d_mixed = product(dt, w, PRECISION)
            dv = product(tl.trans(weight), d_mixed, INNER_PRECISION)
            d_weight = product(d_mixed, tl.trans(v), INNER_PRECISION)
            along = tl.sum(weight * d_weight, axis=1)
            d_scores = weight * (d_weight - along[:, None]) * SOFTEN
            dq = product(d_scores, k, INNER_PRECISION)
            dk = product(tl.trans(d_scores), q, INNER_PRECISION)
            dw = product(tl.trans(dq), asking, PRECISION)
            add_matrix(grads + WQ + at_k, dw, D_K, D, LDD, WIDE_K, WIDE)
            dw = product(tl.trans(dk), keyed, PRECISION)
            add_matrix(grads + WK + at_k, dw, D_K, D, LDD, WIDE_K, WIDE)
            dw = product(tl.trans(dv), keyed, PRECISION)
            add_matrix(grads + WV + at_v, dw, D_V, D, LDD, WIDE_V, WIDE)
            if BIASES:
                add_sums(grads + BQ + head * D_K, dq, D_K, WIDE_K)
                add_sums(grads + BK + head * D_K, dk, D_K, WIDE_K)
                add_sums(grads + BV + head * D_V, dv, D_V, WIDE_V)
            # the weights once more: kept from above they would cost registers
            params = first_param + anew(live + m)
            w = matrix(params + WQ + at_k, D_K, D, LDD, WIDE_K, WIDE)
            dq_rows += product(dq, w, PRECISION)
            w = matrix(params + WK + at_k, D_K, D, LDD, WIDE_K, WIDE)
            dk_rows += product(dk, w, PRECISION)
            w = matrix(params + WV + at_v, D_V, D, LDD, WIDE_V, WIDE)
            dk_rows += product(dv, w, PRECISION)

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


class Layer:
    """Sizes and places of one layer's tensors; `params` and `gradients` begin at its first one.

    `offsets`: tensor name without the layer's prefix -> offset from there.
    """

    def __init__(
        self,
        model: Any,
        offsets: dict[str, int],
        size: int,
        length: int,
        *,
        last: bool,
        precision: str,
    ) -> None:
        self.size = size
        self.group, keys, queries = group_of(length, last, _ROWS)
        heads, d_k, d_v, ff = model.heads, model.d_k, model.d_v, model.d_ff
        self.constants: dict[str, Any] = {
            "T": length,
            "G": self.group,
            "D": model.d_model,
            "H": heads,
            "D_K": d_k,
            "D_V": d_v,
            "FF": ff,
            "LDX": pad(model.d_model),
            "LDD": pad(model.d_model),
            "LDO": pad(heads * d_v),
            "LDF": pad(ff),
            **{key: offsets.get(name, 0) for key, name in _PLACES.items()},
            "SOFTEN": 1.0 / math.sqrt(d_k),
            "EPSILON": model.norm_eps,
            "PRE": model.norm == "pre",
            "LAST": last,
            "CAUSAL": model.causal,
            "BIASES": model.attention_bias,
            "FFN_BIASES": model.ffn_bias,
            "ACTIVATION": model.activation,
            "PRECISION": LINEAR[precision],
            "INNER_PRECISION": ATTENTION[precision],
            "Q_ROWS": queries,
            "K_ROWS": keys,
            "WIDE": power(model.d_model),
            "WIDE_K": power(d_k),
            "WIDE_V": power(d_v),
            "COLUMNS": min(64, power(ff)),
        }

    def forward(
        self, x: Rows, params: torch.Tensor, s: Rows, r: Rows, y: Rows, live: torch.Tensor
    ) -> Launch:
        sequences = x.count // x.each
        pointers = {
            "x": x.pointer,
            "params": params,
            "s": s.pointer,
            "r": r.pointer,
            "y": y.pointer,
            "live": live,
        }
        constants = {**self.constants, "SEQUENCES": sequences, "P": params.stride(0)}
        grid = (triton.cdiv(sequences, self.group), len(live))
        return Launch(_forward, grid, pointers, constants, _OPTIONS)

    def backward(
        self,
        x: Rows,
        params: torch.Tensor,
        s: Rows,
        r: Rows,
        dy: Rows,
        dx: Rows,
        gradients: torch.Tensor,
        live: torch.Tensor,
    ) -> Launch:
        sequences, parts = x.count // x.each, gradients.shape[1]
        pointers = {
            "x": x.pointer,
            "params": params,
            "s": s.pointer,
            "r": r.pointer,
            "dy": dy.pointer,
            "dx": dx.pointer,
            "grads": gradients,
            "live": live,
        }
        constants = {
            **self.constants,
            "SEQUENCES": sequences,
            "P": params.stride(0),
            "PARTS": parts,
            "SIZE": self.size,
            "SHARE": triton.cdiv(sequences, self.group * parts),
        }
        return Launch(_backward, (parts, len(live)), pointers, constants, _OPTIONS)


_PLACES = {
    "SCALE1": "norm1.weight",
    "SHIFT1": "norm1.bias",
    "SCALE2": "norm2.weight",
    "SHIFT2": "norm2.bias",
    "WQ": "attention.query.weight",
    "WK": "attention.key.weight",
    "WV": "attention.value.weight",
    "WO": "attention.output.weight",
    "BQ": "attention.query.bias",
    "BK": "attention.key.bias",
    "BV": "attention.value.bias",
    "BO": "attention.output.bias",
    "WU": "ffn.up.weight",
    "WD": "ffn.down.weight",
    "BU": "ffn.up.bias",
    "BD": "ffn.down.bias",
}
