"""The canonical model's gradient flow ends where the basin rule says, and conserves the energy."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from compfast.errors import UsageError
from compfast.tasks import chain_flow, chain_theory

CHAINS = [(0.2, 0.3), (0.5, 0.8)]  # p + q < 1 and > 1
SIDE = np.linspace(-2, 2, 20)
E, W = np.meshgrid(SIDE, SIDE)  # 400 points, none of them on an edge
SOME = (slice(None, None, 4), slice(1, None, 4))


@functools.cache
def _ends(p: float, q: float) -> chain_flow.Ends:
    return chain_flow.ends(E, W, p, q)


def _level(names: Any, p: float, q: float) -> Any:
    rate, entropy = chain_theory.entropy_rate(p, q), chain_theory.stationary_entropy(p, q)
    return np.where(names == "global", rate, entropy)


@pytest.mark.parametrize(("p", "q"), CHAINS)
def test_the_basin_rule_on_a_grid(p: float, q: float) -> None:
    edge = np.where(W < 0, chain_theory.threshold(W), np.nan)
    assert E.size == 400
    assert np.nanmin(np.abs(E**2 - edge)) > 1e-3
    predicted = chain_theory.predicted_basin(E, W, p, q)
    assert set(predicted.ravel()) == {"global", "local"}
    found = _ends(p, q)
    assert found.settled.all()
    np.testing.assert_allclose(found.loss, _level(predicted, p, q), atol=1e-9)
    arrived = np.abs(found.e) < 1e-6
    assert np.array_equal(arrived, predicted == "local")
    kinds = chain_theory.critical_kind(found.w[arrived], p, q)
    assert set(kinds) == {"minimum"}
    e = chain_theory.minima(found.w[~arrived], p, q)
    np.testing.assert_allclose(np.abs(found.e[~arrived]), e, atol=1e-7)


@pytest.mark.parametrize(("p", "q"), CHAINS)
def test_the_energy_is_conserved(p: float, q: float) -> None:
    """To what the integrator's errors of 1e-10 a step add up to."""
    found = _ends(p, q)
    start, end = chain_theory.energy(E, W), chain_theory.energy(found.e, found.w)
    np.testing.assert_allclose(end, start, atol=1e-9)
    e, w = chain_flow.paths(E[SOME], W[SOME], p, q, np.geomspace(1e-3, 100, 6))
    same = np.broadcast_to(start[SOME][..., None], e.shape)
    np.testing.assert_allclose(chain_theory.energy(e, w), same, atol=1e-9)


@pytest.mark.parametrize(("p", "q", "end"), [(0.2, 0.3, 0.5446), (0.5, 0.8, 0.6663)])
def test_small_weights_near_the_origin(p: float, q: float, end: float) -> None:
    e, w = np.random.default_rng(3).normal(0, 0.01, (2, 64))
    found = chain_flow.ends(e, w, p, q)
    assert found.settled.all()
    np.testing.assert_allclose(found.loss, end, atol=5e-5)
    predicted = chain_theory.predicted_basin(e, w, p, q)
    np.testing.assert_allclose(found.loss, _level(predicted, p, q), atol=1e-12)


def test_both_sides_of_the_edge_part() -> None:
    """A thousandth from it, for both chains, along the parts of it that the rule speaks of."""
    w = np.array([[-1.9, -1.5, -1.1], [-0.5, -0.3, -0.1]])
    p, q = np.array(CHAINS).T[..., None]  # [2, 1]: a row a chain
    e = np.sqrt(chain_theory.threshold(w)) * np.array([0.999, 1.001])[:, None, None]
    found = chain_flow.ends(e, w, p, q)
    assert found.settled.all()
    for side, where in enumerate(("local", "global")):
        level = np.broadcast_to(_level(where, p, q), w.shape)
        np.testing.assert_allclose(found.loss[side], level, atol=1e-9)
        assert (chain_theory.predicted_basin(e[side], w, p, q) == where).all()


@pytest.mark.parametrize(("p", "q"), CHAINS)
def test_a_path_follows_small_steps_of_descent(p: float, q: float) -> None:
    e, w = np.array([0.4, -1.2, 0.9]), np.array([0.3, -0.5, -1.4])
    path = np.stack(chain_flow.paths(e, w, p, q, [1.0, 3.0]))
    errors = []
    for rate in (8e-3, 4e-3):  # Euler's method: its error is proportional to the step
        at, seen = np.stack([e, w]), []
        for step in range(1, round(3 / rate) + 1):
            at = at - rate * np.stack(chain_theory.reduced_gradient(at[0], at[1], p, q))
            if step in (round(1 / rate), round(3 / rate)):
                seen.append(at)
        errors.append(np.abs(np.stack(seen, axis=-1) - path).max())
    assert 0 < errors[1] < 1e-2
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)


