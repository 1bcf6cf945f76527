"""The single-anchor identity task: the answer stands right after the anchor."""

from __future__ import annotations

import pytest

from compfast.config import EvaluationConfig
from compfast.errors import UsageError
from compfast.tasks.identity import IdentityConfig, IdentityTask


def test_the_target_follows_the_anchor_and_the_sides_keep_apart() -> None:
    task = IdentityTask(IdentityConfig())
    exam = task.exam(EvaluationConfig(seen_items=100, unseen_items=100))
    tokens, targets = task.batch(0, 0, 300)
    trained = zip(tokens.tolist(), targets.tolist(), strict=True)
    held = exam.inputs[exam.unseen].tolist()
    tested = zip(held, exam.answers["inferential"].tolist(), strict=True)
    rows = [*((*item, False) for item in trained), *((*item, True) for item in tested)]
    for row, right, test_side in rows:
        at = row.index(3)
        assert row[at + 1] == right
        assert (right % 8 == at) is test_side


def test_an_epoch_visits_the_drawn_set_once() -> None:
    task = IdentityTask(IdentityConfig(total=40))
    epoch = [row for step in range(4) for row in task.batch(7, step, 10)[0].tolist()]
    again = [row for step in range(4, 8) for row in task.batch(7, step, 10)[0].tolist()]
    assert sorted(epoch) == sorted(again)
    assert epoch != again


def test_a_side_without_items_is_refused() -> None:
    with pytest.raises(UsageError, match="to train or to test"):
        IdentityTask(IdentityConfig(item_low=20, item_high=21, seq_len=2, total=4))
