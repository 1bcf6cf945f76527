"""Small helpers of gradient buffers [M, N, D]: fill with zeros, add rows, multiply by slopes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from compfast.engines.triton.launch import Launch, Rows

_SIZE = 1024


@triton.jit
def _zero(x, live, STRIDE: tl.constexpr, SIZE: tl.constexpr):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(x + m * STRIDE + i, tl.zeros((SIZE,), tl.float32), mask=i < STRIDE)


@triton.jit
def _add(
    source,  # [M, N, LDS]
    x,  # [M, ., LDX], row n at n STEP + FIRST
    live,
    N: tl.constexpr,
    D: tl.constexpr,
    SS: tl.constexpr,
    LDS: tl.constexpr,
    SX: tl.constexpr,
    LDX: tl.constexpr,
    STEP: tl.constexpr,
    FIRST: tl.constexpr,
    SIZE: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    n, d = i // D, i % D
    at = m * SX + (n * STEP + FIRST) * LDX + d
    value = tl.load(source + m * SS + n * LDS + d, mask=n < N, other=0.0)
    value += tl.load(x + at, mask=n < N, other=0.0)
    tl.store(x + at, value, mask=n < N)


@triton.jit
def _multiply(
    x,  # [M, N, LDX]
    factor,  # [M, N, LDF]
    live,
    COUNT: tl.constexpr,  # N D
    D: tl.constexpr,
    SX: tl.constexpr,
    LDX: tl.constexpr,
    SF: tl.constexpr,
    LDF: tl.constexpr,
    SIZE: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    n, d = i // D, i % D
    at = m * SX + n * LDX + d
    value = tl.load(x + at, mask=i < COUNT, other=0.0)
    value *= tl.load(factor + m * SF + n * LDF + d, mask=i < COUNT, other=0.0)
    tl.store(x + at, value, mask=i < COUNT)


def zero(x: Rows, live: torch.Tensor) -> Launch:
    """The whole buffer, all columns."""
    grid = (triton.cdiv(x.stride, _SIZE), len(live))
    pointers = {"x": x.tensor, "live": live}
    return Launch(_zero, grid, pointers, {"STRIDE": x.stride, "SIZE": _SIZE})


def add(source: Rows, x: Rows, live: torch.Tensor) -> Launch:
    """x += source at the rows of x that `source` was made from."""
    step, first = x.step_from(source)
    constants = {
        "N": source.count,
        "D": source.width,
        "SS": source.stride,
        "LDS": source.ld,
        "SX": x.stride,
        "LDX": x.ld,
        "STEP": step,
        "FIRST": first,
        "SIZE": _SIZE,
    }
    grid = (triton.cdiv(source.count * source.width, _SIZE), len(live))
    pointers = {"source": source.pointer, "x": x.pointer, "live": live}
    return Launch(_add, grid, pointers, constants)


def multiply(x: Rows, factor: Rows, live: torch.Tensor) -> Launch:
    """x *= factor, number by number: a gradient by an activation's slope."""
    count = x.count * x.width
    constants = {
        "COUNT": count,
        "D": x.width,
        "SX": x.stride,
        "LDX": x.ld,
        "SF": factor.stride,
        "LDF": factor.ld,
        "SIZE": _SIZE,
    }
    pointers = {"x": x.pointer, "factor": factor.pointer, "live": live}
    return Launch(_multiply, (triton.cdiv(count, _SIZE), len(live)), pointers, constants)
