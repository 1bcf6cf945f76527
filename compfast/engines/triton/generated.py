"""A layer whose weight is a buffer, one matrix a sequence: Y[n] = act(W[n] x[n]), and dW.

W [M, N, H C], the rows of a matrix [H, C] side by side, one a sequence; x [M, N, C], the first C
numbers of one of the task's vectors; Y [M, N, H]. x is data: only W has a gradient,
dW[n, h, c] = dZ[n, h] x[n, c], dZ with act' in it (who reads Y multiplies by the slope).

No product here has columns for tensor cores: each matrix meets one vector, and each number of W is
read once. A program owns ROWS units of a member, whatever sequences they are of.
Source: Schug et al., arXiv 2407.12275.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from compfast.engines.triton.common import activated, power
from compfast.engines.triton.launch import Launch, Rows

_SIZE = 1024  # numbers of W of a tile


@triton.jit
def _forward(
    w,  # [M, N, LDW]
    x,  # [M, N T, LDX], of sequence n row n T + FIRST
    y,  # [M, N, LDY]
    slope,  # like y: act' of the sum, where there is an activation
    live,  # [M]
    UNITS: tl.constexpr,  # N H
    H: tl.constexpr,
    C: tl.constexpr,
    T: tl.constexpr,
    FIRST: tl.constexpr,
    SW: tl.constexpr,
    LDW: tl.constexpr,
    SX: tl.constexpr,
    LDX: tl.constexpr,
    SY: tl.constexpr,
    LDY: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n, h = i // H, i % H
    w_rows = w + m * SW + (n * LDW + h * C)[:, None]
    x_rows = x + m * SX + ((n * T + FIRST) * LDX)[:, None]
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, C, WIDE):
        c = start + tl.arange(0, WIDE)[None, :]
        inside = (i < UNITS)[:, None] & (c < C)
        a = tl.load(w_rows + c, mask=inside, other=0.0)
        total += tl.sum(a * tl.load(x_rows + c, mask=inside, other=0.0), axis=1)
    out = m * SY + n * LDY + h
    if ACTIVATION != "none":
        total, steep = activated(total, ACTIVATION)
        tl.store(slope + out, steep, mask=i < UNITS)
    tl.store(y + out, total, mask=i < UNITS)


@triton.jit
def _backward(
    dy,  # [M, N, LDY]: dZ
    x,  # [M, N T, LDX], of sequence n row n T + FIRST
    dw,  # [M, N, LDW]
    live,
    UNITS: tl.constexpr,
    H: tl.constexpr,
    C: tl.constexpr,
    T: tl.constexpr,
    FIRST: tl.constexpr,
    SW: tl.constexpr,
    LDW: tl.constexpr,
    SX: tl.constexpr,
    LDX: tl.constexpr,
    SY: tl.constexpr,
    LDY: tl.constexpr,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n, h = i // H, i % H
    w_rows = dw + m * SW + (n * LDW + h * C)[:, None]
    x_rows = x + m * SX + ((n * T + FIRST) * LDX)[:, None]
    dz = tl.load(dy + m * SY + n * LDY + h, mask=i < UNITS, other=0.0)
    for start in range(0, C, WIDE):
        c = start + tl.arange(0, WIDE)[None, :]
        inside = (i < UNITS)[:, None] & (c < C)
        each = dz[:, None] * tl.load(x_rows + c, mask=inside, other=0.0)
        tl.store(w_rows + c, each, mask=inside)


def forward(
    w: Rows,
    x: Rows,
    y: Rows,
    slope: Rows | None,
    live: torch.Tensor,
    *,
    columns: int,
    query: int,
    activation: str,
) -> Launch:
    """`x`: all the task's vectors; `query`: which of a sequence's, counted back from the last."""
    constants = _sizes(w, x, y, columns, query) | {"ACTIVATION": activation}
    pointers = {
        "w": w.pointer,
        "x": x.pointer,
        "y": y.pointer,
        "slope": y.pointer if slope is None else slope.pointer,
        "live": live,
    }
    return Launch(_forward, _grid(constants, live), pointers, constants)


def backward(
    dy: Rows, x: Rows, dw: Rows, live: torch.Tensor, *, columns: int, query: int
) -> Launch:
    """Writes dW; `dy` has the activation's slope in it."""
    constants = _sizes(dw, x, dy, columns, query)
    pointers = {"dy": dy.pointer, "x": x.pointer, "dw": dw.pointer, "live": live}
    return Launch(_backward, _grid(constants, live), pointers, constants)


def _grid(constants: dict[str, Any], live: torch.Tensor) -> tuple[int, int]:
    return triton.cdiv(constants["UNITS"], constants["ROWS"]), len(live)


def _sizes(w: Rows, x: Rows, y: Rows, columns: int, query: int) -> dict[str, Any]:
    wide = min(64, power(columns, 1))
    return {
        "UNITS": y.count * y.width,
        "H": y.width,
        "C": columns,
        "T": x.each,
        "FIRST": x.each - 1 - query,
        "SW": w.stride,
        "LDW": w.ld,
        "SX": x.stride,
        "LDX": x.ld,
        "SY": y.stride,
        "LDY": y.ld,
        "ROWS": _SIZE // wide,
        "WIDE": wide,
    }
