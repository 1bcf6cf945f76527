"""Modular arithmetic: the split, the rule, and its two verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compfast.config import EvaluationConfig
from compfast.errors import UsageError
from compfast.solutions import verdicts
from compfast.tasks.modular import ModularConfig, ModularTask

RULES: dict[str, Any] = {
    "add": lambda a, b: (a + b) % 7,
    "subtract": lambda a, b: (a - b) % 7,
    "multiply": lambda a, b: (a * b) % 7,
    "squares": lambda a, b: (a**2 + b**2) % 7,
}
ALL = EvaluationConfig()


def _all_pairs(task: ModularTask) -> tuple[dict[Any, int], dict[Any, int]]:
    """(a, b) -> target of the trained and of the held-out pairs."""
    tokens, targets = task.batch(0, 0, len(task.exam(ALL).inputs[task.exam(ALL).splits["seen"]]))
    exam = task.exam(ALL)
    trained = {(a, b): int(c) for (a, b, _), c in zip(tokens.tolist(), targets, strict=True)}
    held = exam.inputs[exam.splits["unseen"]].tolist()
    return trained, {(a, b): int(c) for (a, b, _), c in zip(held, exam.targets, strict=True)}


@pytest.mark.parametrize("operation", RULES)
def test_the_pairs_are_all_of_them_and_follow_the_rule(operation: Any) -> None:
    task = ModularTask(ModularConfig(modulus=7, operation=operation, train_share=0.4))
    trained, held_out = _all_pairs(task)
    assert len(trained) == round(0.4 * 49)
    assert set(trained).isdisjoint(held_out)
    assert set(trained) | set(held_out) == {(a, b) for a in range(7) for b in range(7)}
    for (a, b), target in (*trained.items(), *held_out.items()):
        assert target == RULES[operation](a, b)


def test_the_split_is_its_own_seeds_and_the_same_for_every_member() -> None:
    split = [_all_pairs(ModularTask(ModularConfig(modulus=7, split_seed=s)))[0] for s in (0, 0, 1)]
    assert split[0] == split[1] != split[2]


def test_a_full_batch_visits_every_pair_at_every_step() -> None:
    task = ModularTask(ModularConfig(modulus=5, train_share=0.4))
    steps = [{tuple(row) for row in task.batch(2, step, 10)[0].tolist()} for step in range(3)]
    assert steps[0] == steps[1] == steps[2]
    assert len(steps[0]) == 10
    with pytest.raises(UsageError, match="batch_size is 11"):
        task.check_batch(11)


@pytest.mark.parametrize(
    ("seen", "right", "verdict"),
    [
        (1.0, 1.0, "generalised"),
        (1.0, 0.1, "memorised"),
        (1.0, 0.5, "mixed"),
        (0.5, 1.0, "underfit"),
    ],
)
def test_verdicts(seen: float, right: float, verdict: str) -> None:
    exam = ModularTask(ModularConfig(modulus=20)).exam(ALL)
    answers = np.concatenate([exam.seen_targets, exam.targets])[None].copy()
    for rows, share in (("seen", seen), ("unseen", right)):
        place = exam.splits[rows]
        wrong = place.start + round(share * (place.stop - place.start))
        answers[0, wrong : place.stop] += 1
    assert verdicts(exam.score(answers), ALL, np.array([False]))[0] == verdict


def test_the_exam_takes_fewer_pairs_where_it_is_told() -> None:
    exam = ModularTask(ModularConfig(modulus=20)).exam(
        EvaluationConfig(seen_items=9, unseen_items=4)
    )
    assert exam.splits == {"seen": slice(0, 9), "unseen": slice(9, 13)}
    assert len({row.tobytes() for row in exam.inputs}) == 13
