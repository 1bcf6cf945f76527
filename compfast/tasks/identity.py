"""The single-anchor identity task ("3x -> x"): the target is the item right after the anchor.

arXiv 2401.08309, and the released code of Zhang et al. 2024, arXiv 2405.05409: the
anchor is token 3, 900 sequences are trained and 100 tested, split by value against position.
What the answer would be at other positions tells a member that found the anchor's neighbour from
one that answers with an item of a fixed place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compfast.config import EvaluationConfig, TaskSection
from compfast.config.section import at_most, positive, require, require_together
from compfast.errors import UsageError
from compfast.streams import philox
from compfast.tasks.base import Int32
from compfast.tasks.scoring import AnswerExam
from compfast.tasks.table import TableDraws, TableTask

_SEEN, _UNSEEN = 0, 1  # splits of the exam: the `sub` of its streams


@dataclass(frozen=True, slots=True)
class IdentityConfig(TaskSection):
    """Sizes of the released code; the vocabulary is what the items need."""

    name: str = "identity"
    anchor: int = 3  # its token
    item_low: int = 20  # smallest item, inclusive
    item_high: int = 100  # largest item, exclusive
    seq_len: int = 9  # input tokens
    total: int = 900  # sequences trained, drawn once

    def _check(self) -> None:
        positive("task", self, "total", "anchor")
        at_most("task", self, item_high=2**20, seq_len=2**16, total=2**24)
        require(self.seq_len >= 2, f"task.seq_len is {self.seq_len}; it must be at least 2")
        require_together(
            0 < self.item_low < self.item_high and self.anchor < self.item_low,
            f"task.anchor {self.anchor}, item_low {self.item_low} and item_high {self.item_high}:"
            " 0 < anchor < item_low < item_high is needed",
        )


class IdentityTask(TableTask[IdentityConfig]):
    """Value x right after the anchor at `pos` is test-side when x % (T - 1) == pos.

    Raises UsageError where a side has no (value, position).
    """

    Config = IdentityConfig
    candidates = ("inferential", "last")

    def __init__(self, config: IdentityConfig) -> None:
        self.config, self.length = config, config.seq_len
        self.vocabulary = config.item_high
        places = [
            (x, at)
            for x in range(config.item_low, config.item_high)
            for at in range(config.seq_len - 1)
        ]
        side = {place: place[0] % (config.seq_len - 1) == place[1] for place in places}
        self._train = np.array([p for p in places if not side[p]], np.int32).reshape(-1, 2)
        self._test = np.array([p for p in places if side[p]], np.int32).reshape(-1, 2)
        if not len(self._train) or not len(self._test):
            raise UsageError(
                f"task.seq_len {config.seq_len} leaves no (value, position) to train or to test"
            )
        self.table = TableDraws(
            *self._drawn(0, philox.DRAWN, 0, config.total, self._train), shuffled=True
        )

    def exam(self, evaluation: EvaluationConfig) -> AnswerExam:
        """Seen: fresh sequences of the train side. Held out: the test side.

        `last` answers with the last token of the sequence, -1 where both answers are the same.
        """
        seed, seen, unseen = evaluation.eval_seed, evaluation.seen_items, evaluation.unseen_items
        first, targets = self._drawn(seed, philox.EVAL, _SEEN, seen, self._train)
        second, right = self._drawn(seed, philox.EVAL, _UNSEEN, unseen, self._test)
        last = np.where(second[:, -1] == right, -1, second[:, -1]).astype(np.int32)
        return AnswerExam(
            np.concatenate([first, second]),
            slice(0, seen),
            slice(seen, seen + unseen),
            targets,
            {"inferential": right, "last": last},
        )

    def _drawn(
        self, seed: int, purpose: int, sub: int, count: int, places: Int32
    ) -> tuple[Int32, Int32]:
        """tokens [N, T] and targets [N]; sequence b owns W words from b W on."""
        low, width = self.config.item_low, -(-(1 + self.length) // 4) * 4
        words = philox.words(seed, purpose, 0, sub, 0, count * width).reshape(count, width)
        value, at = places[philox.integers(words[:, 0], len(places))].T
        items = philox.integers(words[:, 1 : 1 + self.length], self.config.item_high - low)
        tokens = (low + items).astype(np.int32)
        row = np.arange(count)
        tokens[row, at], tokens[row, at + 1] = self.config.anchor, value
        return tokens, value.astype(np.int32)
