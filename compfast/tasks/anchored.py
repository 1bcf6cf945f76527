"""Exams of sequences that hold a key and two anchors right behind it, among items of noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from compfast.tasks.base import Labels
from compfast.tasks.scoring import AnswerExam


@dataclass(frozen=True, slots=True, eq=False)
class AnchoredExam(AnswerExam):
    """The tokens alone say where the anchors stand, since no item of noise is one of them."""

    anchors: tuple[int, ...] = ()  # their tokens

    @property
    def labels(self) -> Mapping[str, Labels]:
        """`key`, the key's value, and `position`, where it stands: numbers [N, 1]. `anchor1` and
        `anchor2`: which of the anchors, [N, A] booleans. `pair`: [N, A x A], of anchors a and b
        at place a A + b. Each is made when it is asked for.
        """
        position = np.isin(self.inputs, self.anchors).argmax(axis=1) - 1
        rows, own = np.arange(len(self.inputs)), np.array(self.anchors)
        key, first, second = (self.inputs[rows, position + i] for i in range(3))  # [N] tokens
        one, two = (token[:, None] == own for token in (first, second))
        return _Made(
            {
                "key": lambda: (key - self.zero)[:, None].astype(np.float64),
                "position": lambda: position[:, None].astype(np.float64),
                "anchor1": lambda: one,
                "anchor2": lambda: two,
                "pair": lambda: (one[:, :, None] & two[:, None, :]).reshape(len(rows), -1),
            }
        )


class _Made(Mapping[str, Labels]):
    """Labels by name, made when they are asked for: pairs of 1024 anchors take a million places."""

    def __init__(self, makers: Mapping[str, Callable[[], Labels]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> Labels:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)
