"""Value paths on tensor cores, forward: what a generated network makes of pairs, 16 columns at a
time.

Pair (q, k) of positions has a network of its own, made of its heads' weights a[:, q, k]; but for
one key all queries read the same values, and for one query all heads read the same hidden columns:

    u[k]   = a[:, :, k]^T V[:, k]    [Q, H] by [H, C], a product for each key k
    O[q]   = a[:, q, :]   f(u)[q]    [H, K] by [K, C], a product for each query q

C columns are walked at a time, so that [T, T, d_v] is never whole. Heads are padded to 16, which a
product's inner axis wants. Of the paths linear and relu; a deep path's second layer has for each
pair another matrix, sum_h a[h, q, k] W[h], and one vector: that is no product of matrices, and
mixed_attention.py walks it column by column. So are all gradients: see mixed_backward.py.
"""

import triton
import triton.language as tl

from compfast.engines.triton.common import product
from compfast.engines.triton.mixed_weights import columns, put_columns


@triton.jit
def bent(x, PATH: tl.constexpr):
    """f(u); NaN stays NaN: it is not below zero."""
    if PATH == "relu":
        x = tl.where(x <= 0.0, 0.0, x)
    return x


@triton.jit
def forward_columns(
    kept, v, o, q_at, k_at, h, q_in, k_in, start,
    LDV: tl.constexpr, LDO: tl.constexpr, D_V: tl.constexpr, PATH: tl.constexpr,
    INNER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Columns [start, start + INNER) of the output; `kept` [H, Q, K], what weighs the values."""
    values = columns(v, k_at, h, start, k_in, LDV, D_V, INNER)  # [H, K, C]
    by_key = tl.permute(kept, (2, 1, 0))  # [K, Q, H]
    u = product(by_key, tl.permute(values, (1, 0, 2)), PRECISION)  # [K, Q, C]
    hidden = tl.permute(bent(u, PATH), (1, 0, 2))  # [Q, K, C]
    out = product(tl.permute(kept, (1, 0, 2)), hidden, PRECISION)  # [Q, H, C]
    put_columns(o, tl.permute(out, (1, 0, 2)), q_at, h, start, q_in, False, LDO, D_V, INNER)
