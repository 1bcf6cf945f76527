"""Symbolic Raven matrices: a grid per rule by hand, splits, draws in C++ and NumPy, ambiguity."""

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
from compfast.tasks.sraven import SravenConfig, SravenTask
from compfast.tasks.sraven_exam import RavenExam
from compfast.tasks.sraven_rules import RULES, ambiguous, grids

# Rows drawn with (a, b) = (1, 2), (6, 5), (7, 3), modulo 8.
GRIDS = {
    "constant": ["111", "666", "777"],
    "progression +1": ["123", "670", "701"],
    "progression +2": ["135", "602", "713"],
    "progression -1": ["107", "654", "765"],
    "progression -2": ["175", "642", "753"],
    "addition": ["123", "653", "732"],
    "difference": ["127", "651", "734"],
}


def _task(**fields: Any) -> SravenTask:
    return SravenTask(SravenConfig(**fields))


def _word(choice: int, among: int) -> int:
    """A word that draws this choice."""
    return -(-choice * 2**32 // among)


def _rows(rows: list[str]) -> list[list[int]]:
    return [[int(symbol) for symbol in row] for row in rows]


@pytest.mark.parametrize("name", RULES)
def test_a_grid_of_every_rule(name: str) -> None:
    words = [[_word(a, 8), _word(b, 8)] for a, b in ((1, 2), (6, 5), (7, 3))]
    expected = GRIDS.get(name)
    if expected is None:  # the fiftieth triple is 1, 2, 3; orders 3 and 5 of six are 120 and 210
        words = [[_word(49, 336), 0], [_word(3, 6), 0], [_word(5, 6), 0]]
        expected = ["123", "231", "321"]
    rule = np.array([[RULES.index(name)]], np.int32)
    drawn = grids(rule, np.array([[words]], np.uint32), 8)
    assert drawn[0, 0].tolist() == _rows(expected)


def test_counts_of_rule_sets() -> None:
    task = _task()
    assert (len(task.trained), len(task.held_out)) == (248, 82)
    both = {tuple(row) for row in np.concatenate([task.trained, task.held_out]).tolist()}
    assert both == set(itertools.combinations_with_replacement(range(8), 4))
    assert (_task(split_seed=1).trained != task.trained).any()


VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "in one order": {"permuted": False},
    "one feature": {"features": 1},
    "five symbols": {"features": 2, "symbols": 5},
    "eleven symbols": {"features": 5, "symbols": 11, "frac_test": 0.5},
}


@pytest.mark.usefixtures("native_extension")
@pytest.mark.parametrize("name", VARIANTS)
def test_cpp_draws_the_same_grids(name: str) -> None:
    task = _task(**VARIANTS[name])
    for seed, step, size in ((0, 0, 1), (7, 3, 6), (2**53 - 1, 2**31 - 2, 65)):
        vectors, targets = task.batch(seed, step, size)
        drawn = _native.task_batch(task.stream(), seed, step, size)
        assert vectors.shape == (size, task.length, task.width)
        assert targets.shape == (size, task.asked)
        for got, want in zip(drawn, (vectors, targets), strict=True):
            assert got.dtype == want.dtype
            assert got.tobytes() == want.tobytes()


def test_tokens_are_the_panels_by_hand() -> None:
    """Two features, each column with an order of its own; the queries are empty."""
    task = _task(features=2)
    width, seed = 16, 3  # 4 + 2 x 6 words
    words = philox.words(seed, philox.TRAIN, 0, 0, 0, 20 * width).reshape(20, width)
    vectors, targets = task.batch(seed, 0, 20)
    panels, rules = task.drawn(seed, philox.TRAIN, 0, 0, 20, task.trained)
    moved = 0
    for b, own in enumerate(words.tolist()):
        drawn = task.trained[own[0] * 27 >> 32]
        asked = drawn[::-1] if own[3] >= 2**31 else drawn  # in the order of the third column
        assert rules[b].tolist() == asked.tolist()
        body = np.array(own[4:], np.uint32).reshape(1, 2, 3, 2)
        features = grids(drawn[None], body, 8)[0]  # [2, row, column]
        for column in range(3):
            swapped = own[1 + column] >= 2**31
            moved += swapped
            shown = features[::-1] if swapped else features
            assert panels[b, :, column].T.tolist() == shown[:, :, column].tolist()
        tokens = vectors[b].reshape(9, 2, 8)
        assert (tokens[8] == 0).all()
        assert (tokens[:8].sum(axis=2) == 1).all()
        assert tokens[:8].argmax(axis=2).tolist() == panels[b].reshape(9, 2)[:8].tolist()
        assert targets[b].tolist() == panels[b, 2, 2].tolist()
    assert 0 < moved < 60


def test_what_is_drawn_never_changes() -> None:
    drawn = b"".join(array.tobytes() for array in _task().batch(3, 17, 4))
    assert hashlib.sha256(drawn).hexdigest()[:16] == "ab7f3aa370820acf"


def test_a_batch_does_not_depend_on_its_size() -> None:
    task = _task()
    whole = task.batch(5, 2, 12)
    for size in (1, 7):
        for got, want in zip(task.batch(5, 2, size), whole, strict=True):
            assert got.tobytes() == want[:size].tobytes()


def _panels(*features: list[str]) -> Any:
    """[1, row, column, K]"""
    return np.moveaxis(np.array([_rows(rows) for rows in features]), 0, 2)[None]


