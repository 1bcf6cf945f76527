"""Markov chains: laws and losses in closed form, draws that follow them, verdicts at the ends."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest

from compfast import _native
from compfast.config import EvaluationConfig
from compfast.errors import UsageError
from compfast.solutions import verdicts
from compfast.streams import philox
from compfast.tasks.markov import MarkovConfig, MarkovTask

# facts of arXiv 2406.03072, 4f: (p, q), P(1), unigram and bigram loss in nats.
TABLE = [
    (0.2, 0.3, 0.4, 0.6730, 0.5446),
    (0.5, 0.8, 0.3846, 0.6663, 0.6190),
    (0.7, 0.9, 0.4375, 0.6853, 0.4858),
    (0.1, 0.1, 0.5, 0.6931, 0.3251),
    (0.9, 0.9, 0.5, 0.6931, 0.3251),
]


def _h(*probabilities: float) -> float:
    return -sum(p * math.log(p) for p in probabilities if p > 0)


@pytest.mark.parametrize(("p", "q", "one", "unigram", "bigram"), TABLE)
def test_the_table_of_reference_losses(
    p: float, q: float, one: float, unigram: float, bigram: float
) -> None:
    task = MarkovTask(MarkovConfig(p=p, q=q))
    assert task.symbols[1] == pytest.approx(one, abs=5e-5)
    assert task.unigram_loss == pytest.approx(unigram, abs=5e-5)
    assert task.bigram_loss == pytest.approx(bigram, abs=5e-5)
    exact = p / (p + q)
    assert task.symbols[1] == pytest.approx(exact, abs=1e-9)
    assert task.unigram_loss == pytest.approx(_h(exact, 1 - exact), abs=1e-6)
    rate = (1 - exact) * _h(p, 1 - p) + exact * _h(q, 1 - q)
    assert task.bigram_loss == pytest.approx(rate, abs=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("states", [2, 3, 5])
def test_a_random_chains_law_is_stationary(states: int, order: int) -> None:
    task = MarkovTask(MarkovConfig(chain="random", states=states, order=order, seq_len=8))
    contexts = states**order
    assert task.kernel.shape == (contexts, states)
    np.testing.assert_allclose(task.kernel.sum(axis=1), 1, atol=1e-12)
    moved = np.zeros(contexts)
    for c in range(contexts):
        for s in range(states):
            moved[(c * states + s) % contexts] += task.stationary[c] * task.kernel[c, s]
    np.testing.assert_allclose(moved, task.stationary, atol=1e-12)
    assert task.bigram_loss < task.unigram_loss


@pytest.mark.parametrize(
    ("states", "p", "bigram", "unigram"),
    [(5, 0.1, 0.464, 1.609), (5, 0.9, 1.573, 1.609)],  # 2406.03072's runs of five states
)
def test_losses_of_a_switching_chain_by_hand(
    states: int, p: float, bigram: float, unigram: float
) -> None:
    task = MarkovTask(MarkovConfig(chain="switching", states=states, p=p))
    assert task.symbols == pytest.approx([1 / states] * states, abs=1e-9)
    assert task.bigram_loss == pytest.approx(bigram, abs=1e-3)
    assert task.bigram_loss == pytest.approx(_h(p, 1 - p) + p * math.log(states - 1), abs=1e-6)
    assert task.unigram_loss == pytest.approx(unigram, abs=1e-3)
    assert task.unigram_loss == pytest.approx(math.log(states), abs=1e-6)


ORDER_K = [(2, 1), (2, 3), (2, 5), (3, 2), (4, 2)]


@pytest.mark.parametrize(("states", "order"), ORDER_K)
def test_the_law_of_an_order_k_chain_is_that_of_all_its_sequences(states: int, order: int) -> None:
    """Enumerated: windows of k + 1 symbols have the same exact law wherever they stand."""
    task = MarkovTask(MarkovConfig(chain="random", states=states, order=order, seq_len=8))
    law = task.stationary.reshape((states,) * order)
    rows = task.kernel.reshape((states,) * order + (states,))
    paths = law  # [V, .., V]: the probability of every sequence
    for more in range(3):
        paths = paths[..., None] * rows[(None,) * more]
    length = order + 3
    for at in range(3):
        outside = tuple(i for i in range(length) if not at <= i <= at + order)
        window = paths.sum(axis=outside)
        np.testing.assert_allclose(window, law[..., None] * rows, atol=1e-12)
    for at in range(length):
        one = paths.sum(axis=tuple(i for i in range(length) if i != at))
        np.testing.assert_allclose(one, task.symbols, atol=1e-12)
    # The entropy rate is what one symbol more adds to the entropy of a sequence.
    last = paths.sum(axis=-1)
    rate = -(paths * np.log(paths)).sum() + (last * np.log(last)).sum()
    assert task.bigram_loss == pytest.approx(float(rate), abs=1e-6)
    assert task.unigram_loss == pytest.approx(_h(*task.symbols.tolist()), abs=1e-6)
    moves = np.zeros((states**order, states**order))
    for c, s in itertools.product(range(states**order), range(states)):
        moves[c, (c * states + s) % states**order] += task.kernel[c, s]
    values, vectors = np.linalg.eig(moves.T)
    still = np.real(vectors[:, np.argmin(np.abs(values - 1))])
    np.testing.assert_allclose(task.stationary, still / still.sum(), atol=1e-9)


@pytest.mark.parametrize(("states", "order"), ORDER_K)
@pytest.mark.parametrize("start", ["stationary", "uniform"])
def test_transition_counts_of_an_order_k_chain_are_exact(
    states: int, order: int, start: Literal["stationary", "uniform"]
) -> None:
    """The counts in a batch are those of the definition, drawn symbol by symbol in fractions."""
    task = MarkovTask(
        MarkovConfig(chain="random", states=states, order=order, seq_len=11, start=start)
    )
    size, width = 40, (task.length - order + 5) // 4 * 4
    words = philox.words(5, philox.TRAIN, 2, 0, 0, size * width).reshape(size, width)
    expected: Counter[tuple[int, ...]] = Counter()
    contexts = list(itertools.product(range(states), repeat=order))  # in the order of the rows
    first = task.stationary if start == "stationary" else np.full(len(contexts), 1 / len(contexts))
    for sequence in words.tolist():
        drawn = list(contexts[_inverse(first, sequence[0])])
        for word in sequence[1 : task.length + 2 - order]:
            context = tuple(drawn[-order:])
            drawn.append(_inverse(task.kernel[contexts.index(context)], word))
            expected[(*context, drawn[-1])] += 1
    tokens, targets = task.batch(5, 2, size)
    symbols = np.concatenate([tokens, targets[:, None]], axis=1)
    found: Counter[tuple[int, ...]] = Counter()
    for row in symbols.tolist():
        found.update(tuple(row[at : at + order + 1]) for at in range(len(row) - order))
    assert found == expected
    assert sum(found.values()) == size * (task.length + 1 - order)


def _inverse(law: Any, word: int) -> int:
    """The symbol whose share of [0, 1) holds the word's first thirty bits, in units of 2^-30."""
    total = Fraction(0)
    for symbol, probability in enumerate(law[:-1].tolist()):
        total += Fraction(probability)
        if word >> 2 < round(total * 2**30):
            return symbol
    return len(law) - 1


