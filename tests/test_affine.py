"""Affine maps: answers by hand, and two candidates that are never the same answer."""

from __future__ import annotations

import pytest

from compfast.config import EvaluationConfig
from compfast.errors import UsageError
from compfast.tasks import labels_of
from compfast.tasks.affine import AffineConfig, AffineTask

TASK = AffineTask(AffineConfig(total=3000))


def _by_hand(tokens: list[int], maps: tuple[tuple[int, int], ...], p: int) -> tuple[int, int, int]:
    """(first anchor, second anchor, answer's token) of one sequence."""
    at = next(i for i, token in enumerate(tokens) if token < len(maps))
    x = tokens[at - 1] - len(maps)
    for anchor in tokens[at : at + 2]:
        a, b = maps[anchor]
        x = (a * x + b) % p
    return tokens[at], tokens[at + 1], x + len(maps)


def _swapped(tokens: list[int]) -> list[int]:
    at = next(i for i, token in enumerate(tokens) if token < 4)
    return [*tokens[:at], tokens[at + 1], tokens[at], *tokens[at + 2 :]]


def test_targets_are_the_composed_maps() -> None:
    tokens, targets = TASK.batch(0, 0, 500)
    found = [_by_hand(row, TASK.config.maps, 31) for row in tokens.tolist()]
    assert [answer for *_, answer in found] == targets.tolist()
    pairs = {(first, second) for first, second, _ in found}
    assert len(pairs) == 15
    assert (3, 2) not in pairs


def test_the_order_matters_for_every_key() -> None:
    exam = TASK.exam(EvaluationConfig(seen_items=50, unseen_items=400))
    assert (exam.answers["inferential"] != exam.answers["symmetric"]).all()
    rows = exam.inputs[exam.unseen].tolist()
    own = [_by_hand(row, TASK.config.maps, 31) for row in rows]
    assert {(first, second) for first, second, _ in own} == {(3, 2)}
    assert [answer for *_, answer in own] == exam.answers["inferential"].tolist()
    swapped = [_by_hand(_swapped(row), TASK.config.maps, 31)[2] for row in rows]
    assert swapped == exam.answers["symmetric"].tolist()


def test_test_side_keys_are_never_trained() -> None:
    exam = TASK.exam(EvaluationConfig(seen_items=100, unseen_items=10))
    for rows, side in ((TASK.batch(0, 0, 500)[0], False), (exam.inputs[exam.seen], True)):
        for row in rows.tolist():
            at = next(i for i, token in enumerate(row) if token < 4) - 1
            assert ((row[at] - 4) % 7 == at) is side


def test_maps_that_commute_are_refused() -> None:
    with pytest.raises(UsageError, match="commute"):
        AffineTask(AffineConfig(maps=((2, 0), (3, 0)), unseen=((1, 0),), total=100))
    with pytest.raises(UsageError, match="slopes"):
        AffineConfig(maps=((31, 1), (1, 2)), unseen=((1, 0),))


def test_an_exam_says_what_its_items_are_made_of() -> None:
    exam = TASK.exam(EvaluationConfig(seen_items=100, unseen_items=40))
    labels, rows = labels_of(exam), exam.inputs.tolist()
    own = [_by_hand(row, TASK.config.maps, 31) for row in rows]
    assert labels["anchor1"].argmax(axis=1).tolist() == [first for first, _, _ in own]
    assert labels["anchor2"].argmax(axis=1).tolist() == [second for _, second, _ in own]
    for row, key, at in zip(rows, labels["key"][:, 0], labels["position"][:, 0], strict=True):
        assert row[int(at)] - 4 == key
        assert row[int(at) + 1] < 4
