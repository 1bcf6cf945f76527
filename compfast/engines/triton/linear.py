"""Batched-ensemble linear: Y = act(X W^T + b) + R for every member, and its two gradients.

X [M, N, D_in], W [M, D_out, ld] (ld = D_in padded to 16 with zeros), b [M, D_out],
R and Y [M, N, D_out]. A buffer with more rows a sequence than Y is read at each sequence's last.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from compfast.engines.triton.common import LINEAR, activated, power, product, put
from compfast.engines.triton.launch import Launch, Rows, roomy


@triton.jit
def _forward(
    x,  # [M, ., LDX], row n at n X_STEP + X_FIRST
    weight,  # [M, D_OUT, LDW]
    bias,  # [M, D_OUT]
    residual,  # [M, ., LDR]
    y,  # [M, N, LDY]
    slope,  # [M, N, LDY]: act' of the sum, where there is an activation
    live,  # [M]
    N: tl.constexpr,
    D_IN: tl.constexpr,
    D_OUT: tl.constexpr,
    SX: tl.constexpr,
    LDX: tl.constexpr,
    X_STEP: tl.constexpr,
    X_FIRST: tl.constexpr,
    SP: tl.constexpr,
    LDW: tl.constexpr,
    SR: tl.constexpr,
    LDR: tl.constexpr,
    R_STEP: tl.constexpr,
    R_FIRST: tl.constexpr,
    SY: tl.constexpr,
    LDY: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
):
    m = tl.program_id(2).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    o = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)  # [COLUMNS]
    k = tl.arange(0, INNER)
    x_rows = x + m * SX + (n * X_STEP + X_FIRST) * LDX
    w_rows = weight + m * SP + o[None, :] * LDW
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, D_IN, INNER):
        inner = start + k
        a = tl.load(x_rows + inner[None, :], mask=(n < N) & (inner[None, :] < D_IN), other=0.0)
        inside = (inner[:, None] < D_IN) & (o[None, :] < D_OUT)
        b = tl.load(w_rows + inner[:, None], mask=inside, other=0.0)  # W^T
        total += product(a, b, PRECISION)
    whole = (n < N) & (o[None, :] < D_OUT)
    if BIAS:
        total += tl.load(bias + m * SP + o, mask=o < D_OUT, other=0.0)[None, :]
    out = m * SY + n * LDY + o[None, :]
    if ACTIVATION != "none":
        total, steep = activated(total, ACTIVATION)
        tl.store(slope + out, steep, mask=whole)
    if RESIDUAL:
        r_rows = residual + m * SR + (n * R_STEP + R_FIRST) * LDR
        total += tl.load(r_rows + o[None, :], mask=whole, other=0.0)
    tl.store(y + out, total, mask=whole)


@triton.jit
def _input_gradient(
    dy,  # [M, N, LDY]
    weight,  # [M, D_OUT, LDW]
    slope,  # like dx: act' of the op that made X
    dx,  # [M, ., LDX], row n at n X_STEP + X_FIRST
    live,
    N: tl.constexpr,
    D_IN: tl.constexpr,
    D_OUT: tl.constexpr,
    SX: tl.constexpr,
    LDX: tl.constexpr,
    X_STEP: tl.constexpr,
    X_FIRST: tl.constexpr,
    SP: tl.constexpr,
    LDW: tl.constexpr,
    SY: tl.constexpr,
    LDY: tl.constexpr,
    SLOPE: tl.constexpr,
    ADD: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
):
    m = tl.program_id(2).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    i = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    k = tl.arange(0, INNER)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, D_OUT, INNER):
        inner = start + k
        inside = (n < N) & (inner[None, :] < D_OUT)
        a = tl.load(dy + m * SY + n * LDY + inner[None, :], mask=inside, other=0.0)
        inside = (inner[:, None] < D_OUT) & (i < D_IN)
        b = tl.load(weight + m * SP + inner[:, None] * LDW + i, mask=inside, other=0.0)
        total += product(a, b, PRECISION)
    whole = (n < N) & (i < D_IN)
    out = m * SX + (n * X_STEP + X_FIRST) * LDX + i
    if SLOPE:
        total *= tl.load(slope + out, mask=whole, other=0.0)
    if ADD:
        total += tl.load(dx + out, mask=whole, other=0.0)
    tl.store(dx + out, total, mask=whole)


@triton.jit
def _weight_gradient(
    dy,  # [M, N, LDY]
    x,  # [M, ., LDX], row n at n X_STEP + X_FIRST
    d_weight,  # [M, PARTS, D_OUT, LDW]
    d_bias,  # [M, PARTS, D_OUT]
    live,
    N: tl.constexpr,
    SHARE: tl.constexpr,
    D_IN: tl.constexpr,
    D_OUT: tl.constexpr,
    SX: tl.constexpr,
    LDX: tl.constexpr,
    X_STEP: tl.constexpr,
    X_FIRST: tl.constexpr,
    SG: tl.constexpr,
    SP: tl.constexpr,
    LDW: tl.constexpr,
    SY: tl.constexpr,
    LDY: tl.constexpr,
    BIAS: tl.constexpr,
    ADD: tl.constexpr,
    TILES_IN: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
):
    # dW = dY^T X and db = the column sums of dY, over the rows [part SHARE, (part + 1) SHARE)
    m = tl.program_id(2).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    part = tl.program_id(1)
    tile = tl.program_id(0) % TILES_IN
    o = tl.program_id(0) // TILES_IN * ROWS + tl.arange(0, ROWS)
    i = tile * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    sums = tl.zeros((ROWS,), tl.float32)
    for start in range(0, SHARE, INNER):
        n = part * SHARE + start + tl.arange(0, INNER)
        inside = (n < N)[:, None] & (o < D_OUT)[None, :]
        a = tl.load(dy + m * SY + n[:, None] * LDY + o[None, :], mask=inside, other=0.0)
        x_rows = x + m * SX + (n * X_STEP + X_FIRST)[:, None] * LDX
        inside = (n < N)[:, None] & (i < D_IN)[None, :]
        b = tl.load(x_rows + i[None, :], mask=inside, other=0.0)
        total += product(tl.trans(a), b, PRECISION)
        sums += tl.sum(a, axis=0)
    base = m * SG + part * SP
    # the row's padding is written too: products with masked columns are zero
    inside = (o < D_OUT)[:, None] & (i < LDW)[None, :]
    put(d_weight + base + o[:, None] * LDW + i[None, :], total, inside, ADD)
    if BIAS:
        put(d_bias + base + o, sums, o < tl.where(tile == 0, D_OUT, 0), ADD)


def forward(
    x: Rows,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: Rows | None,
    y: Rows,
    slope: Rows | None,
    live: torch.Tensor,
    *,
    ld: int,
    activation: str = "none",
    precision: str,
) -> Launch:
    """weight [M, >= D_out * ld] and bias [M, >= D_out]: views into the flat vectors [M, P]."""
    steps = x.step_from(y)
    r = y if residual is None else residual
    rows, columns = 64, min(64, power(y.width))
    constants: dict[str, Any] = {
        "N": y.count,
        "D_IN": x.width,
        "D_OUT": y.width,
        **_rows("X", x, steps),
        "SP": weight.stride(0),
        "LDW": ld,
        **_rows("R", r, r.step_from(y)),
        "SY": y.stride,
        "LDY": y.ld,
        "BIAS": bias is not None,
        "RESIDUAL": residual is not None,
        "ACTIVATION": activation,
        "PRECISION": LINEAR[precision],
        "ROWS": rows,
        "COLUMNS": columns,
        "INNER": min(32, power(x.width)),
    }
    pointers = {
        "x": x.pointer,
        "weight": weight,
        "bias": weight if bias is None else bias,
        "residual": r.pointer,
        "y": y.pointer,
        "slope": y.pointer if slope is None else slope.pointer,
        "live": live,
    }
    grid = (triton.cdiv(y.count, rows), triton.cdiv(y.width, columns), len(live))
    return Launch(_forward, grid, pointers, constants, roomy(4, 3))


def input_gradient(
    dy: Rows,
    weight: torch.Tensor,
    dx: Rows,
    slope: Rows | None,
    live: torch.Tensor,
    *,
    ld: int,
    add: bool,
    precision: str,
) -> Launch:
    """dX (+)= (dY W) * slope, at the rows of X that Y was made from."""
    columns = min(64, power(dx.width))
    rows = columns if columns == 64 else 32  # 64 by 32 spills on sm_100
    constants: dict[str, Any] = {
        "N": dy.count,
        "D_IN": dx.width,
        "D_OUT": dy.width,
        **_rows("X", dx, dx.step_from(dy)),
        "SP": weight.stride(0),
        "LDW": ld,
        "SY": dy.stride,
        "LDY": dy.ld,
        "SLOPE": slope is not None,
        "ADD": add,
        "PRECISION": LINEAR[precision],
        "ROWS": rows,
        "COLUMNS": columns,
        "INNER": min(32, power(dy.width)),
    }
    pointers = {
        "dy": dy.pointer,
        "weight": weight,
        "slope": dx.pointer if slope is None else slope.pointer,
        "dx": dx.pointer,
        "live": live,
    }
    grid = (triton.cdiv(dy.count, rows), triton.cdiv(dx.width, columns), len(live))
    # with 4 warps the fp32 tile spills a few values on sm_90
    options = roomy(8 if precision == "fp32" else 4, 3)
    return Launch(_input_gradient, grid, pointers, constants, options)


def weight_gradient(
    dy: Rows,
    x: Rows,
    d_weight: torch.Tensor,
    d_bias: torch.Tensor | None,
    live: torch.Tensor,
    *,
    ld: int,
    add: bool,
    precision: str,
) -> Launch:
    """Into views of the partial gradients [M, PARTS, P]; `add` for a tensor's second use."""
    parts = d_weight.shape[1]
    rows, columns, inner = min(64, power(dy.width)), min(64, power(x.width)), 32
    tiles = triton.cdiv(ld, columns)
    constants: dict[str, Any] = {
        "N": dy.count,
        "SHARE": share(dy.count, parts),
        "D_IN": x.width,
        "D_OUT": dy.width,
        **_rows("X", x, x.step_from(dy)),
        "SG": d_weight.stride(0),
        "SP": d_weight.stride(1),
        "LDW": ld,
        "SY": dy.stride,
        "LDY": dy.ld,
        "BIAS": d_bias is not None,
        "ADD": add,
        "TILES_IN": tiles,
        "PRECISION": LINEAR[precision],
        "ROWS": rows,
        "COLUMNS": columns,
        "INNER": inner,
    }
    pointers = {
        "dy": dy.pointer,
        "x": x.pointer,
        "d_weight": d_weight,
        "d_bias": d_weight if d_bias is None else d_bias,
        "live": live,
    }
    grid = (triton.cdiv(dy.width, rows) * tiles, parts, len(live))
    # fp32's tile does without, and asked for all registers ptxas spills a few of it on sm_80
    options = {"enable_fp_fusion": True} if precision == "fp32" else roomy(4, 3)
    return Launch(_weight_gradient, grid, pointers, constants, options)


def share(rows: int, parts: int) -> int:
    """Rows of one of `parts` equal partial sums: a multiple of 32, so that tiles do not overlap."""
    return triton.cdiv(rows, 32 * parts) * 32


def _rows(letter: str, rows: Rows, steps: tuple[int, int]) -> dict[str, int]:
    step, first = steps
    return {
        f"S{letter}": rows.stride,
        f"LD{letter}": rows.ld,
        f"{letter}_STEP": step,
        f"{letter}_FIRST": first,
    }
