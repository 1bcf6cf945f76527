"""Generalised attention's weights, all heads of a tile at once, [H, Q, K] in registers.

h [H], i [Q] and j [K] are the heads, query rows and keys of a program's tile in sequence b; query
row i stands at position i + T - EACH. Heads, rows and keys past the last have weight 0. Where
tensor cores do not multiply, heads are walked column by column, a sum of outer products.
"""

import triton
import triton.language as tl

from compfast.engines.triton.common import product


@triton.jit
def column(pointer, n, h, c, inside, LD: tl.constexpr, D: tl.constexpr):
    """Column c of heads h at rows n [R] of a buffer, [H, R]."""
    return tl.load(pointer + n[None, :] * LD + h[:, None] * D + c, mask=inside, other=0.0)


@triton.jit
def columns(
    pointer, n, h, start, inside, LD: tl.constexpr, D: tl.constexpr, INNER: tl.constexpr
):  # fmt: skip
    """Columns [start, start + INNER) of heads h at rows n [R], [H, R, INNER]; zero past D."""
    c = start + tl.arange(0, INNER)
    at = n[None, :, None] * LD + h[:, None, None] * D + c[None, None, :]
    return tl.load(pointer + at, mask=inside[:, :, None] & (c < D)[None, None, :], other=0.0)


@triton.jit
def put_columns(
    pointer, value, n, h, start, inside, again,
    LD: tl.constexpr, D: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Store [H, R, INNER], or add to what is there where `again`."""
    c = start + tl.arange(0, INNER)
    at = pointer + n[None, :, None] * LD + h[:, None, None] * D + c[None, None, :]
    mask = inside[:, :, None] & (c < D)[None, None, :]
    value += tl.load(at, mask=mask & again, other=0.0)
    tl.store(at, value, mask=mask)


@triton.jit
def put_column(pointer, value, n, h, c, inside, again, LD: tl.constexpr, D: tl.constexpr):
    """Store [H, R] into column c of the heads, or add to what is there where `again`."""
    at = pointer + n[None, :] * LD + h[:, None] * D + c
    value += tl.load(at, mask=inside & again, other=0.0)
    tl.store(at, value, mask=inside)


@triton.jit
def sight(i, j, T: tl.constexpr, EACH: tl.constexpr, CAUSAL: tl.constexpr):
    """Which keys each query row sees, [Q, K]."""
    seen = (i < EACH)[:, None] & (j < T)[None, :]
    if CAUSAL:
        seen = seen & (j[None, :] <= (i + (T - EACH))[:, None])
    return seen


@triton.jit
def products(
    a, b, a_at, b_at, h, a_in, b_in,
    LDA: tl.constexpr, LDB: tl.constexpr, D: tl.constexpr, H_ROWS: tl.constexpr,
    A_ROWS: tl.constexpr, B_ROWS: tl.constexpr, DOT: tl.constexpr, INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Head by head A B^T over the D columns of a head, [H, A, B]."""
    total = tl.zeros((H_ROWS, A_ROWS, B_ROWS), tl.float32)
    if DOT:
        for start in range(0, D, INNER):
            x = columns(a, a_at, h, start, a_in, LDA, D, INNER)
            y = columns(b, b_at, h, start, b_in, LDB, D, INNER)
            total += product(x, tl.permute(y, (0, 2, 1)), PRECISION)
    else:
        for c in range(D):
            x = column(a, a_at, h, c, a_in, LDA, D)
            y = column(b, b_at, h, c, b_in, LDB, D)
            total += x[:, :, None] * y[:, None, :]
    return total


@triton.jit
def weights(
    q, k, relative, buckets, b, i, j, h, seen,
    T: tl.constexpr, EACH: tl.constexpr, HEADS: tl.constexpr, D_K: tl.constexpr,
    LDQ: tl.constexpr, LDK: tl.constexpr, LDR: tl.constexpr, SCALE: tl.constexpr,
    EPSILON: tl.constexpr, SCORES: tl.constexpr, RELATIVE: tl.constexpr, H_ROWS: tl.constexpr,
    Q_ROWS: tl.constexpr, K_ROWS: tl.constexpr, DOT: tl.constexpr, INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """(weights before dropout [H, Q, K], 1 / what rms_head divided the scores by [Q, K])."""
    known = (h < HEADS)[:, None]
    q_in, k_in = known & (i < EACH)[None, :], known & (j < T)[None, :]
    scores = products(
        q, k, b * EACH + i, b * T + j, h, q_in, k_in,
        LDQ, LDK, D_K, H_ROWS, Q_ROWS, K_ROWS, DOT, INNER, PRECISION,
    )  # fmt: skip
    scores *= SCALE
    inside = known[:, :, None] & seen[None, :, :]
    if RELATIVE:
        place = j[None, :] - i[:, None] + (EACH - 1)
        bucket = tl.load(buckets + place, mask=seen, other=0)
        at = relative + h[:, None, None] * LDR + bucket[None, :, :]
        scores += tl.load(at, mask=inside, other=0.0)
    divisor = tl.full((Q_ROWS, K_ROWS), 1.0, tl.float32)
    if SCORES == "softmax":
        scores = tl.where(inside, scores, float("-inf"))
        top = tl.max(scores, axis=2)
        top = tl.where(top == float("-inf"), 0.0, top)
        weight = tl.where(inside, tl.exp(scores - top[:, :, None]), 0.0)
        total = tl.sum(weight, axis=2)
        weight = weight / tl.where(total == 0.0, 1.0, total)[:, :, None]
    else:
        weight = tl.where(inside, scores, 0.0)
        if SCORES == "rms_head":
            square = tl.sum(weight * weight, axis=0) / HEADS
            divisor = tl.div_rn(1.0, tl.sqrt_rn(square + EPSILON))
            weight = weight * divisor[None, :, :]
    return weight, divisor


@triton.jit
def score_gradient(
    weight, divisor, d_weight, inside, SCORES: tl.constexpr, HEADS: tl.constexpr
):  # fmt: skip
    """That of the scores from that of the weights before dropout, [H, Q, K]."""
    if SCORES == "softmax":
        along = tl.sum(tl.where(inside, weight * d_weight, 0.0), axis=2)
        d_weight = weight * (d_weight - along[:, :, None])
    elif SCORES == "rms_head":
        along = tl.sum(tl.where(inside, weight * d_weight, 0.0), axis=0) / HEADS
        d_weight = (d_weight - weight * along[None, :, :]) * divisor[None, :, :]
    return tl.where(inside, d_weight, 0.0)


@triton.jit
def factors(keep, i, j, seen, T: tl.constexpr, EACH: tl.constexpr):
    """What dropout multiplies the weights of the tile by, [Q, K]."""
    at = (i + (T - EACH))[:, None] * T + j[None, :]
    return tl.load(keep + at, mask=seen, other=0.0)
