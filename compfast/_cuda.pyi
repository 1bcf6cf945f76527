"""The persistent member step on a GPU: raw device addresses in, nothing out (csrc/cuda)."""

from collections.abc import Mapping
from typing import Any

def shape() -> dict[str, Any]:
    """The one network that the kernel is compiled for, and the shared memory that it takes."""

def train(
    stream: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    batch: int,
    epsilon: float,
    members: Mapping[str, Any],
    count: int,
    base: int,
    until: int,
    stream_handle: int,
) -> None:
    """Every running member goes on to step `until`, on a thread block of its own; asynchronous.

    `stream`: device addresses of pairs [., 3] and combos [., 2] (int32), and pair_count,
    combo_count, item_low, item_count, words, group_size. `optimizer`: addresses of the tables
    scale, offset, correction1, correction2 (float64 [steps]), and beta1, beta2, eps. `members`:
    addresses of params, exp_avg, exp_avg_sq, gradient (float32 [M, P], gradient zero), tokens
    [M, batch, T] and targets [M, batch] (int32, room), seeds (uint64), lr, weight_decay, clip
    (float64), step (int64), status (uint8), loss and grad_norm (float32 [M, until - base]).
    Raises ValueError for sizes that are not positive, RuntimeError for what CUDA refuses.
    """
