"""Tiles of buffers and of parameters: what the kernels that fuse several ops read and write.

Widths are walked in chunks of WIDE columns from `start` on, so that what a program holds does not
grow with the network. What one thread writes, another may read after `tl.debug_barrier()`.
"""

import triton
import triton.language as tl

from compfast.engines.triton.common import put


@triton.jit
def rows_of(
    pointer, n, inside, start, LD: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    """Rows n [R] of a buffer, [R, WIDE], zero outside."""
    c = start + tl.arange(0, WIDE)[None, :]
    return tl.load(pointer + n[:, None] * LD + c, mask=inside[:, None] & (c < D), other=0.0)


@triton.jit
def put_rows(
    pointer, value, n, inside, start, again,
    LD: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Store, or add to what is there where `again`."""
    c = start + tl.arange(0, WIDE)[None, :]
    at, mask = pointer + n[:, None] * LD + c, inside[:, None] & (c < D)
    value += tl.load(at, mask=mask & again, other=0.0)
    tl.store(at, value, mask=mask)


@triton.jit
def vector(pointer, start, D: tl.constexpr, WIDE: tl.constexpr):
    """[1, WIDE]."""
    c = start + tl.arange(0, WIDE)[None, :]
    return tl.load(pointer + c, mask=c < D, other=0.0)


@triton.jit
def matrix(
    pointer, row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    LD: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """[TALL, WIDE] from (row, column) on, with zeros past ROWS and COLUMNS."""
    r, c = row + tl.arange(0, TALL)[:, None], column + tl.arange(0, WIDE)[None, :]
    return tl.load(pointer + r * LD + c, mask=(r < ROWS) & (c < COLUMNS), other=0.0)


@triton.jit
def add_matrix(
    pointer, value, row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    LD: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    r, c = row + tl.arange(0, TALL)[:, None], column + tl.arange(0, WIDE)[None, :]
    put(pointer + r * LD + c, value, (r < ROWS) & (c < COLUMNS), True)


@triton.jit
def add_sums(pointer, value, start, D: tl.constexpr, WIDE: tl.constexpr):
    """Add the column sums of value [R, WIDE]."""
    c = start + tl.arange(0, WIDE)
    put(pointer + c, tl.sum(value, axis=0), c < D, True)


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
def statistics(
    x, n, inside, LD: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, EPSILON: tl.constexpr
):  # fmt: skip
    """(mean [R], 1 / std [R]) of rows n of X."""
    total = tl.sum(rows_of(x, n, inside, 0, LD, D, WIDE), axis=1)
    for start in range(WIDE, D, WIDE):
        total += tl.sum(rows_of(x, n, inside, start, LD, D, WIDE), axis=1)
    mean = total / D
    squares = tl.zeros_like(mean)
    for start in range(0, D, WIDE):
        c = start + tl.arange(0, WIDE)[None, :]
        t = rows_of(x, n, inside, start, LD, D, WIDE) - mean[:, None]
        squares += tl.sum(tl.where(c < D, t * t, 0.0), axis=1)
    return mean, tl.div_rn(1.0, tl.sqrt_rn(squares / D + EPSILON))


@triton.jit
def normal_of(
    x, n, inside, start, mean, rate,
    LD: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """(X - mean) / std, [R, WIDE]."""
    c = start + tl.arange(0, WIDE)[None, :]
    t = (rows_of(x, n, inside, start, LD, D, WIDE) - mean[:, None]) * rate[:, None]
    return tl.where(c < D, t, 0.0)


@triton.jit
def normed(
    x, n, inside, start, mean, rate, scale, shift,
    LD: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Layer norm of X, or X itself without NORM, [R, WIDE]."""
    if NORM:
        h = normal_of(x, n, inside, start, mean, rate, LD, D, WIDE)
        h = h * vector(scale, start, D, WIDE) + vector(shift, start, D, WIDE)
    else:
        h = rows_of(x, n, inside, start, LD, D, WIDE)
    return h


@triton.jit
def norm_gradients(
    d, x, n, inside, mean, rate, scale, d_scale, d_shift,
    LD: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Adds the gradients of scale and shift up from those of the norm's output, rows n of `d`;
    returns the two means over columns that its input's gradient wants, [R]."""
    total = tl.zeros_like(mean)
    along = tl.zeros_like(mean)
    for start in range(0, D, WIDE):
        g = rows_of(d, n, inside, start, LD, D, WIDE)
        normal = normal_of(x, n, inside, start, mean, rate, LD, D, WIDE)
        add_sums(d_scale, g * normal, start, D, WIDE)
        add_sums(d_shift, g, start, D, WIDE)
        g *= vector(scale, start, D, WIDE)
        total += tl.sum(g, axis=1)
        along += tl.sum(g * normal, axis=1)
    return total / D, along / D


@triton.jit
def norm_back(
    d, x, n, inside, start, mean, rate, total, along, scale,
    LD: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """d loss/dX [R, WIDE] of a layer norm, with what `norm_gradients` returned."""
    g = rows_of(d, n, inside, start, LD, D, WIDE) * vector(scale, start, D, WIDE)
    normal = normal_of(x, n, inside, start, mean, rate, LD, D, WIDE)
    return (g - total[:, None] - normal * along[:, None]) * rate[:, None]


@triton.jit
def norm_through(
    d, x, n, inside, mean, rate, scale, d_scale, d_shift,
    LD: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """`norm_gradients`; then rows n of `d` become d loss/dX. The caller waits before it reads."""
    total, along = norm_gradients(d, x, n, inside, mean, rate, scale, d_scale, d_shift, LD, D, WIDE)
    tl.debug_barrier()
    for c in range(0, D, WIDE):
        dx = norm_back(d, x, n, inside, c, mean, rate, total, along, scale, LD, D, WIDE)
        put_rows(d, dx, n, inside, c, False, LD, D, WIDE)