def test_ambiguity_by_hand() -> None:
    either = ["044", "246", "123"]  # a + b and a - b alike but in the last row
    sums = ["123", "653", "732"]
    for features, some, everywhere in (
        ([either], True, True),
        ([sums], False, False),
        ([either, sums], True, False),
    ):
        for permuted in (True, False):
            found = ambiguous(_panels(*features), 8, permuted)
            assert [bool(kind[0]) for kind in found] == [some, everywhere], features


def test_ambiguity_is_that_of_a_search_by_hand() -> None:
    """Every order of two columns' features, every rule: what else could the ninth panel be?"""
    task = _task(features=2, symbols=5)
    panels, _ = task.drawn(1, philox.TRAIN, 0, 0, 300, task.trained)
    some, _ = ambiguous(panels, 5, permuted=True)
    for panel, found in zip(panels.tolist(), some.tolist(), strict=True):
        answers = set()
        for second, third in itertools.product(itertools.permutations(range(2)), repeat=2):
            ends = []
            for i in range(2):
                rows = [(row[0][i], row[1][second[i]], row[2][third[i]]) for row in panel]
                ends.append({(third[i], end) for end in range(5) if _fits(rows, end, 5)})
            answers |= {tuple(sorted(pair)) for pair in itertools.product(*ends)}
        true = tuple(enumerate(panel[2][2]))
        assert true in answers
        assert found == (len(answers) > 1)
    assert 0 < some.mean() < 1


def _fits(rows: list[tuple[int, int, int]], end: int, symbols: int) -> bool:
    """Whether any rule makes the first two rows, and the third with this end."""
    a, b, _ = rows[2]
    full = [*rows[:2], (a, b, end)]
    steps = any(
        all((y - x - s) % symbols == 0 == (z - y - s) % symbols for x, y, z in full)
        for s in (0, 1, 2, -1, -2)
    )
    sums = any(all((x + sign * y - z) % symbols == 0 for x, y, z in full) for sign in (1, -1))
    spread = len({frozenset(row) for row in full}) == 1 and all(len(set(row)) == 3 for row in full)
    return steps or sums or spread


def test_fewer_than_half_a_percent_are_ambiguous_as_the_paper_counts() -> None:
    """Its check asks for an assignment whose every answer may be wrong. That some answer may be
    wrong is the case of a quarter of the grids: their rules cannot be told from eight panels."""
    task = _task()
    panels, _ = task.drawn(0, philox.TRAIN, 0, 0, 3000, task.trained)
    some, everywhere = ambiguous(panels, 8, permuted=True)
    assert everywhere.mean() < 0.005
    assert 0.2 < some.mean() < 0.3


def _outputs(answers: Any, symbols: int) -> Any:
    return 5.0 * (np.asarray(answers)[..., None] == np.arange(symbols))


def test_verdicts_of_the_solutions() -> None:
    evaluation = EvaluationConfig(seen_items=50, unseen_items=400)
    exam = _task().exam(evaluation)
    right = exam.panels[:, 2, 2]
    said = [right.copy() for _ in range(4)]
    for row, answer in zip(said, exam.answers().values(), strict=False):
        row[exam.splits["unseen"]] = answer
    said[3] = (right + 1) % 8  # nothing is right
    outputs = _outputs(np.stack(said), 8)
    scores = exam.score(outputs)
    found = verdicts(scores, evaluation, np.zeros(4, bool)).tolist()
    assert found == ["rule", "frequency", "column", "underfit"]
    assert scores.measures["ood_accuracy"][[0, 3]].tolist() == [1, 0]
    assert scores.measures["seen_accuracy"].tolist() == [1, 1, 1, 0]
    assert scores.other[:3].tolist() == [0, 0, 0]
    assert scores.other[3] > 0.5
    for member in range(4):
        assert exam.score(outputs[member : member + 1]).other[0] == scores.other[member]
    assert exam.score(np.full_like(outputs, np.nan)).seen.shape == (4,)


def test_scores_by_hand() -> None:
    """Two features: symbol 3 is the most frequent one, and the panel above says 5 and 3."""
    panels = np.zeros((1, 3, 3, 2), np.int32)
    panels[0] = [[[3, 0], [3, 1], [3, 2]], [[3, 4], [0, 1], [5, 3]], [[1, 2], [4, 6], [5, 7]]]
    exam = RavenExam(np.zeros((2, 18, 8), np.float32), np.repeat(panels, 2, axis=0), 1, 8)
    assert {name: row.tolist() for name, row in exam.answers().items()} == {
        "rule": [[5, 7]],
        "frequency": [[3, 3]],
        "column": [[5, 3]],
    }
    scores = exam.score(_outputs([[[5, 7], [5, 3]], [[5, 1], [0, 2]]], 8))
    assert scores.seen.tolist() == [1, 0.5]
    assert [scores.candidates[n].tolist() for n in exam.candidates] == [[0.5, 0], [0.5, 0], [1, 0]]
    assert scores.other.tolist() == [0, 1]  # 5 -> 0 and 7 -> 2 are one difference
    assert scores.measures["ood_feature_accuracy"].tolist() == [0.5, 0]
    assert scores.measures["ood_accuracy"].tolist() == [0, 0]
    assert scores.measures["seen_accuracy"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"features": 7}, "task.features is 7; it must be in 1..6"),
        ({"symbols": 4}, "task.symbols is 4; it must be in 5..32"),
        ({"frac_test": 0.0}, "task.frac_test is 0"),
    ],
)
def test_matrices_that_are_none_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SravenConfig(**fields)


def test_a_split_without_a_side_is_refused() -> None:
    with pytest.raises(UsageError, match="of 8 sets of rules holds out 0; at least one"):
        _task(features=1, frac_test=0.1)
