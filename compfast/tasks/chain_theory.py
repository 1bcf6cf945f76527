"""The canonical model of a binary chain: its exact loss, its critical points, who ends where.

Makkuva et al., arXiv 2406.03072. After symbol x in {0, 1} of the chain with p = P(1 | 0) and
q = P(0 | 1) the model gives the next symbol 1 the logit

    e^2 (1 + 2 w |w|) x + b - e^2 / 2,

and is trained by the logistic loss. Losses are in nats and over the chain itself (stationary law
times transitions), not over a sample of it. With the best bias b* the loss depends on e and w
through the gain g = (1 + 2 w |w|) e^2 alone; "reduced" means with b*. Everything broadcasts over
arrays of e, w, b, p and q.

Raises UsageError for p or q outside (0, 1], and for e, w or b that are not finite or beyond 1e60.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compfast.errors import UsageError
from compfast.tasks.base import Float64

Reals = float | Sequence[float] | Float64
Names = NDArray[np.str_]

SADDLE_W = -math.sqrt(0.5)  # the saddle of the reduced loss lies at e = 0 and this w
SADDLE_LEVEL = -(1 + math.log(2)) / 2  # its energy

LARGEST = 1e60  # of |e|, |w| and |b|: e^2 w^2 is finite
_MEMORYLESS = 1e-6  # |p + q - 1| up to which the two solutions are one


def stationary_one(p: Reals, q: Reals) -> Float64:
    """The stationary probability of symbol 1."""
    p, q = _chain(p, q)
    return _float(p / (p + q))


def stationary_entropy(p: Reals, q: Reals) -> Float64:
    """The least loss of a prediction that does not look at the last symbol (`local`)."""
    one = stationary_one(p, q)
    return _binary_entropy(one)


def entropy_rate(p: Reals, q: Reals) -> Float64:
    """The least loss of all (`global`)."""
    p, q = _chain(p, q)
    return _float((q * _binary_entropy(p) + p * _binary_entropy(q)) / (p + q))


def logits(e: Reals, w: Reals, b: Reals) -> tuple[Float64, Float64]:
    """Logits of a next 1, after a 0 and after a 1."""
    e, w, b = _finite(e=e, w=w, b=b)
    after_zero = b - e * e / 2
    return _float(after_zero), _float(after_zero + _gain(e, w))


def gain(e: Reals, w: Reals) -> Float64:
    """g, by how much a last symbol 1 raises the logit."""
    e, w = _finite(e=e, w=w)
    return _gain(e, w)


def loss(e: Reals, w: Reals, b: Reals, p: Reals, q: Reals) -> Float64:
    """The exact loss of the chain."""
    return _loss(*logits(e, w, b), *_chain(p, q))


def gradient(e: Reals, w: Reals, b: Reals, p: Reals, q: Reals) -> tuple[Float64, Float64, Float64]:
    """Derivatives of `loss` by e, w and b."""
    e, w, b = _finite(e=e, w=w, b=b)
    zero, one = _by_logits(*logits(e, w, b), *_chain(p, q))
    by_e, by_w = _by_weights(e, w, one)
    return _float(by_e - (zero + one) * e), by_w, _float(zero + one)


def best_bias(e: Reals, w: Reals, p: Reals, q: Reals) -> Float64:
    """b*, the bias with the least loss at (e, w)."""
    e, w = _finite(e=e, w=w)
    after_zero, _ = _best_logits(_gain(e, w), *_chain(p, q))
    return _float(e * e / 2 + after_zero)


def reduced_loss(e: Reals, w: Reals, p: Reals, q: Reals) -> Float64:
    """The loss with the best bias."""
    p, q = _chain(p, q)
    return _loss(*_best_logits(gain(e, w), p, q), p, q)


def reduced_gradient(e: Reals, w: Reals, p: Reals, q: Reals) -> tuple[Float64, Float64]:
    """Derivatives of `reduced_loss` by e and w; those of `loss` at b*."""
    e, w = _finite(e=e, w=w)
    by_e, by_w, _ = slopes(e, w, *_chain(p, q))
    return by_e, by_w


def slopes(e: Float64, w: Float64, p: Float64, q: Float64) -> tuple[Float64, Float64, Float64]:
    """Derivatives of the reduced loss by e, w and the gain, without a check of what is given.

    The last one is 0 on the global minima and only there.
    """
    by_gain = _by_logits(*_best_logits(_gain(e, w), p, q), p, q)[1]
    return *_by_weights(e, w, by_gain), by_gain


def best_gain(p: Reals, q: Reals) -> Float64:
    """The gain of the global minima, log((1 - p)(1 - q) / (p q)); above 0 where p + q < 1.

    Raises UsageError for p or q of 1: then the loss falls for ever as the gain goes to minus
    infinity, and the entropy rate is not reached.
    """
    p, q = _chain(p, q)
    certain = (p == 1) | (q == 1)
    if certain.any():
        raise UsageError(
            f"p is {_first(p, certain)} and q is {_first(q, certain)}; with a transition that is"
            " certain the canonical model has no global minimum at finite e and w"
        )
    return _float(np.log1p(-p) + np.log1p(-q) - np.log(p) - np.log(q))


def minima(w: Reals, p: Reals, q: Reals) -> Float64:
    """The e > 0 of the global minimum at w; -e is one too, nan where that w has none.

    They lie at w > -1/sqrt(2) where p + q < 1, below it where p + q > 1. Raises UsageError for
    p + q = 1, whose every bigram is the unigram, and as `best_gain` does.
    """
    (w,) = _finite(w=w)
    p, q = _with_memory(p, q)
    squared = np.full(np.broadcast_shapes(w.shape, p.shape), np.nan)
    slope = _slope(w)
    np.divide(best_gain(p, q), slope, out=squared, where=slope != 0)
    return _float(np.sqrt(np.where(squared > 0, squared, np.nan)))


def energy(e: Reals, w: Reals) -> Float64:
    """What the reduced loss's gradient flow conserves: e^2 - w^2 - sign(w) log|w|.

    It has no value (nan) at w = 0, a line that the flow never leaves nor reaches.
    """
    e, w = _finite(e=e, w=w)
    return _float(e * e - threshold(w) + SADDLE_LEVEL)


def threshold(w: Reals) -> Float64:
    """T(w), at least 0 for w < 0: there e^2 = T(w) has the energy of the saddle. nan at w = 0."""
    (w,) = _finite(w=w)
    size = np.where(w == 0, np.nan, np.abs(w))
    return _float(w * w + np.sign(w) * np.log(size) + SADDLE_LEVEL)


def critical_kind(w: Reals, p: Reals, q: Reals) -> Names:
    """What (0, w) is to the reduced loss: "minimum", "maximum" or "saddle".

    Every point of e = 0 is critical and predicts the stationary law. A minimum or maximum is a
    local one and not strict: its neighbours on the line are as good. Raises UsageError for
    p + q = 1.
    """
    (w,) = _finite(w=w)
    p, q = _with_memory(p, q)
    low = (p + q < 1) == (w < SADDLE_W)
    return np.where(w == SADDLE_W, "saddle", np.where(low, "minimum", "maximum"))


def predicted_basin(e: Reals, w: Reals, p: Reals, q: Reals) -> Names:
    """Where the reduced loss's gradient flow from (e, w) ends: "global" or "local".

    p + q < 1: local where w < -1/sqrt(2) and e^2 < T(w). p + q > 1: local where w >= 0, or
    w > -1/sqrt(2) and e^2 < T(w). All else is global, but for sets of no area from which the flow
    ends at the stationary law too: e = 0, where it does not move, and the edge e^2 = T(w), which
    leads into the saddle. With p or q of 1 the global flow goes to infinity and its loss to the
    entropy rate. Raises UsageError for p + q = 1.
    """
    e, w = _finite(e=e, w=w)
    p, q = _with_memory(p, q)
    inside = (w < 0) & (e * e <= threshold(w))
    local = np.where(p + q < 1, (w < SADDLE_W) & inside, (w >= 0) | ((w > SADDLE_W) & inside))
    return np.where(local | (e == 0), "local", "global")


def _slope(w: Float64) -> Float64:
    return 1 + 2 * w * np.abs(w)


def _gain(e: Float64, w: Float64) -> Float64:
    return _float(_slope(w) * e * e)


def _by_weights(e: Float64, w: Float64, by_gain: Float64) -> tuple[Float64, Float64]:
    """Derivatives by e and w of what depends on them through the gain."""
    return _float(by_gain * 2 * e * _slope(w)), _float(by_gain * 4 * np.abs(w) * e * e)


def _loss(zero: Float64, one: Float64, p: Float64, q: Float64) -> Float64:
    """From the logits after a 0 and after a 1."""
    after_zero = p * np.logaddexp(0, -zero) + (1 - p) * np.logaddexp(0, zero)
    after_one = (1 - q) * np.logaddexp(0, -one) + q * np.logaddexp(0, one)
    return _float((q * after_zero + p * after_one) / (p + q))


def _by_logits(zero: Float64, one: Float64, p: Float64, q: Float64) -> tuple[Float64, Float64]:
    """Derivatives of `_loss` by both logits."""
    by_zero, by_one = q / (p + q) * (_sigmoid(zero) - p), p / (p + q) * (_sigmoid(one) - (1 - q))
    return _float(by_zero), _float(by_one)


def _best_logits(g: Float64, p: Float64, q: Float64) -> tuple[Float64, Float64]:
    """Logits with the best bias, whose exponentials z and u z, u = exp(g), solve

        q u z^2 + (q - p) z - p = 0.

    In logarithms, and without a difference of near numbers, so that any gain will do.
    """
    ahead = p >= q
    with np.errstate(divide="ignore"):  # log 0 = -inf for p = q
        apart = np.log(np.abs(p - q))
    root = np.logaddexp(2 * apart, np.log(4 * p * q) + g) / 2  # of (p - q)^2 + 4 p q u
    total = np.logaddexp(root, apart)
    zero = np.where(ahead, total - np.log(2 * q) - g, np.log(2 * p) - total)
    one = np.where(ahead, total - np.log(2 * q), zero + g)
    return zero, one


def _sigmoid(x: Float64) -> Float64:
    return _float(np.exp(-np.logaddexp(0, -x)))


def _binary_entropy(x: Float64) -> Float64:
    parts = [-y * np.log(np.where(y > 0, y, 1.0)) for y in (x, 1 - x)]
    return _float(parts[0] + parts[1] + 0.0)  # no -0.0


def _chain(p: Reals, q: Reals) -> tuple[Float64, Float64]:
    given = {"p": np.asarray(p, np.float64), "q": np.asarray(q, np.float64)}
    for name, values in given.items():
        wrong = ~((values > 0) & (values <= 1))
        if wrong.any():
            raise UsageError(f"{name} is {_first(values, wrong)}; it must be above 0 and at most 1")
    first, second = np.broadcast_arrays(*given.values())
    return first, second


def _with_memory(p: Reals, q: Reals) -> tuple[Float64, Float64]:
    p, q = _chain(p, q)
    none = np.abs(p + q - 1) < _MEMORYLESS
    if none.any():
        raise UsageError(
            f"p is {_first(p, none)} and q is {_first(q, none)}; with p + q = 1 the next symbol"
            " does not depend on the last one, so there is nothing to tell apart"
        )
    return p, q


def _finite(**given: Reals) -> list[Float64]:
    """The arrays in float64; raises UsageError for numbers with which nothing can be computed."""
    arrays = {name: np.asarray(values, np.float64) for name, values in given.items()}
    for name, values in arrays.items():
        wrong = ~(np.abs(values) <= LARGEST)
        if wrong.any():
            raise UsageError(
                f"{name} is {_first(values, wrong)}; it must be a number between -{LARGEST:g} and"
                f" {LARGEST:g}"
            )
    return list(arrays.values())


def _first(values: Float64, where: NDArray[np.bool_]) -> float:
    return float(values[where].flat[0])


def _float(values: Any) -> Float64:
    """Zero-dimensional results as arrays too."""
    return np.asarray(values, np.float64)