CHAINS: dict[str, dict[str, Any]] = {
    "binary": {"p": 0.5, "q": 0.8, "seq_len": 9},
    "certain": {"p": 1.0, "q": 0.25, "seq_len": 7},
    "switching": {"chain": "switching", "states": 5, "p": 0.9, "seq_len": 12},
    "third order": {"chain": "random", "states": 3, "order": 3, "seq_len": 10},
    "as short as its order": {"chain": "random", "states": 2, "order": 4, "seq_len": 4},
    "uniform start": {"p": 0.2, "q": 0.3, "start": "uniform", "seq_len": 5},
}


@pytest.mark.parametrize("name", CHAINS)
def test_cpp_draws_the_same_symbols(name: str) -> None:
    task = MarkovTask(MarkovConfig(**CHAINS[name]))
    for seed, step, size in ((0, 0, 1), (7, 3, 6), (2**53 - 1, 2**31 - 2, 33)):
        tokens, targets = task.batch(seed, step, size)
        drawn = _native.task_batch(task.stream(), seed, step, size)
        assert np.array_equal(drawn[0], tokens)
        assert np.array_equal(drawn[1], targets)


@pytest.mark.parametrize("name", ["binary", "switching", "third order", "uniform start"])
def test_draws_follow_the_kernel(name: str) -> None:
    """Counts of every transition and of the first symbols within five standard deviations."""
    task = MarkovTask(MarkovConfig(**CHAINS[name]))
    order, size = task.config.order, 20_000
    tokens, targets = task.batch(11, 0, size)
    symbols = np.concatenate([tokens, targets[:, None]], axis=1)
    seen: Counter[tuple[int, ...]] = Counter()
    for at in range(symbols.shape[1] - order):
        seen.update(map(tuple, symbols[:, at : at + order + 1].tolist()))
    for c, row in enumerate(task.kernel):
        context = tuple(c // task.config.states**i % task.config.states for i in range(order))[::-1]
        total = sum(seen[(*context, s)] for s in range(task.config.states))
        for s, probability in enumerate(row):
            deviation = math.sqrt(max(total * probability * (1 - probability), 1))
            assert abs(seen[(*context, s)] - total * probability) < 5 * deviation
    ones = (symbols[:, 0] == 1).mean()
    uniform = task.config.start == "uniform"
    law = 1 / task.config.states if uniform else task.symbols[1]
    assert ones == pytest.approx(law, abs=5 * math.sqrt(law * (1 - law) / size))


def test_impossible_symbols_never_come() -> None:
    tokens, targets = MarkovTask(MarkovConfig(p=1.0, q=0.25, seq_len=40)).batch(0, 0, 3000)
    symbols = np.concatenate([tokens, targets[:, None]], axis=1)
    pairs = {pair for row in symbols.tolist() for pair in itertools.pairwise(row)}
    assert pairs == {(0, 1), (1, 0), (1, 1)}


def _logits(laws: Any) -> Any:
    with np.errstate(divide="ignore"):
        return np.log(laws)


def test_verdicts_of_the_two_solutions() -> None:
    task = MarkovTask(MarkovConfig(p=0.5, q=0.8, seq_len=6))
    evaluation = EvaluationConfig(unseen_items=300)
    exam = task.exam(evaluation)
    chain = task.kernel[exam.context]
    law = np.broadcast_to(task.symbols, chain.shape)
    spread = np.full_like(chain, 0.5)
    wrong = np.broadcast_to([0.02, 0.98], chain.shape)
    outputs = 3.0 + _logits(np.stack([chain, law, 0.5 * chain + 0.5 * law, wrong, spread]))
    scores = exam.score(outputs)  # logits are known up to a constant
    rounded = 1e-7  # the root of a loss's own rounding
    assert scores.candidates["global"][:2] == pytest.approx([1, 0], abs=2 * rounded)
    assert scores.candidates["local"][:2] == pytest.approx([0, 1], abs=rounded)
    found = verdicts(scores, evaluation, np.zeros(5, bool)).tolist()
    assert found[:4] == ["global", "local", "mixed", "underfit"]
    assert exam.score(outputs[1:2]).seen[0] == scores.seen[1]
    assert exam.measures == ("exam_loss", "flip_0", "flip_1")
    assert scores.measures["flip_0"][:4] == pytest.approx([0.5, 5 / 13, 23 / 52, 0.98])
    assert scores.measures["flip_1"][:4] == pytest.approx([0.8, 8 / 13, 92 / 130, 0.02])
    assert scores.measures["exam_loss"][:2] == pytest.approx([task.bigram_loss, task.unigram_loss])


def test_a_loss_apart_from_both_is_neither() -> None:
    """The right mean predictions, each far from the law: the loss tells."""
    task = MarkovTask(MarkovConfig(p=0.5, q=0.8, seq_len=6))
    exam = task.exam(EvaluationConfig(unseen_items=400))
    sign = np.where(np.arange(400) % 2, 1.0, -1.0)[:, None] * [1.0, -1.0]
    law = np.broadcast_to(task.symbols, (400, 2))
    scores = exam.score(_logits(law + 0.3 * sign)[None])
    assert scores.candidates["global"] == scores.candidates["local"] == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"p": 0.0}, "task.p is 0.0"),
        ({"states": 3}, "a binary chain has 2"),
        ({"order": 2}, "order 1"),
        ({"chain": "random", "states": 100, "order": 3}, "1000000 contexts"),
        ({"chain": "random", "order": 3, "seq_len": 2}, "at most task.seq_len"),
    ],
)
def test_chains_that_are_none_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        MarkovConfig(**fields)


def test_a_chain_without_memory_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to tell apart"):
        MarkovTask(MarkovConfig(p=0.3, q=0.7))