def test_the_loss_falls_along_a_path_and_times_are_what_they_say() -> None:
    p, q = CHAINS[1]
    start = E[SOME], W[SOME]
    times = np.geomspace(1e-2, 1e3, 15)
    e, w = chain_flow.paths(*start, p, q, times)
    loss = chain_theory.reduced_loss(e, w, p, q)
    assert (np.diff(loss, axis=-1) <= 1e-12).all()
    few = chain_flow.paths(*start, p, q, times[[7, 14]])
    np.testing.assert_allclose(few, (e[..., [7, 14]], w[..., [7, 14]]), atol=2e-7)
    found = chain_flow.ends(*start, p, q, until=times[7])
    np.testing.assert_allclose(found.e, e[..., 7], atol=2e-7)
    assert (found.time[~found.settled] == times[7]).all()
    assert not found.settled.all()


def test_a_point_does_not_know_its_neighbours() -> None:
    p, q = np.where(W > 0, 0.2, 0.5), np.where(W > 0, 0.3, 0.8)
    e, w, p, q = (x[SOME] for x in (E, W, p, q))
    together = chain_flow.ends(e, w, p, q)
    for at in ((0, 3), (2, 1), (4, 0)):
        alone = chain_flow.ends(e[at], w[at], p[at], q[at])
        for name in ("e", "w", "loss", "time", "settled"):
            assert getattr(alone, name).shape == ()
            assert getattr(alone, name) == pytest.approx(getattr(together, name)[at], rel=1e-6)


def test_points_that_do_not_move_are_there_at_once() -> None:
    low, high = CHAINS
    e = [0.0, 0.0, float(chain_theory.minima(1.0, *low)), 0.0]
    found = chain_flow.ends(e, [1.0, -0.5, 1.0, chain_theory.SADDLE_W], *low)
    assert found.settled.all()
    assert (found.time == 0).all()
    still = chain_flow.paths(0.0, 0.0, *high, [1.0, 2.0])
    assert np.array_equal(still, np.zeros((2, 2)))
    # So near to a maximum a point is slow, and still leaves; along w = 0, where e alone moves.
    left = chain_flow.ends([1e-9, 1e-9], [1.0, 0.0], *low)
    np.testing.assert_allclose(left.loss, chain_theory.entropy_rate(*low), atol=1e-12)
    assert left.w[1] == 0


@pytest.mark.parametrize(("p", "q"), [(1.0, 0.5), (0.7, 1.0), (1.0, 1.0)])
def test_with_a_certain_transition_the_loss_still_ends_at_its_level(p: float, q: float) -> None:
    found = chain_flow.ends(E[SOME], W[SOME], p, q)
    assert found.settled.all()
    predicted = chain_theory.predicted_basin(E[SOME], W[SOME], p, q)
    np.testing.assert_allclose(found.loss, _level(predicted, p, q), atol=1e-8)
    assert np.abs(found.w[predicted == "global"]).max() > 2


@pytest.mark.parametrize(
    ("times", "words"),
    [([0.0, 1.0], "above 0"), ([1.0, 1.0], "rise"), ([2.0, np.nan], "nan"), ([np.inf], "inf")],
)
def test_times_that_are_none_are_refused(times: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        chain_flow.paths(0.1, 0.1, 0.2, 0.3, times)


def test_other_words_of_refusal() -> None:
    with pytest.raises(UsageError, match=r"times of a flow are \[-1"):
        chain_flow.ends(0.1, 0.1, 0.2, 0.3, until=-1.0)
    with pytest.raises(UsageError, match="p is 0"):
        chain_flow.ends(0.1, 0.1, 0.0, 0.3)


def test_big_weights_settle_where_their_energy_says_or_are_not_called_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = chain_flow.ends([300.0, 300.0], [300.0, -300.0], 0.2, 0.3)
    assert found.settled.all()
    np.testing.assert_allclose(found.loss, chain_theory.entropy_rate(0.2, 0.3), atol=1e-12)
    monkeypatch.setattr(chain_flow, "_MOST_STEPS", 20)
    assert not chain_flow.ends([1e30, 1e60], [-1e30, 1e60], 0.2, 0.3).settled.any()
    with pytest.raises(UsageError, match="takes more than 20 steps"):
        chain_flow.paths(1.0, 1.0, 0.2, 0.3, [1e-3, 50.0])
