"""Ridge and logistic regression against their own conditions, and planted codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compfast.analysis import linear_probes as probes
from compfast.analysis.probes import cosines_of, scores_of

Array = NDArray[Any]


def _drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def test_ridge_is_the_least_of_its_loss() -> None:
    x, y = _drawn(50, 3), _drawn(50, 2, seed=1)
    weights, intercept = probes.ridge(x, y, 2.5)
    error = x @ weights + intercept - y
    np.testing.assert_allclose(error.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(x.T @ error + 2.5 * weights, 0, atol=1e-12)
    # By hand: x = -1, 1 and y = 1, 5 have slope 4 / (2 + l2) and middle 3.
    slope, middle = probes.ridge(np.array([[-1.0], [1.0]]), np.array([[1.0], [5.0]]), 2.0)
    assert (slope.item(), middle.item()) == (1, 3)


def test_logistic_is_the_least_of_its_loss() -> None:
    x = 3 * _drawn(80, 3)
    noisy = (x @ [1, -2, 0] + _drawn(80, seed=1) > 1).astype(float)
    parted = (x[:, 0] > 0).astype(float)  # no end without the cost of weights
    labels = np.stack([noisy, parted, np.ones(80)], axis=1)
    weights, intercept = probes.logistic(x, labels, 0.7)
    error = 1 / (1 + np.exp(-(x @ weights + intercept))) - labels
    np.testing.assert_allclose(error[:, :2].sum(axis=0), 0, atol=1e-8)
    np.testing.assert_allclose((x.T @ error + 0.7 * weights)[:, :2], 0, atol=1e-8)
    assert np.isnan(weights[:, 2]).all()
    assert np.isnan(intercept[2])


def test_logistic_arrives_where_whole_newton_steps_do_not() -> None:
    x, y = np.array([[-53.0], [-237.0], [33.0]]), np.array([[0.0], [0.0], [1.0]])
    weights, intercept = probes.logistic(x, y, 1e-5)
    error = 1 / (1 + np.exp(-(x @ weights + intercept))) - y
    np.testing.assert_allclose(error.sum(), 0, atol=1e-9)
    np.testing.assert_allclose(x.T @ error + 1e-5 * weights, 0, atol=1e-9)


def test_scores_by_hand() -> None:
    labels = np.array([[0.0, 1], [1, 1], [2, 1]])
    assert probes.r2(labels, np.array([[0.0, 1], [1, 1], [1, 1]]))[0] == 0.5
    assert np.isnan(probes.r2(labels, labels)).tolist() == [False, True]
    true = np.array([[1.0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1]])
    said = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 1], [0, 0, 1]], bool)
    assert probes.accuracy(true, said).tolist() == [0.5, 1.0, 0.75]
    np.testing.assert_allclose(probes.f1(true, said), [0.5, np.nan, 0.8])


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_a_planted_label_is_found_and_a_shuffled_one_is_not(kind: Any) -> None:
    """Place 0 is in the code, 1 is not, 2 does not vary where the probe is scored."""
    x, labels = _drawn(600, 4), _drawn(600, 3, seed=1) > 0
    labels[:, 0] = x @ [2, 0, -1, 0] > 0
    labels[400:, 2] = True
    scores = scores_of(kind, x, labels.astype(float), slice(0, 400), slice(400, 600), 1.0)
    found, control = scores[0], scores[len(scores) // 2]
    if kind == "ridge":
        assert found[0] > 0.55  # a line through a step
        assert abs(found[1]) < 0.05
        assert abs(control[0]) < 0.05
    else:
        assert found[0] > 0.97
        assert scores[1][0] > 0.97
        assert scores[1][1] < 0.6
        assert scores[3][0] < 0.6  # accuracy of the control
    assert all(np.isnan(score[2]) for score in scores)
    broken = x.copy()
    broken[500, 0] = np.inf
    assert np.isnan(
        scores_of(kind, broken, labels.astype(float), slice(0, 400), slice(400, 600), 1.0)
    ).all()


def test_cosines_of_hand_made_codes() -> None:
    features = np.array([[1.0, 0], [3, 0], [0, 2], [1, 1], [5, -5]])
    labels = np.zeros((5, 4), bool)
    labels[:2, 0] = labels[2, 1] = labels[3, 2] = True
    half = 1 / np.sqrt(2)
    expected = np.array([[1, 0, half], [0, 1, half], [half, half, 1]])
    found = cosines_of(features, labels)
    np.testing.assert_allclose(found[:3, :3], expected, atol=1e-15)
    assert np.isnan(found[3]).all()
    assert np.isnan(found[:, 3]).all()
