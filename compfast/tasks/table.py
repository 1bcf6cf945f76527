"""Batches from a finite set of sequences, such as a share of all pairs of an operation.

The reference of csrc/tasks/table.h. Sequence b of a step owns W = 4 words of the training stream
and takes row (word 0 * N) >> 32; or, shuffled, epoch e visits a permutation of the rows keyed by
(seed, e), and rows that fill no whole batch at its end are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from compfast.errors import UsageError
from compfast.streams import philox
from compfast.tasks.base import Int32, Own, Task

Int64 = NDArray[np.int64]

_WORDS = 4  # of a sequence
_MOST_WORDS = 2**34  # of a stream: a block of four has 32 bits of its counter
_MOST = 2**31 - 65  # rows, and sequences of a batch, that C++ counts


class TableDraws:
    """Draws rows of tokens [N, T] and targets [N], which all members share.

    Raises UsageError for arrays of other shapes, without a row, or of other than whole numbers
    of at least 0 that an int32 holds.
    """

    def __init__(self, tokens: NDArray[Any], targets: NDArray[Any], shuffled: bool) -> None:
        if tokens.ndim != 2 or not tokens.size or targets.shape != tokens.shape[:1]:
            raise UsageError(
                f"a table has tokens of shape {tokens.shape} and targets of shape"
                f" {targets.shape}; [N, T] and [N] with N and T of at least 1 are needed"
            )
        self.tokens = _ids("tokens", tokens)
        self.targets = _ids("targets", targets)
        self.shuffled = shuffled
        self.rows = len(tokens)
        if self.rows > _MOST:
            raise UsageError(f"a table has {self.rows} rows; it must have at most {_MOST}")

    def batch(self, seed: int, step: int, size: int) -> tuple[Int32, Int32]:
        """tokens int32 [B, T] and targets int32 [B] of one training step.

        Raises UsageError as `check_batch` does.
        """
        self.check_batch(size)
        row = self._epoch_order(seed, step, size) if self.shuffled else self._any(seed, step, size)
        return self.tokens[row], self.targets[row]

    def check_batch(self, size: int) -> None:
        """Raises UsageError for a batch that no step can draw: it has more sequences than a
        shuffled table has rows, or more words than a stream.
        """
        if self.shuffled:
            self.steps_per_epoch(size)
        most = min(_MOST, _MOST_WORDS // _WORDS)
        if not 1 <= size <= most:
            raise UsageError(f"training.batch_size is {size}; it must be in 1..{most}")

    def steps_per_epoch(self, size: int) -> int:
        """Whole batches of `size` in the table; raises UsageError when there is none."""
        if not 1 <= size <= self.rows:
            raise UsageError(
                f"training.batch_size is {size}; the table has {self.rows} rows"
                " and must hold at least one batch"
            )
        return self.rows // size

    def stream(self) -> dict[str, Any]:
        """The record from which an engine draws the same batches itself."""
        return {
            "kind": "table",
            "tokens": self.tokens,  # int32 [N, T]
            "targets": self.targets,  # int32 [N]
            "shuffled": int(self.shuffled),
        }

    def _any(self, seed: int, step: int, size: int) -> Int64:
        words = philox.words(seed, philox.TRAIN, step, 0, 0, size * _WORDS)
        return philox.integers(words[::_WORDS], self.rows)

    def _epoch_order(self, seed: int, step: int, size: int) -> Int64:
        epoch, within = divmod(step, self.steps_per_epoch(size))
        visits = within * size + np.arange(size)
        return philox.feistel(seed, epoch, visits, self.rows)


class TableTask(Task[Own]):
    """A task whose training data are a finite set; its constructor makes `table`."""

    table: TableDraws

    def batch(self, seed: int, step: int, size: int) -> tuple[Int32, Int32]:
        return self.table.batch(seed, step, size)

    def stream(self) -> dict[str, Any]:
        return self.table.stream()

    def check_batch(self, size: int) -> None:
        self.table.check_batch(size)


def _ids(name: str, given: NDArray[Any]) -> Int32:
    """A copy as int32 that nobody can write to."""
    if not np.issubdtype(given.dtype, np.integer):
        raise UsageError(f"the {name} of a table are {given.dtype}; whole numbers are needed")
    low, high = int(given.min()), int(given.max())
    if low < 0 or high >= 2**31:
        raise UsageError(
            f"the {name} of a table reach from {low} to {high}; they must be in 0..{2**31 - 1}"
        )
    ids = np.array(given, np.int32, order="C")
    ids.flags.writeable = False
    return ids
