"""Exams whose candidates are answers: a token for every held-out item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from compfast.tasks.base import Int32, Scores


@dataclass(frozen=True, slots=True, eq=False)
class AnswerExam:
    """Rows of `inputs` are the seen items, then the held-out ones."""

    inputs: Int32  # [N, T]
    seen: slice  # rows of what was trained, with test-side items
    unseen: slice  # rows of the held-out group
    seen_targets: Int32  # [N_seen]
    answers: Mapping[str, Int32]  # candidate solution -> [N_unseen]; -1 where it has no answer

    reads: ClassVar[Literal["answers", "outputs"]] = "answers"

    @property
    def splits(self) -> dict[str, slice]:
        return {"seen": self.seen, "unseen": self.unseen}

    @property
    def candidates(self) -> tuple[str, ...]:
        return tuple(self.answers)

    def score(self, answers: NDArray[Any]) -> Scores:
        """Scores of every member from its predicted tokens [M, N].

        An answer is told apart from others by its difference to the first candidate's answer to
        the item, because the solutions of one task are shifts of the same key: `other` is the
        share of the most frequent such difference among the held-out items that match no
        candidate, 0.0 where all match.
        """
        held_out = np.asarray(answers)[:, self.unseen]  # [M, N_unseen]
        seen = (np.asarray(answers)[:, self.seen] == self.seen_targets).mean(axis=1)
        matches = {name: held_out == answer for name, answer in self.answers.items()}
        reference = next(iter(self.answers.values()))
        difference = held_out.astype(np.int64) - np.asarray(reference, np.int64)
        unmatched = ~np.logical_or.reduce(list(matches.values()))
        other = [
            np.unique(row[free], return_counts=True)[1].max(initial=0)
            for row, free in zip(difference, unmatched, strict=True)
        ]
        return Scores(
            seen,
            {name: match.mean(axis=1) for name, match in matches.items()},
            np.array(other, np.float64) / held_out.shape[1],
        )
