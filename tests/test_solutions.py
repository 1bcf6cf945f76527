"""Verdicts on hand-made predictions, intervals against published and independent numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compfast.config import EvaluationConfig
from compfast.errors import UsageError
from compfast.solutions import (
    band_difference,
    paper_protocol,
    verdicts,
    wilson,
)
from compfast.tasks import Scores
from compfast.tasks.scoring import AnswerExam

KEYS = np.arange(30, 40)


def exam(**answers: np.ndarray[Any, Any]) -> AnswerExam:
    """4 seen items, then 10 held-out ones."""
    tokens, targets = np.zeros((14, 3), np.int32), np.array([1, 2, 3, 4], np.int32)
    return AnswerExam(tokens, slice(0, 4), slice(4, 14), targets, answers)


def both() -> AnswerExam:
    return exam(inferential=KEYS - 10, symmetric=KEYS - 6)


def member(seen: int, *held_out: tuple[int, int]) -> np.ndarray[Any, Any]:
    """`seen` right answers of 4, then (count, shift) runs of held-out answers."""
    first = np.where(np.arange(4) < seen, [1, 2, 3, 4], 0)
    shifts = np.concatenate([np.full(count, shift) for count, shift in held_out])
    return np.concatenate([first, KEYS + shifts])


def label(prediction: np.ndarray[Any, Any], diverged: bool = False, the_exam: Any = None) -> str:
    scores = (the_exam or both()).score(prediction[None])
    return str(verdicts(scores, EvaluationConfig(), np.array([diverged]))[0])


def test_agreements_are_shares_of_items() -> None:
    scores = both().score(np.stack([member(3, (5, -10), (3, -6), (2, 7)), member(4, (10, -10))]))
    assert scores.seen.tolist() == [0.75, 1.0]
    assert scores.candidates["inferential"].tolist() == [0.5, 1.0]
    assert scores.candidates["symmetric"].tolist() == [0.3, 0.0]
    assert scores.other.tolist() == [0.2, 0.0]


def test_other_is_one_shift_and_not_all_that_is_left() -> None:
    scores = both().score(member(4, (4, -10), (3, 7), (2, 8), (1, 9))[None])
    assert scores.other.tolist() == [0.3]


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        (member(4, (10, -10)), "inferential"),
        (member(4, (10, -6)), "symmetric"),
        (member(3, (10, -6)), "underfit"),
        (member(4, (6, -10), (4, -6)), "inferential"),  # a lead of exactly 0.2
        (member(4, (5, -10), (5, -6)), "mixed"),
        (member(4, (5, -10), (4, 3), (1, -6)), "mixed"),  # leads the other answer by 0.1 only
        (member(4, (5, -10), (3, 3), (2, -6)), "inferential"),
        (member(4, (4, -10), (6, 3)), "other"),
        (member(4, (3, -10), (2, -6), (5, 3)), "mixed"),  # together exactly 0.5
        (member(4, (3, -10), (1, -6), (6, 3)), "other"),
        (member(4, (10, 3)), "other"),
    ],
)
def test_verdict(prediction: np.ndarray[Any, Any], expected: str) -> None:
    assert label(prediction) == expected


def test_diverged_overrules_and_a_single_candidate_works() -> None:
    alone = exam(inferential=KEYS - 10)
    assert label(member(4, (10, -10)), diverged=True) == "diverged"
    assert label(member(4, (10, -10)), the_exam=alone) == "inferential"
    assert label(member(4, (4, -10), (6, -6)), the_exam=alone) == "other"


def test_thresholds_are_read_from_the_configuration() -> None:
    scores = both().score(member(3, (4, -10), (3, -6), (3, 1))[None])
    lenient = EvaluationConfig(fitted=0.75, share=0.4, lead=0.1)
    assert verdicts(scores, lenient, np.array([False])).tolist() == ["inferential"]


@given(st.lists(st.tuples(*[st.integers(0, 10)] * 3), min_size=1, max_size=20))
def test_a_verdict_does_not_depend_on_the_other_members(counts: list[tuple[int, int, int]]) -> None:
    shares = np.array(counts) / 30
    scores = Scores(
        np.ones(len(counts)), {"inferential": shares[:, 0], "symmetric": shares[:, 1]}, shares[:, 2]
    )
    together = verdicts(scores, EvaluationConfig(share=0.1, mixed=0.2), np.zeros(len(counts), bool))
    for i in range(len(counts)):
        one = Scores(
            scores.seen[[i]],
            {k: v[[i]] for k, v in scores.candidates.items()},
            scores.other[[i]],
        )
        alone = verdicts(one, EvaluationConfig(share=0.1, mixed=0.2), np.array([False]))
        assert alone[0] == together[i]


def test_wilson_against_published_values() -> None:
    # Newcombe 1998, table I, method 3: 81/263, 15/148, 0/20, 1/29.
    low, high = wilson([81, 15, 0, 1], [263, 148, 20, 29])
    assert np.round(low, 4).tolist() == [0.2553, 0.0624, 0.0, 0.0061]
    assert np.round(high, 4).tolist() == [0.3662, 0.1605, 0.1611, 0.1718]


def test_wilson_edges() -> None:
    low, high = wilson([0, 5], [0, 5])
    assert (low[0], high[0], high[1]) == (0.0, 1.0, 1.0)
    with pytest.raises(UsageError, match="between 0 and the total"):
        wilson(3, 2)


def _grid(seeds: int, gammas: list[float]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return np.repeat(gammas, seeds), np.tile(np.arange(seeds), len(gammas))


def test_band_difference_of_equal_bands_of_one_outcome_is_exact() -> None:
    gamma, seed = _grid(8, [0.1, 0.3, 0.9, 1.1])
    result = band_difference(gamma, seed, gamma > 0.5, (0.9, 1.1), (0.1, 0.3))
    assert (result.estimate, result.low, result.high) == (1.0, 1.0, 1.0)


def test_band_difference_pairs_seeds() -> None:
    # Every seed has its own share, equal in both bands: the paired difference never varies.
    gamma, seed = _grid(16, [0.1, 0.9])
    result = band_difference(gamma, seed, seed % 2 == 0, (0.9, 0.9), (0.1, 0.1))
    assert (result.estimate, result.low, result.high) == (0.0, 0.0, 0.0)


def test_band_difference_interval_has_the_width_of_the_normal_theory() -> None:
    gamma, seed = _grid(400, [0.1, 0.9])
    generator = np.random.Generator(np.random.Philox(7))
    hit = generator.random(len(gamma)) < np.where(gamma > 0.5, 0.7, 0.4)
    result = band_difference(gamma, seed, hit, (0.9, 0.9), (0.1, 0.1), samples=4000)
    paired = hit[400:].astype(float) - hit[:400]
    expected = 2 * 1.96 * paired.std() / 20
    assert result.high - result.low == pytest.approx(expected, rel=0.08)
    assert result.low < result.estimate < result.high
    again = band_difference(gamma, seed, hit, (0.9, 0.9), (0.1, 0.1), samples=4000)
    assert again == result


def test_band_difference_refuses_an_unpaired_seed() -> None:
    with pytest.raises(UsageError, match="every seed in both"):
        band_difference([0.1, 0.9, 0.1], [0, 0, 1], [1, 1, 1], (0.1, 0.1), (0.9, 0.9))


def test_paper_protocol_takes_the_best_rate_for_each_mapping_then_the_mean_over_seeds() -> None:
    table = {
        "gamma": np.array([0.8, 0.8, 0.8, 0.8, 0.5]),
        "layers": np.array([2, 2, 2, 2, 2]),
        "seed": np.array([0, 0, 1, 1, 0]),
        "inferential": np.array([0.9, 0.1, 0.5, np.nan, 0.2]),
        "symmetric": np.array([0.0, 0.6, 0.2, 0.3, 0.7]),
    }
    result = paper_protocol(table)
    assert result["gamma"].tolist() == [0.5, 0.8]
    assert result["inferential"].tolist() == [0.2, 0.7]
    assert np.allclose(result["symmetric"], [0.7, 0.45])
    assert result["seeds"].tolist() == [1, 2]
