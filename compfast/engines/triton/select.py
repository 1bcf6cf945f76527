"""The last rows of each sequence: Y [M, B K, D] from X [M, B T, D], and their gradient's way back.

Row n of Y is row n // K T + T - K + n % K of X.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from compfast.engines.triton.launch import Launch, Rows

_SIZE = 1024


@triton.jit
def _forward(
    x,  # [M, B T, LDX]
    y,  # [M, N, LDY]
    live,
    N: tl.constexpr,
    D: tl.constexpr,
    T: tl.constexpr,
    K: tl.constexpr,
    SX: tl.constexpr,
    LDX: tl.constexpr,
    SY: tl.constexpr,
    LDY: tl.constexpr,
    SIZE: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    n, d = i // D, i % D
    row = n // K * T + (T - K) + n % K
    value = tl.load(x + m * SX + row * LDX + d, mask=n < N, other=0.0)
    tl.store(y + m * SY + n * LDY + d, value, mask=n < N)


@triton.jit
def _backward(
    dy,  # [M, N, LDY]
    dx,  # [M, B T, LDX]; added to
    live,
    N: tl.constexpr,
    D: tl.constexpr,
    T: tl.constexpr,
    K: tl.constexpr,
    SX: tl.constexpr,
    LDX: tl.constexpr,
    SY: tl.constexpr,
    LDY: tl.constexpr,
    SIZE: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    n, d = i // D, i % D
    at = m * SX + (n // K * T + (T - K) + n % K) * LDX + d
    value = tl.load(dy + m * SY + n * LDY + d, mask=n < N, other=0.0)
    value += tl.load(dx + at, mask=n < N, other=0.0)
    tl.store(dx + at, value, mask=n < N)


def forward(x: Rows, y: Rows, live: torch.Tensor) -> Launch:
    pointers = {"x": x.pointer, "y": y.pointer, "live": live}
    return Launch(_forward, _grid(y, live), pointers, _sizes(x, y))


def backward(dy: Rows, dx: Rows, live: torch.Tensor) -> Launch:
    """dX += dY at the rows that Y was taken from."""
    pointers = {"dy": dy.pointer, "dx": dx.pointer, "live": live}
    return Launch(_backward, _grid(dy, live), pointers, _sizes(dx, dy))


def _grid(y: Rows, live: torch.Tensor) -> tuple[int, int]:
    return triton.cdiv(y.count * y.width, _SIZE), len(live)


def _sizes(x: Rows, y: Rows) -> dict[str, Any]:
    return {
        "N": y.count,
        "D": y.width,
        "T": x.each,
        "K": y.each,
        "SX": x.stride,
        "LDX": x.ld,
        "SY": y.stride,
        "LDY": y.ld,
        "SIZE": _SIZE,
    }
