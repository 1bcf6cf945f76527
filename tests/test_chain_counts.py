"""Add-beta counting estimators: by hand, against a count one by one, and as probability laws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from compfast.errors import UsageError
from compfast.tasks import chain_counts as counts
from compfast.tasks.markov import MarkovConfig, MarkovTask


def _law(before: tuple[int, ...], states: int, order: int, beta: Fraction) -> list[Fraction]:
    """The definition: every symbol so far that followed the last k is looked at."""
    if len(before) < order:
        return [Fraction(1, states)] * states
    context = before[len(before) - order :]
    after = [
        before[i + order]
        for i in range(len(before) - order)
        if before[i : i + order] == context
    ]  # fmt: skip
    return [(after.count(x) + beta) / (len(after) + states * beta) for x in range(states)]


@pytest.mark.parametrize(
    ("beta", "law", "chances"),
    [
        # 0 1 1 0 1 1: after 1 came 1, 0, 1; after 0 came 1, 1
        (0.5, [1.5 / 4, 2.5 / 4], [1 / 2, 1 / 2, 1 / 2, 0.5 / 2, 1.5 / 2, 1.5 / 3]),
        (1.0, [2 / 5, 3 / 5], [1 / 2, 1 / 2, 1 / 2, 1 / 3, 2 / 3, 2 / 4]),
    ],
)
def test_a_sequence_by_hand(beta: float, law: list[float], chances: list[float]) -> None:
    sequence = [[0, 1, 1, 0, 1, 1]]
    np.testing.assert_allclose(counts.predictive(sequence, 2, 1, beta), [law], rtol=1e-15)
    np.testing.assert_allclose(counts.chances(sequence, 2, 1, beta), [chances], rtol=1e-15)
    mean = -sum(map(math.log, chances[1:])) / 5
    assert counts.mean_loss(sequence, 2, 1, beta) == pytest.approx(mean, rel=1e-14)


@pytest.mark.parametrize(("states", "length"), [(2, 7), (3, 5)])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("beta", [0.5, 1.0, 0.03, 7.0])
def test_every_short_sequence(states: int, length: int, order: int, beta: float) -> None:
    """All V^L sequences: each prediction is the definition's, and they make a law."""
    every = list(itertools.product(range(states), repeat=length))
    laws = {
        before: _law(before, states, order, Fraction(beta))
        for size in range(length + 1)
        for before in itertools.product(range(states), repeat=size)
    }
    expected = [[float(laws[s[:t]][s[t]]) for t in range(length)] for s in every]
    found = counts.chances(every, states, order, beta)
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    assert found.prod(axis=1).sum() == pytest.approx(1, abs=1e-12)
    after = counts.predictive(every, states, order, beta)
    np.testing.assert_allclose(after, [[float(x) for x in laws[s]] for s in every], rtol=1e-14)
    mean = np.mean([-math.log(x) for row in expected for x in row[1:]])
    assert counts.mean_loss(every, states, order, beta) == pytest.approx(mean, rel=1e-13)


def test_krichevsky_and_trofimovs_closed_form() -> None:
    """P of a ones and b zeros is Gamma(a + 1/2) Gamma(b + 1/2) / (pi Gamma(a + b + 1))."""
    rng = np.random.default_rng(0)
    sequences = rng.integers(0, 2, (5, 300))
    logs = np.log(counts.chances(sequences, 2, order=0)).sum(axis=1)
    for log, ones in zip(logs, sequences.sum(axis=1), strict=True):
        closed = math.lgamma(ones + 0.5) + math.lgamma(300 - ones + 0.5)
        closed -= math.log(math.pi) + math.lgamma(301)
        assert log == pytest.approx(closed, rel=1e-12)


def test_sequences_do_not_know_each_other_and_any_integers_will_do() -> None:
    sequences = np.random.default_rng(1).integers(0, 3, (6, 40))
    together = counts.chances(sequences, 3, 2)
    for dtype in (np.int32, np.uint8, np.uint64):
        assert np.array_equal(counts.chances(sequences.astype(dtype), 3, 2), together)
    for row, sequence in enumerate(sequences):
        assert np.array_equal(counts.chances(sequence[None], 3, 2), together[row : row + 1])
    grown = np.stack([counts.predictive(sequences[:, :t], 3, 2) for t in range(40)], axis=1)
    chosen = np.take_along_axis(grown, sequences[..., None], axis=2)[..., 0]
    assert np.array_equal(chosen, together)


def test_losses_of_a_chain_come_near_its_own() -> None:
    """Each right order ends (about V^k (V - 1) / 2 log L) / L above the chain's loss."""
    task = MarkovTask(MarkovConfig(p=0.2, q=0.3, seq_len=1023))
    sequences = np.column_stack(task.batch(0, 0, 200))
    bigram = counts.mean_loss(sequences, 2)
    assert task.bigram_loss < bigram < task.bigram_loss + 0.012
    unigram = counts.mean_loss(sequences, 2, order=0)
    assert task.unigram_loss - 0.005 < unigram < task.unigram_loss + 0.01
    deep = counts.mean_loss(sequences, 2, order=3)
    assert bigram < deep < task.bigram_loss + 0.04

    second = MarkovTask(MarkovConfig(chain="random", states=3, order=2, seq_len=511))
    drawn = np.column_stack(second.batch(0, 0, 100))
    losses = [counts.mean_loss(drawn, 3, order) for order in range(5)]
    assert np.argmin(losses) == 2
    assert second.bigram_loss < losses[2] < second.bigram_loss + 0.08


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: counts.predictive([[0, 2]], 2), r"go from 0 to 2; with 2 states .* 0\.\.1"),
        (lambda: counts.chances([[0, -1]], 2), "go from -1 to 0"),
        (lambda: counts.chances(np.array([0, 1]), 2), r"shape \[2\] and type int64"),
        (lambda: counts.chances(np.ones((1, 2)), 2), "type float64; they must be integers"),
        (lambda: counts.chances([[0, 1]], 1), "states is 1; it must be at least 2"),
        (lambda: counts.chances([[0, 1]], 2, -1), r"order is -1; with 2 states .* 0\.\.61"),
        (lambda: counts.chances([[0, 1]], 1024, 6), r"order is 6; .* 0\.\.5"),
        (lambda: counts.chances([[0, 1]], 2, 1, 0.0), r"beta is 0\.0; it must be above 0"),
        (lambda: counts.chances([[0, 1]], 2, 1, math.nan), "beta is nan"),
        (lambda: counts.chances([[0, 1]], 2, 1, math.inf), "beta is inf"),
        (lambda: counts.mean_loss([[0], [1]], 2), "no sequence has a second symbol"),
    ],
)
def test_what_has_no_answer_is_refused(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        call()
