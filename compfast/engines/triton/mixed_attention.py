"""Generalised attention: other weights than softmax, values that a generated network makes.

Q [M, B EACH, H d_k], K [M, B T, H d_k], V [M, B T, H d_v], O [M, B EACH, H d_v]; heads side by
side, EACH is T or the last rows that are asked. Equations: csrc/attention_mixed.h; weights:
mixed_weights.py. One program holds one (member, sequence, block of query rows) with all heads'
weights in registers, [H, Q, K]; where heads do not meet, a group of them. What the generated
network makes of pairs of positions is walked column by column, [Q, K] at a time, or 16 at a time
on tensor cores (mixed_paths.py), so that [T, T, d_v] is never whole. Nothing is saved:
mixed_backward.py computes it again.
Source: Schug et al. 2024, arXiv 2406.05816.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl

from compfast.engines.triton.common import ATTENTION, LEAST, power, product
from compfast.engines.triton.launch import Launch, Rows
from compfast.engines.triton.mixed_paths import forward_columns
from compfast.engines.triton.mixed_weights import (
    column,
    columns,
    factors,
    put_column,
    put_columns,
    sight,
    weights,
)

TILE = 4096  # weights of a tile
LARGEST = 8192  # of a tile of as few query rows as there can be


@triton.jit
def relu(x):
    """NaN stays NaN: it is not below zero."""
    return tl.where(x <= 0.0, 0.0, x)


@triton.jit
def mixed_column(kept, v, k_at, h, k_in, c, LDV: tl.constexpr, D_V: tl.constexpr):
    """u [Q, K] of column c: what all heads' weights make of the values."""
    return tl.sum(kept * column(v, k_at, h, c, k_in, LDV, D_V)[:, None, :], axis=0)


