"""Tiles of buffers and of parameters: what the kernels that fuse several ops read and write."""

import triton
import triton.language as tl

from compfast.engines.triton.common import normal_rows, put


@triton.jit
def rows_of(pointer, n, inside, LD: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr):
    """Rows n [R] of a buffer, [R, WIDE], zero outside."""
    d = tl.arange(0, WIDE)[None, :]
    return tl.load(pointer + n[:, None] * LD + d, mask=inside[:, None] & (d < D), other=0.0)


@triton.jit
def put_rows(
    pointer, value, n, inside,
    LD: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    d = tl.arange(0, WIDE)[None, :]
    put(pointer + n[:, None] * LD + d, value, inside[:, None] & (d < D), ADD)


@triton.jit
def vector(pointer, D: tl.constexpr, WIDE: tl.constexpr):
    """[1, WIDE]."""
    d = tl.arange(0, WIDE)[None, :]
    return tl.load(pointer + d, mask=d < D, other=0.0)


@triton.jit
def matrix(
    pointer, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    LD: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """[TALL, WIDE] with zeros past ROWS and COLUMNS."""
    r, c = tl.arange(0, TALL)[:, None], tl.arange(0, WIDE)[None, :]
    return tl.load(pointer + r * LD + c, mask=(r < ROWS) & (c < COLUMNS), other=0.0)


@triton.jit
def add_matrix(
    pointer, value, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    LD: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    r, c = tl.arange(0, TALL)[:, None], tl.arange(0, WIDE)[None, :]
    put(pointer + r * LD + c, value, (r < ROWS) & (c < COLUMNS), True)


@triton.jit
def add_sums(pointer, value, D: tl.constexpr, WIDE: tl.constexpr):
    """Add the column sums of value [R, WIDE]."""
    d = tl.arange(0, WIDE)
    put(pointer + d, tl.sum(value, axis=0), d < D, True)


@triton.jit
def clear(pointer, COUNT: tl.constexpr, SIZE: tl.constexpr):
    for start in range(0, COUNT, SIZE):
        i = start + tl.arange(0, SIZE)
        tl.store(pointer + i, tl.zeros((SIZE,), tl.float32), mask=i < COUNT)


@triton.jit
def anew(one):
    """0, from the address of a 1: what the compiler cannot know before it is in the loop.

    Else it computes the addresses of all weights before the loop and has no registers left.
    """
    return (tl.load(one, volatile=True) - 1) * 16


@triton.jit
def scaled_normal(x, scale, shift, D: tl.constexpr, WIDE: tl.constexpr, EPSILON: tl.constexpr):
    """(layer norm of x [R, WIDE], normal, rate)."""
    inside = tl.arange(0, WIDE)[None, :] < D
    normal, rate = normal_rows(x, inside, D, EPSILON)
    return normal * vector(scale, D, WIDE) + vector(shift, D, WIDE), normal, rate
