"""The hyperteacher's networks in a fixed order of operations, which csrc/tasks/hyperteacher.h
repeats: W = sum_m z_m theta_m over its operator norm, y = a^T GELU(W x).

W is made in float64 and rounded once to float32; x, the products and the activation are float32.
Sums run from the first to the last, so that no bit depends on a CPU or a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compfast.streams import fixedcurves, fixedmath, philox
from compfast.tasks.base import Float64, Int32

Float32 = NDArray[np.float32]
Activation = Literal["gelu", "gelu_tanh"]

_POINTS = 7  # of a round of the search for the largest eigenvalue: three bits
_ROUNDS = 13  # 39 bits of its bracket, which is at most as wide as 16 to 64 times the eigenvalue

_ROOT_THREE = np.float32(3**0.5)
_ROOT_HALF = np.float32(0.5**0.5)
_ROOT_TWO_OVER_PI = np.float32(0.7978845608028654)


def codes(masks: Int32, words: NDArray[np.uint32], discrete: bool) -> Float64:
    """z [B, M] of masks [B, M] from words [B, M].

    Continuous: exponentials of the active modules over their sum, plus 1, halved: in (0.5, 1].
    Discrete: 1 / K for each of the K active ones. 0 for the others.
    """
    if discrete:
        share: Float64 = masks / masks.sum(axis=1, keepdims=True)
        return share
    u = (words.astype(np.float64) + 0.5) * 2.0**-32
    drawn = np.where(masks != 0, -fixedmath.log(u), 0.0)
    total = drawn[:, 0]
    for m in range(1, masks.shape[1]):
        total = total + drawn[:, m]
    return np.where(masks != 0, 0.5 * (drawn / total[:, None] + 1.0), 0.0)


def inputs(words: NDArray[np.uint32]) -> Float32:
    """float32 uniform in (-sqrt 3, sqrt 3), of variance 1. Shape of `words`."""
    two, one = np.float32(2), np.float32(1)
    result: Float32 = (two * philox.uniforms(words) - one) * _ROOT_THREE
    return result


def truncated(words: NDArray[np.uint32]) -> Float64:
    """Standard normals cut off at 2. Shape of `words`."""
    return fixedcurves.truncated_normal((words.astype(np.float64) + 0.5) * 2.0**-32)


def mixed(z: Float64, theta: Float64) -> Float32:
    """W [B, h, d] over its operator norm, of codes [B, M] and modules [M, h, d] or [B, M, h, d]."""
    w = np.zeros((len(z), *theta.shape[-2:]))
    for m in range(z.shape[1]):
        w = w + z[:, m, None, None] * theta[..., m, :, :]
    scale: Float64 = 1.0 / operator_norm(w)
    return (w * scale[:, None, None]).astype(np.float32)


def operator_norm(w: Float64) -> Float64:
    """The largest singular value of each w [B, h, d], [B]; relative error below 1e-9.

    The root of the largest eigenvalue of w w^T (or w^T w, whichever is smaller), found by
    Householder's tridiagonal form and Sturm's signs in a fixed number of steps.
    """
    if w.shape[1] > w.shape[2]:
        w = w.transpose(0, 2, 1)
    size = w.shape[1]
    g = np.zeros((len(w), size, size))
    for k in range(w.shape[2]):
        g = g + w[:, :, None, k] * w[:, None, :, k]
    result: Float64 = np.sqrt(_largest(*_tridiagonal(g)))
    return result


def values(w: Float32, readout: Float32, x: Float32, activation: Activation) -> Float32:
    """y [B, N] of networks w [B, h, d], readout [h], at x [B, N, d]."""
    hidden = np.zeros((*x.shape[:2], w.shape[1]), np.float32)
    for k in range(x.shape[2]):
        hidden = hidden + w[:, None, :, k] * x[..., k, None]
    active = _ACTIVATIONS[activation](hidden)
    y = np.zeros(x.shape[:2], np.float32)
    for j in range(w.shape[1]):
        y = y + readout[j] * active[..., j]
    return y


def _gelu(x: Float32) -> Float32:
    half, one = np.float32(0.5), np.float32(1)
    result: Float32 = (half * x) * (one + fixedcurves.erf(x * _ROOT_HALF))
    return result


def _gelu_tanh(x: Float32) -> Float32:
    half, one, cubic = np.float32(0.5), np.float32(1), np.float32(0.044715)
    inner = _ROOT_TWO_OVER_PI * (x + cubic * ((x * x) * x))
    result: Float32 = (half * x) * (one + fixedcurves.tanh(inner))
    return result


_ACTIVATIONS: dict[str, Callable[[Float32], Float32]] = {"gelu": _gelu, "gelu_tanh": _gelu_tanh}


def _dot(a: Float64, b: Float64) -> Float64:
    """Sums [B] over the last axis, from the first to the last."""
    total = np.zeros(len(a))
    for i in range(a.shape[1]):
        total = total + a[:, i] * b[:, i]
    return total


def _tridiagonal(g: Float64) -> tuple[Float64, Float64]:
    """Diagonal [B, n] and squares of the off-diagonal [B, n - 1] of a similar tridiagonal matrix,
    of symmetric g [B, n, n]."""
    size = g.shape[1]
    squares = np.zeros((len(g), size - 1))
    diagonal = np.zeros((len(g), size))
    for k in range(size - 1):
        diagonal[:, k] = g[:, 0, 0]
        v, g = g[:, 1:, 0].copy(), g[:, 1:, 1:]
        squares[:, k] = _dot(v, v)
        if v.shape[1] == 1:
            break
        root = np.sqrt(squares[:, k])
        v[:, 0] = np.where(v[:, 0] < 0, v[:, 0] - root, v[:, 0] + root)
        length = _dot(v, v)
        beta = np.where(length > 0, 2.0 / np.where(length > 0, length, 1.0), 0.0)
        p = np.zeros_like(v)
        for j in range(v.shape[1]):
            p = p + g[:, j] * v[:, j, None]
        p = beta[:, None] * p
        half = 0.5 * beta * _dot(p, v)
        p = p - half[:, None] * v
        g = g - (v[:, :, None] * p[:, None] + p[:, :, None] * v[:, None])
    diagonal[:, -1] = g[:, -1, -1]
    return diagonal, squares


def _largest(diagonal: Float64, squares: Float64) -> Float64:
    """The largest eigenvalue [B] of positive semi-definite tridiagonal matrices.

    A point lies above it where all pivots of x - T are positive; of seven points a round, those
    that do not are counted, and the bracket that is left is cut into eighths again.
    """
    low, step = np.zeros(len(diagonal)), np.zeros(len(diagonal))
    for i in range(diagonal.shape[1]):
        step = step + diagonal[:, i]
    step = step * 0.125
    steps = np.arange(1.0, _POINTS + 1)
    for _ in range(_ROUNDS):
        x = low[:, None] + steps * step[:, None]  # [B, 7]
        pivot = x - diagonal[:, :1]
        below = pivot <= 0
        for i in range(1, diagonal.shape[1]):
            divisor = np.where(pivot <= 0, 1.0, pivot)
            pivot = (x - diagonal[:, i, None]) - squares[:, i - 1, None] / divisor
            below |= pivot <= 0
        low = low + below.sum(axis=1) * step
        step = step * 0.125
    return low + step