@triton.jit
def second_layer(
    kept, v, deep, k_at, h, k_in, c,
    LDV: tl.constexpr, D_V: tl.constexpr, LDD: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """Column c of W2[h] relu(u), [H, Q, K]."""
    layer = tl.zeros_like(kept)
    for e in range(D_V):
        hidden = relu(mixed_column(kept, v, k_at, h, k_in, e, LDV, D_V))
        w = tl.load(deep + (h * D_V + c) * LDD + e, mask=h < HEADS, other=0.0)
        layer += w[:, None, None] * hidden[None, :, :]
    return layer


@triton.jit
def _forward(
    q,  # [M, B EACH, LDQ]
    k,  # [M, B T, LDK]
    v,  # [M, B T, LDV]
    o,  # [M, B EACH, LDO]
    relative,  # [M, H, LDR]
    buckets,  # [2 T - 1] int32: of the distance k - q, at k - q + T - 1
    keep,  # [M, T, T]
    deep,  # [M, H d_v, LDD]
    live,  # [M]
    T: tl.constexpr, EACH: tl.constexpr, HEADS: tl.constexpr, D_K: tl.constexpr,
    D_V: tl.constexpr, SQ: tl.constexpr, LDQ: tl.constexpr, SK: tl.constexpr, LDK: tl.constexpr,
    SV: tl.constexpr, LDV: tl.constexpr, SO: tl.constexpr, LDO: tl.constexpr, SP: tl.constexpr,
    LDR: tl.constexpr, LDD: tl.constexpr, S_KEEP: tl.constexpr, SCALE: tl.constexpr,
    EPSILON: tl.constexpr, SCORES: tl.constexpr, PATH: tl.constexpr, CAUSAL: tl.constexpr,
    RELATIVE: tl.constexpr, KEEP: tl.constexpr, TILES: tl.constexpr, H_ROWS: tl.constexpr,
    Q_ROWS: tl.constexpr, K_ROWS: tl.constexpr, DOT_K: tl.constexpr, DOT_V: tl.constexpr,
    INNER_K: tl.constexpr, INNER_V: tl.constexpr, PRECISION: tl.constexpr,
    DOT_PATH: tl.constexpr, INNER_PATH: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(2).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    b = tl.program_id(0) // TILES
    i, j = tl.program_id(0) % TILES * Q_ROWS + tl.arange(0, Q_ROWS), tl.arange(0, K_ROWS)
    h = tl.program_id(1) * H_ROWS + tl.arange(0, H_ROWS)
    seen = sight(i, j, T, EACH, CAUSAL)
    kept, _divisor = weights(
        q + m * SQ, k + m * SK, relative + m * SP, buckets, b, i, j, h, seen,
        T, EACH, HEADS, D_K, LDQ, LDK, LDR, SCALE, EPSILON, SCORES, RELATIVE,
        H_ROWS, Q_ROWS, K_ROWS, DOT_K, INNER_K, PRECISION,
    )  # fmt: skip
    if KEEP:
        kept *= factors(keep + m * S_KEEP, i, j, seen, T, EACH)[None, :, :]
    q_in, k_in = (h < HEADS)[:, None] & (i < EACH)[None, :], (h < HEADS)[:, None] & (j < T)[None, :]
    q_at, k_at = b * EACH + i, b * T + j
    v += m * SV
    o += m * SO
    if DOT_V:
        for start in range(0, D_V, INNER_V):
            out = product(kept, columns(v, k_at, h, start, k_in, LDV, D_V, INNER_V), PRECISION)
            put_columns(o, out, q_at, h, start, q_in, False, LDO, D_V, INNER_V)
    elif DOT_PATH:
        for start in range(0, D_V, INNER_PATH):
            forward_columns(
                kept, v, o, q_at, k_at, h, q_in, k_in, start,
                LDV, LDO, D_V, PATH, INNER_PATH, PRECISION,
            )  # fmt: skip
    else:
        for c in range(D_V):
            if PATH == "none":
                mixed = kept * column(v, k_at, h, c, k_in, LDV, D_V)[:, None, :]
            else:
                if PATH == "deep":
                    layer = second_layer(
                        kept, v, deep + m * SP, k_at, h, k_in, c, LDV, D_V, LDD, HEADS
                    )
                    value = tl.sum(kept * layer, axis=0)
                else:
                    value = mixed_column(kept, v, k_at, h, k_in, c, LDV, D_V)
                if PATH != "linear":
                    value = relu(value)
                mixed = kept * value[None, :, :]
            put_column(o, tl.sum(mixed, axis=2), q_at, h, c, q_in, False, LDO, D_V)


def forward(
    q: Rows,
    k: Rows,
    v: Rows,
    o: Rows,
    given: Mapping[str, torch.Tensor | None],
    live: torch.Tensor,
    **how: Any,
) -> Launch:
    """`given`: relative and deep, views into [M, P], buckets, and keep; None where there is none.
    `how` as in `constants_of`.
    """
    constants = constants_of(q, k, v, o, given, **how, paths=True)
    constants["INNER_PATH"] = LEAST
    pointers = {"q": q.pointer, "k": k.pointer, "v": v.pointer, "o": o.pointer}
    pointers |= pointers_of(given, live)
    grid = (k.count // k.each * constants["TILES"], groups(constants), len(live))
    return Launch(_forward, grid, pointers, constants, options(constants))


def pointers_of(
    given: Mapping[str, torch.Tensor | None], live: torch.Tensor
) -> dict[str, torch.Tensor]:
    found = {name: live if tensor is None else tensor for name, tensor in given.items()}
    return {**found, "live": live}


def groups(constants: Mapping[str, Any]) -> int:
    """Programs that share a sequence's heads."""
    return int(triton.cdiv(constants["HEADS"], constants["H_ROWS"]))


def options(constants: Mapping[str, Any]) -> dict[str, Any]:
    """A warp for each 512 numbers of a tile, at most 8."""
    tile = constants["H_ROWS"] * constants["Q_ROWS"] * constants["K_ROWS"]
    warps = max(1, min(8, tile // 512))
    return {"enable_fp_fusion": True, "num_warps": warps, "num_stages": 1, "maxnreg": 255}


def fits(heads: int, length: int, scores: str, path: str) -> bool:
    """Whether the weights of one query row fit a tile."""
    together = 1 if _apart(scores, path) else power(heads, 1)
    return together * power(length, 1) <= LARGEST


def _apart(scores: str, path: str) -> bool:
    """Whether no head meets another."""
    return scores != "rms_head" and path == "none"


def _tile(
    heads: int, length: int, each: int, wide: tuple[bool, bool], apart: bool
) -> tuple[int, int, int, bool]:
    """(heads, query rows, keys of a tile, whether its products are on tensor cores), the first
    three powers of two. `wide`: whether they may be there, keys' and values' of 16 columns."""
    together, keys, queries = power(heads, 1), power(length, 1), power(each, 1)
    if any(wide):
        tall, deep = power(queries, LEAST), power(keys, LEAST)
        rows = min(tall, max(LEAST, TILE // deep))
        if apart and rows * deep <= LARGEST:
            return max(1, min(together, TILE // (rows * deep))), rows, deep, True
        if not apart and together * LEAST * deep <= LARGEST:
            return together, max(LEAST, min(tall, TILE // (together * deep))), deep, True
    if apart:
        together = max(1, min(together, TILE // keys))
    return together, max(1, min(queries, TILE // (together * keys))), keys, False


def _path_tile(heads: int, length: int) -> tuple[int, int, int, bool] | None:
    """The tile of a value path on tensor cores, as `_tile`; None where it is too large.

    With 64 keys of 16 heads sm_100 spills in bf16 mode.
    """
    together, keys = power(heads), power(length)
    return (together, LEAST, keys, True) if together * LEAST * keys <= LARGEST else None


def constants_of(
    q: Rows,
    k: Rows,
    v: Rows,
    o: Rows,
    given: Mapping[str, torch.Tensor | None],
    *,
    heads: int,
    scores: str,
    path: str,
    causal: bool,
    epsilon: float,
    ld: tuple[int, int],
    precision: str,
    paths: bool = False,
) -> dict[str, Any]:
    """What the kernels here and in mixed_backward.py know; `ld`: of relative and deep; `paths`:
    whether a value path may be on tensor cores."""
    d_k, d_v = q.width // heads, v.width // heads
    # fp32 has no tensor cores, and fewer query rows than 16 would be padded
    able = precision != "fp32" and q.each >= LEAST
    wide = able and d_k >= LEAST, able and d_v >= LEAST and path == "none"
    tile = None
    if paths and able and d_v >= LEAST and path in ("linear", "relu"):
        tile = _path_tile(heads, k.each)
    along = {"DOT_PATH": tile is not None} if paths else {}
    h_rows, q_rows, k_rows, dot = tile or _tile(heads, k.each, q.each, wide, _apart(scores, path))
    table = next((x for x in (given["relative"], given["deep"]) if x is not None), None)
    keep = given["keep"]
    sizes: dict[str, Any] = {"T": k.each, "EACH": q.each, "HEADS": heads, "D_K": d_k, "D_V": d_v}
    for name, rows in zip("QKVO", (q, k, v, o), strict=True):
        sizes |= {f"S{name}": rows.stride, f"LD{name}": rows.ld}
    dots = {"DOT_K": dot and wide[0], "DOT_V": dot and wide[1], **along}
    return {
        **sizes,
        "SP": 0 if table is None else table.stride(0),
        "LDR": ld[0],
        "LDD": ld[1],
        "S_KEEP": 0 if keep is None else keep.stride(0),
        "SCALE": 1.0 / math.sqrt(d_k),
        "EPSILON": epsilon,
        "SCORES": scores,
        "PATH": path,
        "CAUSAL": causal,
        "RELATIVE": given["relative"] is not None,
        "KEEP": keep is not None,
        "TILES": triton.cdiv(q.each, q_rows),
        "H_ROWS": h_rows,
        "Q_ROWS": q_rows,
        "K_ROWS": k_rows,
        **dots,
        "INNER_K": min(32, power(d_k)),
        "INNER_V": min(32, power(d_v)),
        "PRECISION": ATTENTION[precision] if any(dots.values()) else "none",
    }
