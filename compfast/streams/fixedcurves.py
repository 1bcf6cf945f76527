"""Bounded curves with the same bits on every CPU: float32 tanh and erf, truncated normals.

As compfast/streams/fixedmath.py: only + - * / in the order written, never contracted to FMA. The
C++ engine repeats tanh and erf line by line (csrc/fixedcurves.h); normals are drawn by the driver.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Coefficients = tuple[float, ...]

# Odd rational fits x P(x^2) / Q(x^2), ours, from the highest power down; beyond the bound float32
# has no number nearer to 1 than the value there.
_TANH_BOUND, _ERF_BOUND = 9.0, 3.9
_TANH_P = (
    1.8254494431215704e-11,
    -1.2780111776225948e-08,
    9.267300168696676e-06,
    0.00292074772621444,
    0.12919214978997484,
    0.9999999411179719,
)
_TANH_Q = (0.0002280983022577319, 0.023763109884840993, 0.46252498809099296, 1.0)
_ERF_P = (
    2.0664770136179825e-06,
    0.00028506250394805325,
    0.003738346545640096,
    0.05266808292432531,
    0.18966679711999673,
    1.128379147624262,
)
_ERF_Q = (
    3.8270076317466674e-05,
    0.0011573768806060782,
    0.014914276925549181,
    0.11381895051975822,
    0.5014206040380134,
    1.0,
)

_TERMS = 30  # of the series below; at 2 the first one left out is below 1e-22
_NEWTON = 12  # steps; from 0 they approach from one side, and 8 reach the last bit


def tanh(x: Float32) -> Float32:
    """tanh of finite float32 `x` (any shape), relative error below 5e-7."""
    return _rational(x, _TANH_BOUND, _TANH_P, _TANH_Q)


def erf(x: Float32) -> Float32:
    """erf of finite float32 `x` (any shape), relative error below 5e-7."""
    return _rational(x, _ERF_BOUND, _ERF_P, _ERF_Q)


def truncated_normal(u: Float64) -> Float64:
    """The standard normal law cut off at -2 and 2, its quantile at `u` in (0, 1) (any shape).

    F(z) = z - z^3/6 + ... is the integral of E(t) = exp(-t^2/2) from 0 to z, and F(z) = (2 u - 1)
    F(2) is solved by Newton's steps.
    """
    slope, integral = _series()
    goal = (2.0 * np.asarray(u, np.float64) - 1.0) * (2.0 * _horner(integral, np.full(1, 4.0)))
    z = np.full_like(goal, 0.0)
    for _ in range(_NEWTON):
        square = z * z
        z = z - (z * _horner(integral, square) - goal) / _horner(slope, square)
    return z


def _rational(x: Float32, bound: float, above: Coefficients, below: Coefficients) -> Float32:
    low, high = np.float32(-bound), np.float32(bound)
    above_low = np.where(x < low, low, x)
    inside: Float32 = np.where(above_low > high, high, above_low)
    z: Float32 = inside * inside
    p: Float32 = np.full_like(z, above[0])
    q: Float32 = np.full_like(z, below[0])
    for c in above[1:]:
        p = p * z + np.float32(c)
    for c in below[1:]:
        q = q * z + np.float32(c)
    result: Float32 = inside * (p / q)
    return result


def _series() -> tuple[Coefficients, Coefficients]:
    """Coefficients of E in t^2, and of F / z in z^2, from the highest power down."""
    slope, integral = [1.0], [1.0]
    divisor, sign = 1, 1
    for n in range(1, _TERMS):
        divisor, sign = divisor * 2 * n, -sign
        slope.append(sign / divisor)  # whole numbers: one rounding
        integral.append(sign / (divisor * (2 * n + 1)))
    return tuple(slope[::-1]), tuple(integral[::-1])


def _horner(coefficients: Coefficients, z: Float64) -> Float64:
    p = np.full_like(z, coefficients[0])
    for c in coefficients[1:]:
        p = p * z + c
    return p
