"""What products with a symmetric matrix tell of it: its largest eigenvalues, and its trace.

Lanczos with full reorthogonalisation (Paige 1970; Golub and Van Loan, section 10.3) and
Hutchinson's estimator (1989) with Rademacher vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from compfast.streams import philox

Float64 = NDArray[np.float64]
Product = Callable[[Float64], Float64]

# Subs of the auxiliary stream; a permutation's rounds have 0 to 5, the teacher's 8.
_START, _PROBES = 16, 17
_TINY = 1e-12  # of the matrix's norm: a direction that short is rounding


class Spectrum(NamedTuple):
    """The largest eigenvalues, in falling order."""

    values: Float64  # [count], never above the true ones but for rounding
    residuals: Float64  # [count], |A x - value x| of each: an eigenvalue is that near
    products: int


class Trace(NamedTuple):
    value: float
    error: float  # standard error over the probes


def lanczos(
    product: Product, size: int, seed: int, count: int, iterations: int, tolerance: float
) -> Spectrum:
    """The `count` largest eigenvalues of a matrix [size, size], from at most `iterations` products.

    It ends where each residual is at most `tolerance` times the largest |eigenvalue| seen, and
    begins at a vector drawn from `seed`. An eigenvalue that occurs several times counts once. All
    are nan where a product is not finite.
    """
    most = min(iterations, size)
    basis = np.empty((most + 1, size))
    tri = np.zeros((most, most))  # the matrix in the basis
    basis[0] = _outside(basis[:0], size, seed, 0)
    values, residuals = np.full(count, np.nan), np.full(count, np.nan)
    for done in range(1, most + 1):
        last = basis[done - 1]
        image = product(last)
        if not np.isfinite(image).all():
            return Spectrum(np.full(count, np.nan), np.full(count, np.nan), done)
        tri[done - 1, done - 1] = last @ image
        for _ in range(2):  # once leaves rounding of the first subtraction
            image = image - (basis[:done] @ image) @ basis[:done]
        length = float(np.linalg.norm(image))
        found, vectors = np.linalg.eigh(tri[:done, :done])
        scale = float(np.abs(found).max())
        if length <= _TINY * scale:  # the basis holds all of its own images
            length = 0.0
        top = np.arange(done)[::-1][:count]
        values[: len(top)] = found[top]
        residuals[: len(top)] = length * np.abs(vectors[-1, top])
        ends = done >= min(count, size) and residuals[: len(top)].max() <= tolerance * scale
        if ends or done == most:
            break
        tri[done, done - 1] = tri[done - 1, done] = length
        basis[done] = image / length if length else _outside(basis[:done], size, seed, done)
    return Spectrum(values, residuals, done)


def hutchinson(product: Product, size: int, seed: int, probes: int) -> Trace:
    """The mean of v . A v over `probes` vectors of signs drawn from `seed`, and its error."""
    if not probes:
        return Trace(np.nan, np.nan)
    found = np.empty(probes)
    for probe in range(probes):
        signs = rademacher(seed, probe, size)
        found[probe] = signs @ product(signs)
    error = found.std(ddof=1) / np.sqrt(probes) if probes > 1 else np.nan
    return Trace(float(found.mean()), float(error))


def rademacher(seed: int, probe: int, size: int) -> Float64:
    """Signs [size], each of one bit of the stream of `probe`."""
    words = philox.words(seed, philox.AUX, probe, _PROBES, 0, -(-size // 32))
    bits = (words[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    return np.where(bits.ravel()[:size] > 0, 1.0, -1.0)


def _outside(basis: Float64, size: int, seed: int, number: int) -> Float64:
    """A drawn vector of length 1 that is orthogonal to those of the basis."""
    vector = philox.normals(seed, philox.AUX, number, _START, size)
    for _ in range(2):
        vector = vector - (basis @ vector) @ basis
    found: Float64 = vector / np.linalg.norm(vector)
    return found
