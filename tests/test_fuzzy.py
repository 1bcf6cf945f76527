"""Fuzzy logic: truth tables and splits by hand, draws in C++ and NumPy, verdicts at the ends."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import numpy as np
import pytest

from compfast import _native
from compfast.config import EvaluationConfig
from compfast.errors import UsageError
from compfast.solutions import verdicts
from compfast.streams import philox
from compfast.tasks.fuzzy import FuzzyConfig, FuzzyTask
from compfast.tasks.regression import Split

# Terms of two variables: not a and not b, not a and b, a and not b, a and b.
CORNERS = {
    (0.0, 0.0): (1, 0, 0, 0),
    (0.0, 1.0): (0, 1, 0, 0),
    (1.0, 0.0): (0, 0, 1, 0),
    (1.0, 1.0): (0, 0, 0, 1),
}
INSIDE = {  # at a = 1/4, b = 5/8
    "zadeh": (0.375, 0.625, 0.25, 0.25),
    "product": (0.28125, 0.46875, 0.09375, 0.15625),
}
PAIRS = {  # a disjunction of two of them there
    "zadeh": {(0, 1): 0.625, (0, 2): 0.375, (0, 3): 0.375, (1, 2): 0.625, (1, 3): 0.625},
    "product": {(0, 1): 0.6181640625, (0, 3): 0.3935546875, (2, 3): 0.2353515625},
}


def _task(**fields: Any) -> FuzzyTask:
    return FuzzyTask(FuzzyConfig(**fields))


def _two(operators: Any, terms: int) -> FuzzyTask:
    return _task(variables=2, terms=terms, operators=operators, frac_unknown=0, frac_test=0.5)


def _at(task: FuzzyTask, point: tuple[float, ...], chosen: tuple[int, ...]) -> float:
    x = np.array(point, np.float32)[None, None]
    return float(task.values(x, np.array([chosen], np.int32))[0, 0])


@pytest.mark.parametrize("operators", ["zadeh", "product"])
def test_truth_tables_of_every_term(operators: str) -> None:
    one, two = _two(operators, 1), _two(operators, 2)
    for term in range(4):
        for point, table in CORNERS.items():
            assert _at(one, point, (term,)) == table[term]
        assert _at(one, (0.25, 0.625), (term,)) == INSIDE[operators][term]
    for first, second in itertools.combinations(range(4), 2):
        for point, table in CORNERS.items():
            assert _at(two, point, (first, second)) == (table[first] or table[second])
    for pair, value in PAIRS[operators].items():
        assert _at(two, (0.25, 0.625), pair) == value


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        ({}, (20, 46, 6)),
        ({"frac_test": 0.5}, (33, 33, 6)),
        ({"variables": 3}, (5, 10, 1)),
        ({"variables": 5, "terms": 3}, (608, 1416, 56)),
        ({"frac_unknown": 0.0, "frac_test": 0.25}, (90, 30, 0)),
    ],
)
def test_counts_of_combinations(fields: dict[str, Any], counts: tuple[int, ...]) -> None:
    task = _task(**fields)
    assert tuple(map(len, (task.trained, task.held_out, task.unknown))) == counts
    known = {tuple(row) for row in np.concatenate([task.trained, task.held_out]).tolist()}
    terms = range(task.config.known)
    assert known == set(itertools.combinations(terms, task.config.terms))
    assert (task.unknown >= task.config.known).all()


def test_a_split_has_a_seed_of_its_own() -> None:
    splits = [{tuple(row) for row in _task(split_seed=s).trained.tolist()} for s in range(3)]
    assert splits[0] != splits[1] != splits[2]


VARIANTS: dict[str, dict[str, Any]] = {
    "zadeh": {},
    "product": {"operators": "product", "samples": 16},
    "three variables": {"variables": 3, "samples": 5},
    "three terms": {"variables": 5, "terms": 3, "operators": "product", "samples": 7},
    "one term": {"terms": 1, "samples": 2},
}


@pytest.mark.usefixtures("native_extension")
@pytest.mark.parametrize("name", VARIANTS)
def test_cpp_draws_the_same_bits(name: str) -> None:
    task = _task(**VARIANTS[name])
    for seed, step, size in ((0, 0, 1), (7, 3, 6), (2**53 - 1, 2**31 - 2, 33)):
        vectors, values = task.batch(seed, step, size)
        drawn = _native.task_batch(task.stream(), seed, step, size)
        assert vectors.shape == (size, task.length, task.width)
        assert values.shape == (size, 1, 1)
        for got, want in zip(drawn, (vectors, values), strict=True):
            assert got.dtype == want.dtype == np.float32
            assert got.tobytes() == want.tobytes()


def test_a_sequence_by_its_words() -> None:
    """Combination, then the variables example by example, each sequence from its own words."""
    task = _task(samples=3)
    vectors, values = task.batch(11, 4, 2)
    width = 16  # 1 + 3 x 4 words, in blocks of four
    words = philox.words(11, philox.TRAIN, 4, 0, 0, 2 * width).reshape(2, width)
    for b, own in enumerate(words.tolist()):
        terms = task.trained[own[0] * len(task.trained) >> 32].tolist()
        for i in range(3):
            x = [((w >> 9) + 0.5) / 2**23 for w in own[1 + 4 * i : 5 + 4 * i]]
            literals = [
                [v if t >> (3 - at) & 1 else 1 - v for at, v in enumerate(x)] for t in terms
            ]
            value = max(min(row) for row in literals)
            assert vectors[b, i].tolist() == [*x, value if i < 2 else 0.0]
        assert values[b, 0, 0] == value


@pytest.mark.parametrize(
    ("operators", "digest"), [("zadeh", "a35cd48ac8c280b8"), ("product", "7c1f9348e8e8f7f7")]
)
def test_what_is_drawn_never_changes(operators: str, digest: str) -> None:
    drawn = b"".join(array.tobytes() for array in _task(operators=operators).batch(3, 17, 4))
    assert hashlib.sha256(drawn).hexdigest()[:16] == digest


def test_a_batch_does_not_depend_on_its_size() -> None:
    task = _task(samples=9)
    whole = task.batch(5, 2, 12)
    for size in (1, 7):
        for got, want in zip(task.batch(5, 2, size), whole, strict=True):
            assert got.tobytes() == want[:size].tobytes()


def test_verdicts_of_the_solutions() -> None:
    evaluation = EvaluationConfig(seen_items=50, unseen_items=400)
    exam = _task().exam(evaluation)
    said = np.zeros((4, len(exam.inputs)))
    said[:, exam.splits["seen"]] = exam.parts["seen"].target
    for row, values in zip(said, exam.answers.values(), strict=False):
        row[exam.splits["unseen"]] = values
    said[3] = np.nan
    outputs = said.astype(np.float32)[..., None, None]
    scores = exam.score(outputs)
    assert verdicts(scores, evaluation, np.array([False] * 3 + [True])).tolist() == [
        "inferential",
        "nearest",
        "mean",
        "diverged",
    ]
    for member, name in enumerate(exam.candidates):
        found = scores.candidates[name][member]
        assert found == pytest.approx(1, abs=1e-9)
        assert exam.score(outputs[member : member + 1]).candidates[name][0] == found
    assert scores.candidates["mean"][0] == pytest.approx(0, abs=1e-6)
    assert scores.candidates["inferential"][2] == pytest.approx(0, abs=1e-6)
    assert exam.measures == ("seen_r2", "ood_r2", "unknown_r2")
    assert scores.measures["ood_r2"][0] == pytest.approx(1, abs=1e-9)
    assert scores.measures["ood_r2"][2] < 0
    assert scores.measures["unknown_r2"][0] < 0
    with np.errstate(all="raise"):
        assert exam.score(np.full_like(outputs, np.inf)).candidates["mean"].tolist() == [0] * 4


def test_r2_is_the_papers_by_hand() -> None:
    """Per sequence, over the variance of all its targets; then the mean over sequences."""
    task = _task(samples=4)
    exam = task.exam(EvaluationConfig(seen_items=3, unseen_items=5))
    rows = exam.splits["unseen"]
    part = exam.parts["unseen"]
    predicted = np.linspace(0, 1, 5)
    expected = []
    for i, row in enumerate(exam.inputs[rows].astype(np.float64)):
        targets = [*row[:-1, -1], part.target[i]]
        mean = sum(targets) / 4
        variance = sum((t - mean) ** 2 for t in targets) / 4
        expected.append(1 - (predicted[i] - targets[-1]) ** 2 / variance)
    assert part.r2(predicted[None])[0] == pytest.approx(np.mean(expected), rel=1e-12)


def test_a_sequence_whose_targets_are_equal_has_no_r2() -> None:
    inputs = np.zeros((2, 1, 1), np.float32)
    one = Split(inputs, np.array([0.5, 0.0]), np.array([0.0, 0.25]))
    assert one.r2(np.array([[0.0, 0.25]])).tolist() == [0.75]
    none = Split(inputs, np.zeros(2), np.zeros(2))
    assert np.isnan(none.r2(np.zeros((1, 2)))).all()


def test_nearest_is_the_best_trained_combination() -> None:
    task = _task(samples=6)
    exam = task.exam(EvaluationConfig(seen_items=4, unseen_items=7))
    for i, row in enumerate(exam.inputs[exam.splits["unseen"]].astype(np.float64)):
        errors = []
        for terms in task.trained.tolist():
            said = [_at(task, tuple(x[:-1]), tuple(terms)) for x in row]
            errors.append(
                (sum((s - x[-1]) ** 2 for s, x in zip(said[:-1], row, strict=False)), said)
            )
        assert exam.answers["nearest"][i] == min(errors, key=lambda pair: pair[0])[1][-1]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"samples": 1}, "task.samples is 1; it must be at least 2"),
        ({"frac_test": 1.0}, "task.frac_test is 1.0"),
        ({"frac_unknown": -0.1}, "task.frac_unknown is -0.1"),
        ({"variables": 2, "terms": 2}, "3 are known and 1 unknown"),
        ({"variables": 9, "terms": 4}, "combinations; at most 65536 are taken"),
    ],
)
def test_logic_that_is_none_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        FuzzyConfig(**fields)


def test_a_batch_with_more_words_than_a_stream_is_refused() -> None:
    task = _task(samples=2**14)
    task.check_batch(2**32 // 16385)
    with pytest.raises(UsageError, match="takes 16385 blocks of random words, so it must be at"):
        task.check_batch(2**32 // 16385 + 1)


def test_a_split_without_a_side_is_refused() -> None:
    with pytest.raises(UsageError, match="of 66 combinations holds out 0; at least one"):
        _task(frac_test=0.01)
