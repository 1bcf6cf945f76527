"""The gradients of generalised attention: see mixed_attention.py.

One program owns one (member, sequence), or a group of its heads, and passes over its query rows
in order; keys' and values' gradients are added up in memory, block after block. What a sequence
adds to the relative bias and to a deep path's second layer is left for mixed_sums.py. No atomics.

A value path's gradients are column by column in every precision: on tensor cores (the products of
mixed_paths.py turned round) a program holds weights, their gradient, u and its gradient of 16
columns at once, and with 8 heads and 32 keys spills 117 values on sm_90 and about 200 on sm_80 and
sm_100, with 16 warps more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl

from compfast.engines.triton.attention import put_or_add
from compfast.engines.triton.common import power, product
from compfast.engines.triton.launch import Launch, Rows
from compfast.engines.triton.mixed_attention import (
    constants_of,
    groups,
    mixed_column,
    options,
    pointers_of,
    relu,
    second_layer,
)
from compfast.engines.triton.mixed_weights import (
    column,
    columns,
    factors,
    products,
    put_column,
    put_columns,
    score_gradient,
    sight,
    weights,
)


@triton.jit
def _pick(stack, c, COUNT: tl.constexpr):
    """stack[c] of [COUNT, Q, K]."""
    chosen = (tl.arange(0, COUNT) == c)[:, None, None]
    return tl.sum(tl.where(chosen, stack, 0.0), axis=0)


@triton.jit
def _value_gradient(
    kept, d_kept, d_value, v, dv, k_at, h, k_in, c, again, LDV: tl.constexpr, D_V: tl.constexpr
):  # fmt: skip
    """From that of u, [Q, K], of column c: adds that of v up, returns that of the weights."""
    value = column(v, k_at, h, c, k_in, LDV, D_V)
    own = tl.sum(kept * d_value[None, :, :], axis=1)
    put_column(dv, own, k_at, h, c, k_in, again, LDV, D_V)
    return d_kept + value[:, None, :] * d_value[None, :, :]


@triton.jit
def _deep_gradient(
    kept, d_kept, v, dv, deep, d_deep, do, q_at, k_at, h, q_in, k_in, tile, again,
    HEADS: tl.constexpr, D_V: tl.constexpr, LDV: tl.constexpr, LDO: tl.constexpr,
    LDD: tl.constexpr, TILES: tl.constexpr, Q_ROWS: tl.constexpr, K_ROWS: tl.constexpr,
    VALUES: tl.constexpr,
):  # fmt: skip
    """Through the generated second layer; d_deep [H, d_v, d_v] of this sequence."""
    stack = tl.zeros((VALUES, Q_ROWS, K_ROWS), tl.float32)  # of the second layer's sums
    for c in range(D_V):
        layer = second_layer(kept, v, deep, k_at, h, k_in, c, LDV, D_V, LDD, HEADS)
        value = tl.sum(kept * layer, axis=0)
        d_out = column(do, q_at, h, c, q_in, LDO, D_V)[:, :, None]
        d_kept += d_out * relu(value)[None, :, :]
        d_value = tl.where(value <= 0.0, 0.0, tl.sum(kept * d_out, axis=0))
        d_kept += layer * d_value[None, :, :]
        stack = tl.where((tl.arange(0, VALUES) == c)[:, None, None], d_value[None, :, :], stack)
        d_layer = kept * d_value[None, :, :]
        for e in range(D_V):
            hidden = relu(mixed_column(kept, v, k_at, h, k_in, e, LDV, D_V))
            own = tl.sum(tl.sum(d_layer * hidden[None, :, :], axis=2), axis=1)
            put_or_add(d_deep + (h * D_V + c) * D_V + e, own, h < HEADS, tile, TILES)
    for e in range(D_V):
        hidden = mixed_column(kept, v, k_at, h, k_in, e, LDV, D_V)
        d_hidden = tl.zeros_like(hidden)
        for c in range(D_V):
            w = tl.load(deep + (h * D_V + c) * LDD + e, mask=h < HEADS, other=0.0)
            made = tl.sum(kept * w[:, None, None], axis=0)
            d_hidden += made * _pick(stack, c, VALUES)
        d_hidden = tl.where(hidden <= 0.0, 0.0, d_hidden)
        d_kept = _value_gradient(kept, d_kept, d_hidden, v, dv, k_at, h, k_in, e, again, LDV, D_V)
    return d_kept


@triton.jit
def _backward(
    do,  # [M, B EACH, LDO]
    q,  # [M, B EACH, LDQ]
    k,  # [M, B T, LDK]
    v,  # [M, B T, LDV]
    dq,  # like q
    dk,  # like k
    dv,  # like v
    relative,  # [M, H, LDR]
    buckets,  # [2 T - 1]
    keep,  # [M, T, T]
    deep,  # [M, H d_v, LDD]
    d_relative,  # [M, B, H, 2 K_ROWS]: of the distance k - q, at k - q + K_ROWS
    d_deep,  # [M, B, H d_v, d_v]
    live,  # [M]
    T: tl.constexpr, EACH: tl.constexpr, HEADS: tl.constexpr, D_K: tl.constexpr,
    D_V: tl.constexpr, SQ: tl.constexpr, LDQ: tl.constexpr, SK: tl.constexpr, LDK: tl.constexpr,
    SV: tl.constexpr, LDV: tl.constexpr, SO: tl.constexpr, LDO: tl.constexpr, SP: tl.constexpr,
    LDR: tl.constexpr, LDD: tl.constexpr, S_KEEP: tl.constexpr, SCALE: tl.constexpr,
    EPSILON: tl.constexpr, SCORES: tl.constexpr, PATH: tl.constexpr, CAUSAL: tl.constexpr,
    RELATIVE: tl.constexpr, KEEP: tl.constexpr, TILES: tl.constexpr, H_ROWS: tl.constexpr,
    Q_ROWS: tl.constexpr, K_ROWS: tl.constexpr, DOT_K: tl.constexpr, DOT_V: tl.constexpr,
    INNER_K: tl.constexpr, INNER_V: tl.constexpr, PRECISION: tl.constexpr, VALUES: tl.constexpr,
    SEQUENCES: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(2).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    b, j = tl.program_id(0), tl.arange(0, K_ROWS)
    h = tl.program_id(1) * H_ROWS + tl.arange(0, H_ROWS)
    known = (h < HEADS)[:, None]
    k_in, k_at = known & (j < T)[None, :], b * T + j
    q += m * SQ
    k += m * SK
    v += m * SV
    do += m * SO
    deep += m * SP
    dq += m * SQ
    dk += m * SK
    dv += m * SV
    d_deep += (m * SEQUENCES + b) * HEADS * D_V * D_V
    d_relative += (m * SEQUENCES + b) * HEADS * 2 * K_ROWS
    for tile in range(TILES):
        # Another thread of this program may have written what this one now adds to.
        tl.debug_barrier()
        again = tile > 0
        i = tile * Q_ROWS + tl.arange(0, Q_ROWS)
        q_in, q_at = known & (i < EACH)[None, :], b * EACH + i
        seen = sight(i, j, T, EACH, CAUSAL)
        weight, divisor = weights(
            q, k, relative + m * SP, buckets, b, i, j, h, seen,
            T, EACH, HEADS, D_K, LDQ, LDK, LDR, SCALE, EPSILON, SCORES, RELATIVE,
            H_ROWS, Q_ROWS, K_ROWS, DOT_K, INNER_K, PRECISION,
        )  # fmt: skip
        kept = weight
        if KEEP:
            factor = factors(keep + m * S_KEEP, i, j, seen, T, EACH)[None, :, :]
            kept = weight * factor
        if PATH == "none":
            d_kept = products(
                do, v, q_at, k_at, h, q_in, k_in, LDO, LDV, D_V,
                H_ROWS, Q_ROWS, K_ROWS, DOT_V, INNER_V, PRECISION,
            )  # fmt: skip
            if DOT_V:
                for start in range(0, D_V, INNER_V):
                    d_out = columns(do, q_at, h, start, q_in, LDO, D_V, INNER_V)
                    own = product(tl.permute(kept, (0, 2, 1)), d_out, PRECISION)
                    put_columns(dv, own, k_at, h, start, k_in, again, LDV, D_V, INNER_V)
            else:
                for c in range(D_V):
                    d_out = column(do, q_at, h, c, q_in, LDO, D_V)
                    own = tl.sum(kept * d_out[:, :, None], axis=1)
                    put_column(dv, own, k_at, h, c, k_in, again, LDV, D_V)
        else:
            d_kept = tl.zeros((H_ROWS, Q_ROWS, K_ROWS), tl.float32)
            if PATH == "deep":
                d_kept = _deep_gradient(
                    kept, d_kept, v, dv, deep, d_deep, do, q_at, k_at, h, q_in, k_in, tile, again,
                    HEADS, D_V, LDV, LDO, LDD, TILES, Q_ROWS, K_ROWS, VALUES,
                )  # fmt: skip
            else:
                for c in range(D_V):
                    value = mixed_column(kept, v, k_at, h, k_in, c, LDV, D_V)
                    d_out = column(do, q_at, h, c, q_in, LDO, D_V)[:, :, None]
                    d_value = tl.sum(kept * d_out, axis=0)
                    if PATH == "relu":
                        d_value = tl.where(value <= 0.0, 0.0, d_value)
                        value = relu(value)
                    d_kept += d_out * value[None, :, :]
                    d_kept = _value_gradient(
                        kept, d_kept, d_value, v, dv, k_at, h, k_in, c, again, LDV, D_V
                    )
        if KEEP:
            d_kept *= factor
        inside = known[:, :, None] & seen[None, :, :]
        d_scores = score_gradient(weight, divisor, d_kept, inside, SCORES, HEADS)
        if RELATIVE:
            # row i turned by its position: column p holds the key p places on, or K_ROWS less
            turned = tl.arange(0, K_ROWS)[None, :] + (i + (T - EACH))[:, None]
            source = tl.broadcast_to((turned % K_ROWS)[None, :, :], (H_ROWS, Q_ROWS, K_ROWS))
            apart = tl.gather(d_scores, source, 2)
            behind = (turned >= K_ROWS)[None, :, :]
            at = d_relative + h[:, None] * 2 * K_ROWS + tl.arange(0, K_ROWS)[None, :]
            every = known & (j >= 0)[None, :]
            before, after = tl.where(behind, apart, 0.0), tl.where(behind, 0.0, apart)
            put_or_add(at, tl.sum(before, axis=1), every, tile, TILES)
            put_or_add(at + K_ROWS, tl.sum(after, axis=1), every, tile, TILES)
        d_scores *= SCALE
        if DOT_K:
            for start in range(0, D_K, INNER_K):
                keys = columns(k, k_at, h, start, k_in, LDK, D_K, INNER_K)
                own = product(d_scores, keys, PRECISION)
                put_columns(dq, own, q_at, h, start, q_in, False, LDQ, D_K, INNER_K)
                asked = columns(q, q_at, h, start, q_in, LDQ, D_K, INNER_K)
                own = product(tl.permute(d_scores, (0, 2, 1)), asked, PRECISION)
                put_columns(dk, own, k_at, h, start, k_in, again, LDK, D_K, INNER_K)
        else:
            for c in range(D_K):
                keys = column(k, k_at, h, c, k_in, LDK, D_K)
                own = tl.sum(d_scores * keys[:, None, :], axis=2)
                put_column(dq, own, q_at, h, c, q_in, False, LDQ, D_K)
                asked = column(q, q_at, h, c, q_in, LDQ, D_K)
                own = tl.sum(d_scores * asked[:, :, None], axis=1)
                put_column(dk, own, k_at, h, c, k_in, again, LDK, D_K)


def backward(
    do: Rows,
    q: Rows,
    k: Rows,
    v: Rows,
    dq: Rows,
    dk: Rows,
    dv: Rows,
    sums: Mapping[str, torch.Tensor | None],
    given: Mapping[str, torch.Tensor | None],
    live: torch.Tensor,
    **how: Any,
) -> Launch:
    """Writes dq, dk and dv, which lie as q, k and v do; `sums`: those of relative and deep a
    sequence, by the names of what they are of. `given` and `how` as in `mixed_attention.forward`.
    """
    constants = constants_of(q, k, v, do, given, **how)
    constants["VALUES"] = power(constants["D_V"], 1)
    constants["SEQUENCES"] = k.count // k.each
    pointers = {
        "do": do.pointer,
        "q": q.pointer,
        "k": k.pointer,
        "v": v.pointer,
        "dq": dq.pointer,
        "dk": dk.pointer,
        "dv": dv.pointer,
        **pointers_of(given, live),
        **{f"d_{name}": live if each is None else each for name, each in sums.items()},
    }
    grid = (constants["SEQUENCES"], groups(constants), len(live))
    return Launch(_backward, grid, pointers, constants, options(constants))
