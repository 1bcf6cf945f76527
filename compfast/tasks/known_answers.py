"""What candidate solutions answer to each item of a split, and how far others are from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

NO_NUMBER = np.iinfo(np.int64).min  # in place of the difference of an answer that is none


@dataclass(frozen=True, slots=True, eq=False)
class KnownAnswers:
    """Tokens that candidates answer with, and in which numbers their differences are counted."""

    split: str  # which of the exam's splits
    # Candidate -> [N] tokens, -1 where it has no answer; the first one has one to every item.
    answers: Mapping[str, Int32]
    modulus: int = 0  # answers are numbers modulo this; 0: whole numbers
    zero: int = 0  # the token of number 0; with a modulus, tokens outside of it are no numbers

    @property
    def reference(self) -> str:
        """The candidate from whose answer differences are counted."""
        return next(iter(self.answers))

    def differences(self, told: ArrayLike) -> Int64:
        """Tokens [..., N] minus the reference's; NO_NUMBER where a token is no number.

        With a modulus m the residue from -(m // 2) on: neighbours of 0 stand on both sides of it.
        """
        own = np.asarray(told, np.int64)
        apart = own - np.asarray(self.answers[self.reference], np.int64)
        if not self.modulus:
            return apart
        half = self.modulus // 2
        outside = (own < self.zero) | (own >= self.zero + self.modulus)
        return np.where(outside, NO_NUMBER, (apart + half) % self.modulus - half)

    def shift(self, candidate: str) -> int | None:
        """A candidate's difference to the reference; None where it is not one number for all items
        that it has an answer to.
        """
        own = np.asarray(self.answers[candidate])
        found = np.unique(self.differences(own)[own >= 0])
        return int(found[0]) if len(found) == 1 and found[0] != NO_NUMBER else None
