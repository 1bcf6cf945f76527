"""What the fused layer's forward and its attention half backward share."""

import triton
import triton.language as tl

from compfast.engines.triton.common import product
from compfast.engines.triton.tiles import matrix, normed, vector


@triton.jit
def head_projections(
    x, k_at, k_in, k_mean, k_rate, x_at, q_in, q_mean, q_rate, params, head, stop,
    D: tl.constexpr, D_K: tl.constexpr, D_V: tl.constexpr, LDX: tl.constexpr, LDD: tl.constexpr,
    SCALE1: tl.constexpr, SHIFT1: tl.constexpr,
    WQ: tl.constexpr, WK: tl.constexpr, WV: tl.constexpr,
    BQ: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRE: tl.constexpr, LAST: tl.constexpr, BIASES: tl.constexpr, PRECISION: tl.constexpr,
    Q_ROWS: tl.constexpr, K_ROWS: tl.constexpr, WIDE: tl.constexpr, WIDE_K: tl.constexpr,
    WIDE_V: tl.constexpr,
):  # fmt: skip
    """One head's queries of rows x_at [Q_ROWS, WIDE_K], keys [K_ROWS, WIDE_K] and values
    [K_ROWS, WIDE_V] of rows k_at, from X or its norm; columns of X up to `stop`, in chunks."""
    at_k, at_v = params + head * D_K * LDD, params + head * D_V * LDD
    q = tl.zeros((Q_ROWS, WIDE_K), tl.float32)
    k = tl.zeros((K_ROWS, WIDE_K), tl.float32)
    v = tl.zeros((K_ROWS, WIDE_V), tl.float32)
    for c in range(0, stop, WIDE):
        keyed = normed(
            x, k_at, k_in, c, k_mean, k_rate, params + SCALE1, params + SHIFT1, LDX, D, WIDE, PRE
        )
        asking = keyed
        if LAST:
            asking = normed(
                x, x_at, q_in, c, q_mean, q_rate, params + SCALE1, params + SHIFT1,
                LDX, D, WIDE, PRE,
            )  # fmt: skip
        w = matrix(at_k + WQ, 0, c, D_K, D, LDD, WIDE_K, WIDE)
        q += product(asking, tl.trans(w), PRECISION)
        w = matrix(at_k + WK, 0, c, D_K, D, LDD, WIDE_K, WIDE)
        k += product(keyed, tl.trans(w), PRECISION)
        w = matrix(at_v + WV, 0, c, D_V, D, LDD, WIDE_V, WIDE)
        v += product(keyed, tl.trans(w), PRECISION)
    if BIASES:
        q += vector(params + BQ + head * D_K, 0, D_K, WIDE_K)
        k += vector(params + BK + head * D_K, 0, D_K, WIDE_K)
        v += vector(params + BV + head * D_V, 0, D_V, WIDE_V)
    return q, k, v
