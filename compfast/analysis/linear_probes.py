"""Linear probes of one member's features: ridge regression, and logistic regression by Newton."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

_STEPS = 100  # Newton's, at most; some ten are usual
_SMALL = 1e-10  # of a step's size beside the weights' own: it has arrived
_HALVINGS = 40  # of a step that makes the loss larger


def ridge(features: Float64, labels: Float64, l2: float) -> tuple[Float64, Float64]:
    """Weights [F, L] and intercepts [L] that least |y - x w - b|^2 + l2 |w|^2 has.

    Features [n, F], labels [n, L]. The intercept costs nothing.
    """
    centre, middle = features.mean(axis=0), labels.mean(axis=0)
    x, y = features - centre, labels - middle
    weights: Float64 = np.linalg.solve(x.T @ x + l2 * np.eye(x.shape[1]), x.T @ y)
    return weights, middle - centre @ weights


def logistic(features: Float64, labels: Float64, l2: float) -> tuple[Float64, Float64]:
    """Weights [F, L] and intercepts [L], a column for each of the labels [n, L], 0 or 1.

    Each has the least sum of logistic losses + l2 / 2 |w|^2; the intercept costs nothing. A label
    that is the same in all rows has no least; its column is NaN.
    """
    x = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    cost = np.full(x.shape[1], l2)
    cost[-1] = 0
    found = np.full((x.shape[1], labels.shape[1]), np.nan)
    for column, y in enumerate(labels.T):
        if 0 < y.sum() < len(y):
            found[:, column] = _newton(x, y, cost)
    return found[:-1], found[-1]


def r2(labels: Float64, predicted: Float64) -> Float64:
    """1 - squared error / that of the labels' mean, [L]; NaN for a label without variance."""
    lost, whole = (
        np.square(labels - other).sum(axis=0) for other in (predicted, labels.mean(axis=0))
    )
    varies = labels.min(axis=0) < labels.max(axis=0)
    return np.where(varies, 1 - lost / np.where(varies, whole, 1.0), np.nan)


def accuracy(labels: Float64, said: NDArray[np.bool_]) -> Float64:
    """The share of items said right, [L]."""
    return np.asarray((said == (labels > 0.5)).mean(axis=0))


def f1(labels: Float64, said: NDArray[np.bool_]) -> Float64:
    """2 TP / (2 TP + FP + FN), [L]; NaN where no item has the label and none is said to."""
    true = labels > 0.5
    both, either = (true & said).sum(axis=0), true.sum(axis=0) + said.sum(axis=0)
    return np.where(either > 0, 2 * both / np.maximum(either, 1), np.nan)


def _newton(x: Float64, y: Float64, cost: Float64) -> Float64:
    """Weights [F + 1] of the least loss: Newton's steps, halved while they do not lessen it."""
    weights = np.zeros(x.shape[1])
    loss = _loss(x, y, cost, weights)
    for _ in range(_STEPS):
        p = _sigmoid(x @ weights)
        slope = x.T @ (p - y) + cost * weights
        bend = (x * (p * (1 - p))[:, None]).T @ x + np.diag(cost)
        step = np.linalg.lstsq(bend, slope, rcond=None)[0]
        for _ in range(_HALVINGS):
            tried = weights - step
            after = _loss(x, y, cost, tried)
            if after <= loss:
                break
            step = step / 2
        else:
            return weights  # no step lessens it any more
        weights, loss = tried, after
        if np.abs(step).max() <= _SMALL * (1 + np.abs(weights).max()):
            break
    return weights


def _loss(x: Float64, y: Float64, cost: Float64, weights: Float64) -> float:
    z = x @ weights
    return float((np.logaddexp(0, z) - y * z).sum() + (cost * weights * weights).sum() / 2)


def _sigmoid(z: Float64) -> Float64:
    with np.errstate(over="ignore"):  # 1 / (1 + inf) is 0, as it should be
        return np.asarray(1 / (1 + np.exp(-z)))
