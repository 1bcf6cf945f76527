"""The persistent member step on a GPU: raw device addresses in, nothing out (csrc/cuda)."""

from collections.abc import Mapping
from typing import Any

def shapes() -> list[dict[str, Any]]:
    """The networks that the kernel is compiled for, the preset tiny's first.

    layers, positions, d_model, heads, d_ff, vocabulary; flat_size, the floats of a member's row;
    sequences of a microbatch; chips: by compute capability (80, and 90 from there on) how many of
    the row's first floats are kept on chip and how many bytes of shared memory a block takes.
    """

def train(
    network: int,
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

    `network`: its place in `shapes()`. `stream`: of kind "anchor" device addresses of pairs [., 3]
    and combos [., 2] (int32), and pair_count, combo_count, item_low, item_count, words, group_size;
    of kind "host" addresses of tokens [slots, steps, batch, T] and targets [slots, steps, batch]
    (int32) of `steps` steps from step `first` on, among which base to until must be.
    `optimizer`: addresses of the tables scale, offset, correction1, correction2, decay (float64
    [steps]) and of decay_columns (uint8 [P], each below 7: the weight decay that a float has), and
    kind (0 AdamW, 1 SGD), beta1, beta2, eps, momentum, nesterov (0 or 1). `members`: addresses of
    params (16 bytes aligned), exp_avg (SGD's buffer), exp_avg_sq, gradient (float32 [M, P],
    gradient zero), tokens [M, batch, T] and targets [M, batch] (int32, room), seeds (uint64), slots
    (int32: whose batches of the host's are the member's), lr,
    clip (float64), weight_decay (float64 [M, 7]), step (int64), status (uint8), loss and grad_norm
    (float32 [M, until - base]). Raises ValueError for a network, an optimiser or a stream that is
    not there, steps that the buffer does not hold and sizes that are not positive, RuntimeError for
    what CUDA refuses.
    """
