"""What several kernels share: products in three precisions, activations, normalised rows.

A kernel's grid ends with the member axis. Workspace buffers are float32 [M, rows, ld]; columns
past a buffer's width are never written, so loads mask them. A member whose `live` entry is zero
costs one load.
"""

import triton
import triton.language as tl

# The interpreter multiplies bfloat16 bit patterns as integers and ignores tf32, so there the
# operands are rounded by hand and multiplied in float32.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))

# Rows of a tile. tl.dot needs at least 16 in every axis.
LEAST = 16

ATTENTION = {"fp32": "ieee", "tf32": "tf32", "bf16": "tf32x3"}
"""How attention and the tables' gradients multiply: in bf16 mode their operands stay float32,
which three tf32 products reproduce on tensor cores."""

LINEAR = {"fp32": "ieee", "tf32": "tf32", "bf16": "bf16"}


def power(n: int, least: int = LEAST) -> int:
    """The least power of two that is at least `n` and `least`."""
    return max(least, triton.next_power_of_2(n))


@triton.jit
def rounded(x, DROPPED: tl.constexpr):
    """float32 x to the nearest value without its last DROPPED bits, ties to even; NaN stays."""
    bits = x.to(tl.uint32, bitcast=True)
    odd = (bits >> DROPPED) & 1
    near = tl.add(bits, odd + ((1 << (DROPPED - 1)) - 1), sanitize_overflow=False)
    near = (near >> DROPPED) << DROPPED
    return tl.where(x == x, near.to(tl.float32, bitcast=True), x)


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """a [I, K] b [K, J] -> float32 [I, J]; PRECISION "ieee", "tf32", "tf32x3" or "bf16"."""
    if INTERPRETED:
        if PRECISION == "bf16":
            c = tl.dot(rounded(a, 16), rounded(b, 16), input_precision="ieee")
        elif PRECISION == "tf32":
            c = tl.dot(rounded(a, 13), rounded(b, 13), input_precision="ieee")
        else:
            c = tl.dot(a, b, input_precision="ieee")
    elif PRECISION == "bf16":
        c = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
    else:
        c = tl.dot(a, b, input_precision=PRECISION)
    return c


@triton.jit
def activated(x, ACTIVATION: tl.constexpr):
    """(f(x), f'(x)); ACTIVATION "none", "relu", "gelu" (exact) or "gelu_tanh"."""
    if ACTIVATION == "relu":
        # NaN stays NaN: it is not below zero.
        value = tl.where(x <= 0.0, 0.0, x)
        slope = tl.where(x <= 0.0, 0.0, 1.0)
    elif ACTIVATION == "gelu":
        share = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
        value = x * share
        slope = share + x * (0.3989422804014327 * tl.exp(-0.5 * x * x))
    elif ACTIVATION == "gelu_tanh":
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        # tanh u = 1 - 2 / (e^2u + 1), whose limits are right where e^2u overflows
        tanh = 1.0 - 2.0 / (tl.exp(2.0 * inner) + 1.0)
        value = 0.5 * x * (1.0 + tanh)
        growth = 0.7978845608028654 * (1.0 + 3.0 * 0.044715 * x * x)
        slope = 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * growth
    else:
        value = x
        slope = tl.full(x.shape, 1.0, tl.float32)
    return value, slope


@triton.jit
def normal_rows(x, inside, WIDTH: tl.constexpr, EPSILON: tl.constexpr):
    """x [R, D], zero outside the columns `inside` [1, D] -> ((x - mean) / std, 1 / std [R])."""
    mean = tl.sum(x, axis=1) / WIDTH
    centred = tl.where(inside, x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / WIDTH
    rate = tl.div_rn(1.0, tl.sqrt_rn(variance + EPSILON))
    return centred * rate[:, None], rate


@triton.jit
def normal_gradient(g, normal, rate, WIDTH: tl.constexpr):
    """d loss/dx from g = d loss/d normal, both [R, D] with zeros outside; rate [R]."""
    mean = tl.sum(g, axis=1) / WIDTH
    along = tl.sum(g * normal, axis=1) / WIDTH
    return (g - mean[:, None] - normal * along[:, None]) * rate[:, None]


@triton.jit
def put(pointer, value, mask, ADD: tl.constexpr):
    """Store, or add to what is there."""
    if ADD:
        value += tl.load(pointer, mask=mask, other=0.0)
    tl.store(pointer, value, mask=mask)
