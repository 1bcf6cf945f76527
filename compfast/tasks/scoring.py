"""Exams whose candidates are answers: a token for every held-out item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from compfast.streams import philox
from compfast.tasks.base import Int32, Scores
from compfast.tasks.known_answers import KnownAnswers


def some_rows(count: int, most: int, eval_seed: int) -> NDArray[np.int64]:
    """Which of `count` items an exam asks: all, or `most` that `eval_seed` chooses."""
    if count <= most:
        return np.arange(count)
    return philox.feistel(eval_seed, 0, np.arange(most), count)


@dataclass(frozen=True, slots=True, eq=False)
class AnswerExam:
    """Rows of `inputs` are the seen items, then the held-out ones."""

    inputs: Int32  # [N, T]
    seen: slice  # rows of what was trained, with test-side items
    unseen: slice  # rows of the held-out group
    seen_targets: Int32  # [N_seen]
    answers: Mapping[str, Int32]  # candidate solution -> [N_unseen]; -1 where it has no answer
    parts: Int32 | None = None  # [N_unseen, K]: what else an answer may be, a column each, or -1
    modulus: int = 0  # answers are numbers modulo this; 0: whole numbers
    zero: int = 0  # the token of value 0

    reads: ClassVar[Literal["answers", "outputs"]] = "answers"

    @property
    def splits(self) -> dict[str, slice]:
        return {"seen": self.seen, "unseen": self.unseen}

    @property
    def candidates(self) -> tuple[str, ...]:
        return tuple(self.answers)

    @property
    def known_answers(self) -> KnownAnswers:
        return KnownAnswers("unseen", self.answers, self.modulus, self.zero)

    def score(self, answers: NDArray[Any]) -> Scores:
        """Scores of every member from its predicted tokens [M, N].

        An answer is told apart from others by its difference to the first candidate's answer to
        the item, because the solutions of one task are shifts of the same key: `other` is the
        share of the most frequent such difference among the held-out items that match no
        candidate, 0.0 where all match. Where the exam has `parts`, it is the share of the column
        of these that is answered most often there.
        """
        held_out = np.asarray(answers)[:, self.unseen]  # [M, N_unseen]
        seen = (np.asarray(answers)[:, self.seen] == self.seen_targets).mean(axis=1)
        matches = {name: held_out == answer for name, answer in self.answers.items()}
        unmatched = ~np.logical_or.reduce(list(matches.values()))
        other = [
            self._most_frequent(row, free) for row, free in zip(held_out, unmatched, strict=True)
        ]
        return Scores(
            seen,
            {name: match.mean(axis=1) for name, match in matches.items()},
            np.array(other, np.float64) / held_out.shape[1],
        )

    def _most_frequent(self, answers: NDArray[Any], among: NDArray[np.bool_]) -> int:
        """How often a member's most frequent answer comes `among` these held-out items."""
        if self.parts is not None:
            parts = self.parts[among]
            return int((answers[among, None] == parts).sum(axis=0).max(initial=0))
        reference = np.asarray(next(iter(self.answers.values())), np.int64)
        difference = (answers.astype(np.int64) - reference)[among]
        return int(np.unique(difference, return_counts=True)[1].max(initial=0))
