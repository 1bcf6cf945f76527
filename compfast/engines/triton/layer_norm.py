"""Layer norm of every member's rows: Y = (X - mean) / sqrt(var + eps) scale + shift.

X and Y [M, N, D], scale and shift [M, D], of which the shift may be left out. Backward recomputes
mean and variance; one program owns one of PARTS stretches of rows, writes dX there and adds up
scale and shift in order.
Source: Ba et al. 2016.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from compfast.engines.triton.common import normal_gradient, normal_rows, power, put
from compfast.engines.triton.launch import Launch, Rows


@triton.jit
def _forward(
    x,  # [M, ., LDX], row n at n X_STEP + X_FIRST
    scale,  # [M, D]
    shift,  # [M, D]
    y,  # [M, N, LDY]
    live,  # [M]
    N: tl.constexpr,
    D: tl.constexpr,
    SX: tl.constexpr,
    LDX: tl.constexpr,
    X_STEP: tl.constexpr,
    X_FIRST: tl.constexpr,
    SP: tl.constexpr,
    SY: tl.constexpr,
    LDY: tl.constexpr,
    EPSILON: tl.constexpr,
    SHIFT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    d = tl.arange(0, WIDE)[None, :]
    whole = (n < N) & (d < D)
    row = tl.load(x + m * SX + (n * X_STEP + X_FIRST) * LDX + d, mask=whole, other=0.0)
    normal, _rate = normal_rows(row, d < D, D, EPSILON)
    a = tl.load(scale + m * SP + d, mask=d < D, other=0.0)
    if SHIFT:
        b = tl.load(shift + m * SP + d, mask=d < D, other=0.0)
        tl.store(y + m * SY + n * LDY + d, normal * a + b, mask=whole)
    else:
        tl.store(y + m * SY + n * LDY + d, normal * a, mask=whole)


@triton.jit
def _backward(
    dy,  # [M, N, LDY]
    x,  # [M, ., LDX], row n at n X_STEP + X_FIRST
    scale,  # [M, D]
    dx,  # like x
    d_scale,  # [M, PARTS, D]
    d_shift,  # [M, PARTS, D]
    live,
    N: tl.constexpr,
    SHARE: tl.constexpr,
    D: tl.constexpr,
    SX: tl.constexpr,
    LDX: tl.constexpr,
    X_STEP: tl.constexpr,
    X_FIRST: tl.constexpr,
    SG: tl.constexpr,
    SP: tl.constexpr,
    SY: tl.constexpr,
    LDY: tl.constexpr,
    EPSILON: tl.constexpr,
    SHIFT: tl.constexpr,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    part = tl.program_id(0)
    d = tl.arange(0, WIDE)
    a = tl.load(scale + m * SP + d, mask=d < D, other=0.0)
    scales = tl.zeros((WIDE,), tl.float32)
    if SHIFT:
        shifts = tl.zeros((WIDE,), tl.float32)
    for start in range(0, SHARE, ROWS):
        n = (part * SHARE + start + tl.arange(0, ROWS))[:, None]
        whole = (n < N) & (d < D)[None, :]
        at = m * SX + (n * X_STEP + X_FIRST) * LDX + d[None, :]
        row = tl.load(x + at, mask=whole, other=0.0)
        g = tl.load(dy + m * SY + n * LDY + d[None, :], mask=whole, other=0.0)
        normal, rate = normal_rows(row, (d < D)[None, :], D, EPSILON)
        scales += tl.sum(g * normal, axis=0)
        if SHIFT:
            shifts += tl.sum(g, axis=0)
        out = normal_gradient(g * a[None, :], normal, rate, D)
        if ADD:
            out += tl.load(dx + at, mask=whole, other=0.0)
        tl.store(dx + at, out, mask=whole)
    base = m * SG + part * SP
    put(d_scale + base + d, scales, d < D, False)
    if SHIFT:
        put(d_shift + base + d, shifts, d < D, False)


def forward(
    x: Rows,
    scale: torch.Tensor,
    shift: torch.Tensor | None,
    y: Rows,
    live: torch.Tensor,
    *,
    epsilon: float,
) -> Launch:
    """scale and shift: views into the flat vectors [M, P]."""
    step, first = x.step_from(y)
    wide = power(y.width)
    constants = {
        "N": y.count,
        "D": y.width,
        "SX": x.stride,
        "LDX": x.ld,
        "X_STEP": step,
        "X_FIRST": first,
        "SP": scale.stride(0),
        "SY": y.stride,
        "LDY": y.ld,
        "EPSILON": epsilon,
        "SHIFT": shift is not None,
        "ROWS": _rows(wide),
        "WIDE": wide,
    }
    pointers = {
        "x": x.pointer,
        "scale": scale,
        "shift": scale if shift is None else shift,
        "y": y.pointer,
        "live": live,
    }
    return Launch(_forward, (triton.cdiv(y.count, _rows(wide)), len(live)), pointers, constants)


def backward(
    dy: Rows,
    x: Rows,
    scale: torch.Tensor,
    dx: Rows,
    d_scale: torch.Tensor,
    d_shift: torch.Tensor | None,
    live: torch.Tensor,
    *,
    epsilon: float,
    add: bool,
) -> Launch:
    """dX (+)= at the rows of X that Y was made from; partial sums into [M, PARTS, P] views."""
    step, first = x.step_from(dy)
    parts, wide = d_scale.shape[1], power(dy.width)
    constants = {
        "N": dy.count,
        "SHARE": triton.cdiv(dy.count, _rows(wide) * parts) * _rows(wide),
        "D": dy.width,
        "SX": x.stride,
        "LDX": x.ld,
        "X_STEP": step,
        "X_FIRST": first,
        "SG": d_scale.stride(0),
        "SP": d_scale.stride(1),
        "SY": dy.stride,
        "LDY": dy.ld,
        "EPSILON": epsilon,
        "SHIFT": d_shift is not None,
        "ADD": add,
        "ROWS": _rows(wide),
        "WIDE": wide,
    }
    pointers = {
        "dy": dy.pointer,
        "x": x.pointer,
        "scale": scale,
        "dx": dx.pointer,
        "d_scale": d_scale,
        "d_shift": d_scale if d_shift is None else d_shift,
        "live": live,
    }
    return Launch(_backward, (parts, len(live)), pointers, constants)


def _rows(wide: int) -> int:
    """Rows of a tile: 2,048 numbers, at least four rows."""
    return max(4, min(64, 2048 // wide))
