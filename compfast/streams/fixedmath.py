"""float64 log and sin/cos(2 pi u) with the same bits on every CPU.

libm and NumPy pick code by CPU, so these use only + - * / (one IEEE rounding each, in the
order written, never contracted to FMA), integer views and comparisons. The C++ engine repeats
them line by line.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from decimal import (
    ROUND_HALF_EVEN,
    Context,
    DivisionByZero,
    InvalidOperation,
    Overflow,
    localcontext,
)

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD  # the float64 sqrt(1/2), as an integer
_LN2_HIGH = float.fromhex("0x1.62e42feep-1")  # 33 bits: times any exponent it is exact
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")  # ln 2 - _LN2_HIGH
_HALF_PI = float.fromhex("0x1.921fb54442d18p+0")

# log((1 + s) / (1 - s)) = 2 s + s z (2/3 + 2/5 z + 2/7 z^2 + ...), z = s^2 <= 0.02944:
# the first term left out, 2/25 z^12, is below 1e-19.
_LOG = (
    2.0 / 23.0,
    2.0 / 21.0,
    2.0 / 19.0,
    2.0 / 17.0,
    2.0 / 15.0,
    2.0 / 13.0,
    2.0 / 11.0,
    2.0 / 9.0,
    2.0 / 7.0,
    2.0 / 5.0,
    2.0 / 3.0,
)
# sin x = x + x z S(z) and cos x = 1 + z C(z), z = x^2 <= 0.617 (Taylor, x^19 and x^18 left out);
# every denominator is an integer below 2^53, so each coefficient is one rounded division.
_SIN = (
    1.0 / 355687428096000.0,
    -1.0 / 1307674368000.0,
    1.0 / 6227020800.0,
    -1.0 / 39916800.0,
    1.0 / 362880.0,
    -1.0 / 5040.0,
    1.0 / 120.0,
    -1.0 / 6.0,
)
_COS = (
    1.0 / 20922789888000.0,
    -1.0 / 87178291200.0,
    1.0 / 479001600.0,
    -1.0 / 3628800.0,
    1.0 / 40320.0,
    -1.0 / 720.0,
    1.0 / 24.0,
    -1.0 / 2.0,
)


def _horner(coefficients: tuple[float, ...], z: Float64) -> Float64:
    """c[0] z^(n-1) + ... + c[n-1], from the highest power down: p = p * z + c."""
    p = np.full_like(z, coefficients[0])
    for c in coefficients[1:]:
        p = p * z + c
    return p


def log(x: Float64) -> Float64:
    """Natural logarithm of normal, positive, finite float64 `x` (any shape).

    x = 2^k m with m in [sqrt(1/2), sqrt(2)); log m from the series in s = (m - 1) / (m + 1).
    """
    bits = np.ascontiguousarray(x, dtype=np.float64).view(np.int64)
    k = (bits - _SQRT_HALF_BITS) >> 52
    m = (bits - (k << 52)).view(np.float64)
    e = k.astype(np.float64)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    tail = (s * z) * _horner(_LOG, z) + e * _LN2_LOW
    return e * _LN2_HIGH + (2.0 * s + tail)


def sincos_turn(u: Float64) -> tuple[Float64, Float64]:
    """(sin(2 pi u), cos(2 pi u)) for float64 `u` in [0, 1) (any shape).

    4 u is exact; its nearest integer is the quadrant, the rest r in [-1/2, 1/2] is exact for
    every u of at most 50 fraction bits, and the angle is r pi/2.
    """
    t = 4.0 * np.asarray(u, dtype=np.float64)
    quadrant = (t + 0.5).astype(np.int64)
    x = (t - quadrant.astype(np.float64)) * _HALF_PI
    z = x * x
    s = x + (x * z) * _horner(_SIN, z)
    c = 1.0 + z * _horner(_COS, z)
    odd = (quadrant & 1) == 1
    sine, cosine = np.where(odd, c, s), np.where(odd, s, c)
    sine = np.where((quadrant & 2) == 2, -sine, sine)
    cosine = np.where(((quadrant + 1) & 2) == 2, -cosine, cosine)
    return sine, cosine


def forty_digits() -> AbstractContextManager[Context]:
    """Decimals of 40 digits, whatever the caller's context and decimal's default one say."""
    return localcontext(
        Context(
            prec=40,
            rounding=ROUND_HALF_EVEN,
            Emin=-999_999,
            Emax=999_999,
            capitals=1,
            clamp=0,
            flags=[],
            traps=[InvalidOperation, DivisionByZero, Overflow],
        )
    )
