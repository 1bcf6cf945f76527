"""The canonical model of a binary chain: losses, gradients and critical points in closed form."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from compfast.errors import UsageError
from compfast.tasks import chain_theory as theory
from compfast.tasks.markov import MarkovConfig, MarkovTask

# facts of arXiv 2406.03072: (p, q), P(1), unigram and bigram loss in nats.
TABLE = [
    (0.2, 0.3, 0.4, 0.6730, 0.5446),
    (0.5, 0.8, 0.3846, 0.6663, 0.6190),
    (0.7, 0.9, 0.4375, 0.6853, 0.4858),
    (0.1, 0.1, 0.5, 0.6931, 0.3251),
    (0.9, 0.9, 0.5, 0.6931, 0.3251),
]
CHAINS = [row[:2] for row in TABLE]
E, W, B = (x.ravel() for x in np.meshgrid([-1.3, -0.2, 0.0, 0.7], [-1.6, -0.4, 0, 1.1], [-2, 0.6]))


def _h(x: float) -> float:
    return -sum(y * math.log(y) for y in (x, 1 - x) if y > 0)


def _loss(e: float, w: float, b: float, p: float, q: float) -> float:
    """The definition, a sum over the four transitions."""
    law = (q / (p + q), p / (p + q))
    total = 0.0
    for x in (0, 1):
        logit = e**2 * (1 + 2 * w * abs(w)) * x + b - e**2 / 2
        one = 1 / (1 + math.exp(-logit))
        flip = (p, 1 - q)[x]
        total -= law[x] * (flip * math.log(one) + (1 - flip) * math.log(1 - one))
    return total


@pytest.mark.parametrize(("p", "q", "one", "unigram", "bigram"), TABLE)
def test_the_table_of_reference_losses(
    p: float, q: float, one: float, unigram: float, bigram: float
) -> None:
    exact = p / (p + q)
    for found, printed, closed in (
        (theory.stationary_one(p, q), one, exact),
        (theory.stationary_entropy(p, q), unigram, _h(exact)),
        (theory.entropy_rate(p, q), bigram, (1 - exact) * _h(p) + exact * _h(q)),
    ):
        assert found == pytest.approx(printed, abs=1e-4)
        assert found == pytest.approx(closed, abs=1e-6)
    task = MarkovTask(MarkovConfig(p=p, q=q))
    assert theory.stationary_entropy(p, q) == pytest.approx(task.unigram_loss, abs=1e-6)
    assert theory.entropy_rate(p, q) == pytest.approx(task.bigram_loss, abs=1e-6)


@pytest.mark.parametrize(("p", "q"), CHAINS)
def test_the_loss_is_the_sum_over_transitions(p: float, q: float) -> None:
    direct = [_loss(e, w, b, p, q) for e, w, b in zip(E, W, B, strict=True)]
    np.testing.assert_allclose(theory.loss(E, W, B, p, q), direct, rtol=1e-13)


@pytest.mark.parametrize(("p", "q"), [*CHAINS, (1.0, 0.4)])
def test_the_gradient_is_autograds(p: float, q: float) -> None:
    e, w, b = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (E, W, B))
    zero = b - e**2 / 2
    one = zero + e**2 * (1 + 2 * w * w.abs())
    soft = torch.nn.functional.softplus
    loss = q * (p * soft(-zero) + (1 - p) * soft(zero)) + p * ((1 - q) * soft(-one) + q * soft(one))
    (loss / (p + q)).sum().backward()  # type: ignore[no-untyped-call]
    for name, found, leaf in zip("ewb", theory.gradient(E, W, B, p, q), (e, w, b), strict=True):
        assert leaf.grad is not None
        np.testing.assert_allclose(found, leaf.grad.numpy(), rtol=1e-12, atol=1e-15, err_msg=name)


@pytest.mark.parametrize(("p", "q"), [*CHAINS, (1.0, 0.4), (0.4, 1.0)])
def test_the_best_bias_minimises_and_the_rest_follows(p: float, q: float) -> None:
    best = theory.best_bias(E, W, p, q)
    least = theory.loss(E, W, best, p, q)
    for aside in (-3.0, -1e-3, 1e-3, 3.0):
        assert (theory.loss(E, W, best + aside, p, q) > least).all()
    by_e, by_w, by_b = theory.gradient(E, W, best, p, q)
    np.testing.assert_allclose(by_b, 0, atol=1e-15)
    np.testing.assert_allclose(theory.reduced_loss(E, W, p, q), least, rtol=1e-14)
    reduced = theory.reduced_gradient(E, W, p, q)
    np.testing.assert_allclose(reduced, (by_e, by_w), atol=1e-14)
    smooth, near = W != 0, 1e-6  # and against finite differences; w |w| bends at 0
    for found, by in zip(reduced, ((near, 0.0), (0.0, near)), strict=True):
        above = theory.reduced_loss(E + by[0], W + by[1], p, q)
        below = theory.reduced_loss(E - by[0], W - by[1], p, q)
        change = (above - below) / (2 * near)
        np.testing.assert_allclose(found[smooth], change[smooth], atol=1e-9)


@pytest.mark.parametrize(("p", "q"), CHAINS)
def test_the_formula_of_the_best_bias(p: float, q: float) -> None:
    u = np.exp((1 + 2 * W * np.abs(W)) * E**2)
    root = np.sqrt((p - q) ** 2 + 4 * p * q * u)
    said = E**2 / 2 + np.log((p - q + root) / (2 * q * u))
    np.testing.assert_allclose(theory.best_bias(E, W, p, q), said, atol=1e-12)


@pytest.mark.parametrize(("p", "q"), CHAINS)
def test_global_minima_have_the_entropy_rate(p: float, q: float) -> None:
    w = np.linspace(-3, 3, 61)
    e = theory.minima(w, p, q)
    found = np.isfinite(e)
    assert np.array_equal(found, w > theory.SADDLE_W if p + q < 1 else w < theory.SADDLE_W)
    e, w = e[found], w[found]
    assert (e > 0).all()
    loss = theory.reduced_loss(e, w, p, q)
    np.testing.assert_allclose(loss, theory.entropy_rate(p, q), atol=1e-14)
    np.testing.assert_allclose(theory.reduced_gradient(e, w, p, q), 0, atol=1e-13)
    after_zero, after_one = theory.logits(e, w, theory.best_bias(e, w, p, q))
    np.testing.assert_allclose(1 / (1 + np.exp(-after_zero)), p, atol=1e-12)
    np.testing.assert_allclose(1 / (1 + np.exp(-after_one)), 1 - q, atol=1e-12)


@pytest.mark.parametrize(("p", "q"), CHAINS)
def test_the_line_e_zero_is_critical_and_its_kinds_are_what_its_neighbours_say(
    p: float, q: float
) -> None:
    w = np.array([-1.9, -1.0, -0.72, theory.SADDLE_W, -0.69, -0.3, 0.0, 0.5, 2.0])
    level = theory.stationary_entropy(p, q)
    np.testing.assert_allclose(theory.reduced_loss(0.0, w, p, q), level, atol=1e-14)
    np.testing.assert_allclose(theory.reduced_gradient(0.0, w, p, q), 0, atol=1e-15)
    turn = 2 * math.pi * np.arange(64) / 64
    around = theory.reduced_loss(
        1e-3 * np.sin(turn), w[:, None] + 1e-3 * np.cos(turn), p, q
    )  # [9, 64]
    up, down = (around > level + 1e-14).any(axis=1), (around < level - 1e-14).any(axis=1)
    kinds = np.where(up & down, "saddle", np.where(up, "minimum", "maximum"))
    assert (up | down).all()
    assert theory.critical_kind(w, p, q).tolist() == kinds.tolist()
    beyond = ["minimum", "maximum"] if p + q < 1 else ["maximum", "minimum"]
    assert kinds[[0, -1]].tolist() == beyond


def test_the_energy_its_saddle_level_and_the_threshold_agree() -> None:
    assert theory.energy(0.0, theory.SADDLE_W) == pytest.approx(theory.SADDLE_LEVEL, abs=1e-15)
    w = np.array([-3.0, -0.71, -0.2, -1e-30, 1e-30, 0.4, 2.0])
    with np.errstate(invalid="ignore"):
        edge = np.sqrt(theory.threshold(w))
    assert np.isfinite(edge[:4]).all()
    np.testing.assert_allclose(theory.energy(edge[:4], w[:4]), theory.SADDLE_LEVEL, atol=1e-13)
    said = w * w + np.sign(w) * np.log(np.abs(w)) - (1 + math.log(2)) / 2
    np.testing.assert_allclose(theory.threshold(w), said, atol=1e-13)
    assert np.isnan(theory.energy(1.0, 0.0))
    assert np.isnan(theory.threshold(0.0))


def test_the_basins_at_points_of_the_map() -> None:
    """Each region of the rule; small weights near the origin; and the sets of no area."""
    points = {
        (0.1, -1.5): ("local", "global"),  # below the saddle line, inside
        (1.9, -1.0): ("global", "global"),  # below it, outside
        (0.1, -0.4): ("global", "local"),  # between the lines, inside
        (1.9, -0.6): ("global", "global"),  # between them, outside
        (0.01, 0.01): ("global", "local"),
        (0.01, -0.01): ("global", "local"),
        (-0.01, 0.0): ("global", "local"),
        (2.0, 2.0): ("global", "local"),
        (0.0, 1.0): ("local", "local"),
        (0.0, -2.0): ("local", "local"),
        (0.0, theory.SADDLE_W): ("local", "local"),
    }
    e, w = np.array(list(points)).T
    assert theory.predicted_basin(e, w, 0.2, 0.3).tolist() == [low for low, _ in points.values()]
    assert theory.predicted_basin(e, w, 0.5, 0.8).tolist() == [high for _, high in points.values()]
    assert theory.predicted_basin(e[:, None], w[:, None], [0.2, 0.5], [0.3, 0.8]).tolist() == [
        list(both) for both in points.values()
    ]
    assert theory.predicted_basin(0.1, 0.1, 0.2, 0.3) == "global"


@pytest.mark.parametrize(("p", "q"), [(0.2, 0.3), (0.5, 0.5 - 2**-10), (0.8, 0.5), (1.0, 1.0)])
def test_big_numbers_are_computed_with(p: float, q: float) -> None:
    """Logits of size 1e20 and more have finite losses and derivatives, without a warning."""
    e = np.array([1e5, 1e5, 1e10, 1e30, 1e60, 1e-60])
    w = np.array([3.0, -3.0, -1e10, 1e30, -1e60, 1e60])
    loss = theory.reduced_loss(e, w, p, q)
    assert np.isfinite(loss).all()
    for by in (*theory.reduced_gradient(e, w, p, q), theory.best_bias(e, w, p, q)):
        assert np.isfinite(by).all()
    assert np.isfinite(theory.loss(e, w, -1e60, p, q)).all()
    # b* spares the dearer of two transitions; the other one's logit is off by the whole gain.
    g = theory.gain(e[:5], w[:5])
    rare = np.where(g > 0, p * q, min(p * (1 - q), (1 - p) * q)) / (p + q)
    np.testing.assert_allclose(loss[:5], rare * np.abs(g), rtol=1e-9, atol=1e-9)
    one = np.where(g > 0, 1, max(p - q, 0) / p)  # P(1 | 1) there
    by_gain = theory.slopes(e[:5], w[:5], np.array(p), np.array(q))[2]
    np.testing.assert_allclose(by_gain, p / (p + q) * (one - (1 - q)), atol=1e-12)


def test_a_certain_transition_has_losses_but_no_minimum() -> None:
    assert theory.entropy_rate(1.0, 1.0) == 0
    assert math.copysign(1, theory.entropy_rate(1.0, 1.0)) == 1
    assert theory.entropy_rate(1.0, 0.25) == pytest.approx(_h(0.25) / 1.25, abs=1e-15)
    far = theory.reduced_loss(10.0, -10.0, 1.0, 0.25)
    assert far == pytest.approx(theory.entropy_rate(1.0, 0.25), abs=1e-12)
    for call in (theory.best_gain, lambda p, q: theory.minima(-1.0, p, q)):
        with pytest.raises(UsageError, match=r"p is 1\.0 and q is 0\.25; with a transition that"):
            call(1.0, 0.25)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: theory.loss(0.1, 0.1, 0.0, 0.0, 0.3), r"p is 0\.0; it must be above 0"),
        (lambda: theory.entropy_rate(0.2, 1.5), r"q is 1\.5"),
        (lambda: theory.entropy_rate(math.nan, 0.5), "p is nan"),
        (lambda: theory.predicted_basin(0.1, 0.1, 0.3, 0.7), r"p \+ q = 1"),
        (lambda: theory.minima(0.1, [0.2, 0.5], [0.3, 0.5]), r"p is 0\.5 and q is 0\.5"),
        (lambda: theory.critical_kind(0.1, 0.3, 0.7), "nothing to tell apart"),
        (lambda: theory.predicted_basin([0.1, math.inf], 0.1, 0.2, 0.3), "e is inf"),
        (lambda: theory.energy(0.1, math.nan), "w is nan"),
        (lambda: theory.loss(0.1, 0.1, 1e61, 0.2, 0.3), r"b is 1e\+61; it must be a number"),
    ],
)
def test_what_has_no_answer_is_refused(call: Callable[[], Any], words: str) -> None:
    with warnings.catch_warnings(), pytest.raises(UsageError, match=words):
        call()
