"""Batches from a finite set of sequences, such as a share of all pairs of an operation.

The reference of csrc/tasks/table.h. Sequence b of a step owns W = 4 words of the training stream
and takes row (word 0 * N) >> 32; or, shuffled, epoch e visits a permutation of the rows keyed by
(seed, e), and rows that fill no whole batch at its end are left out. Where an order lists K rows,
some perhaps several times, its entries are drawn in their place.
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
    """Draws rows of tokens [N, T] and targets [N], or [N, T] where it is masked, a target of -1
    asking nothing; all members share them. `order` [K] lists the rows to draw from.

    Raises UsageError for arrays of other shapes, without a row, or of other than whole numbers
    that an int32 holds, of at least 0 (a mask's of at least -1), and for an order of other rows.
    """

    def __init__(
        self,
        tokens: NDArray[Any],
        targets: NDArray[Any],
        shuffled: bool,
        order: NDArray[Any] | None = None,
    ) -> None:
        shapes = tokens.shape[:1], tokens.shape
        if tokens.ndim != 2 or not tokens.size or targets.shape not in shapes:
            raise UsageError(
                f"a table has tokens of shape {tokens.shape} and targets of shape"
                f" {targets.shape}; [N, T] and [N], or [N, T] with a mask, with N and T of at least"
                " 1 are needed"
            )
        self.masked = targets.ndim == 2
        self.tokens = _ids("tokens", tokens)
        self.targets = _ids("targets", targets, -1 if self.masked else 0)
        self.shuffled = shuffled
        self.order = None if order is None else _order(order, len(tokens))
        self.rows = len(tokens if order is None else order)  # that are drawn from
        if max(self.rows, len(tokens)) > _MOST:
            raise UsageError(f"a table has {self.rows} rows; it must have at most {_MOST}")

    def batch(self, seed: int, step: int, size: int) -> tuple[Int32, Int32]:
        """tokens int32 [B, T] and targets int32 [B], or [B, T] with a mask, of one training step.

        Raises UsageError as `check_batch` does.
        """
        self.check_batch(size)
        row = self._epoch_order(seed, step, size) if self.shuffled else self._any(seed, step, size)
        if self.order is not None:
            row = self.order[row].astype(np.int64)
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
        record = {
            "kind": "table",
            "tokens": self.tokens,  # int32 [N, T]
            "targets": self.targets,  # int32 [N], or [N, T] with a mask
            "masked": int(self.masked),
            "shuffled": int(self.shuffled),
        }
        return record if self.order is None else {**record, "order": self.order}  # int32 [K]

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


def _order(given: NDArray[Any], rows: int) -> Int32:
    if given.ndim != 1 or not given.size:
        raise UsageError(f"the order of a table has shape {given.shape}; [K] of rows is needed")
    order = _ids("order", given)
    if order.max() >= rows:
        raise UsageError(f"the order of a table has row {order.max()}; the table has {rows} rows")
    return order


def _ids(name: str, given: NDArray[Any], least: int = 0) -> Int32:
    """A copy as int32 that nobody can write to."""
    if not np.issubdtype(given.dtype, np.integer):
        raise UsageError(f"the {name} of a table are {given.dtype}; whole numbers are needed")
    low, high = int(given.min()), int(given.max())
    if low < least or high >= 2**31:
        raise UsageError(
            f"the {name} of a table reach from {low} to {high}; they must be in"
            f" {least}..{2**31 - 1}"
        )
    ids = np.array(given, np.int32, order="C")
    ids.flags.writeable = False
    return ids
