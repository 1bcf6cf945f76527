"""Exams of regression in context: which function does a member's answer to the query follow?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from compfast.tasks.base import Float64, Labels, Scores

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Split:
    """Items of one kind, and what R2 is measured in there."""

    inputs: Float32  # [N, T, width]
    target: Float64  # [N] the true value at the query
    unit: Float64  # [N] squared error of an item at which its R2 is 0

    def r2(self, predicted: Float64) -> Float64:
        """Mean over the items of 1 - error^2 / unit, [M] of [M, N].

        An item whose unit is 0 (all its targets are equal) has no R2 and is left out; NaN where
        none is left.
        """
        kept = self.unit > 0
        weight = np.where(kept, 1 / np.where(kept, self.unit, 1.0), 0.0)
        count = int(kept.sum())
        with np.errstate(over="ignore", invalid="ignore"):  # of members that are not finite
            lost: Float64 = (np.square(predicted - self.target) * weight).sum(axis=-1)
        return 1 - lost / count if count else np.full(len(predicted), np.nan)


@dataclass(frozen=True, slots=True, eq=False)
class RegressionExam:
    """Rows of `inputs` are those of the splits in their order: `seen`, `unseen`, and others."""

    parts: Mapping[str, Split]
    answers: Mapping[str, Float64]  # candidate solution -> its values at the unseen queries
    unit: float  # squared error that is one, of the distance to a candidate
    labels: Mapping[str, Labels] = field(default_factory=dict)  # of the rows of `inputs`

    reads: ClassVar[Literal["outputs"]] = "outputs"

    @property
    def inputs(self) -> Float32:
        return np.concatenate([part.inputs for part in self.parts.values()])

    @property
    def splits(self) -> dict[str, slice]:
        found, start = {}, 0
        for name, part in self.parts.items():
            found[name] = slice(start, start + len(part.target))
            start = found[name].stop
        return found

    @property
    def candidates(self) -> tuple[str, ...]:
        return tuple(self.answers)

    @property
    def measures(self) -> tuple[str, ...]:
        """R2 by split; that of `unseen` is called as the papers call it."""
        return tuple(_measure(name) for name in self.parts)

    def score(self, outputs: NDArray[Any]) -> Scores:
        """Scores of every member from its outputs [M, N, 1, 1].

        A candidate's score is 1 - mean((answer - its value)^2) / unit, clipped to [0, 1], over the
        unseen items. The unit is the same for all of them, so that scores are distances: a whole
        split's mean has no small denominators, which single sequences have. `seen` is the seen
        items' R2, clipped likewise; measures are not clipped.
        """
        answers = np.asarray(outputs, np.float64).reshape(len(outputs), -1)
        found = {name: np.ascontiguousarray(answers[:, rows]) for name, rows in self.splits.items()}
        r2 = {name: part.r2(found[name]) for name, part in self.parts.items()}
        with np.errstate(over="ignore", invalid="ignore"):
            lost = {
                name: np.square(found["unseen"] - values).mean(axis=-1) / self.unit
                for name, values in self.answers.items()
            }
        return Scores(
            _share(r2["seen"]),
            {name: _share(1 - distance) for name, distance in lost.items()},
            np.zeros(len(answers)),
            {_measure(name): values for name, values in r2.items()},
        )


def context_mean(context: Float64) -> Float64:
    """Means [N] of values [N, ..], each row's in its own order."""
    return np.asarray(np.ascontiguousarray(context).mean(axis=-1))


def _measure(split: str) -> str:
    return "ood_r2" if split == "unseen" else f"{split}_r2"


def _share(r2: Float64) -> Float64:
    """In [0, 1]; 0 for what is no number."""
    return np.clip(np.nan_to_num(r2, nan=0.0), 0.0, 1.0)
