"""SGD with momentum for all members: what `adamw.update` is for AdamW, between the same launches.

weights, exp_avg [M, P]; exp_avg holds the buffer of torch.optim.SGD (dampening 0), which without
momentum stays as it is. Weight decay is decoupled.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl

from compfast.engines.triton.adamw import BLOCK, FACTOR, KEPT, RATE, programs
from compfast.engines.triton.launch import Launch

_FACTOR, _RATE, _KEPT = (tl.constexpr(i) for i in (FACTOR, RATE, KEPT))


@triton.jit
def _update(
    gradients,  # [M, PARTS, P], the sum in part 0
    weights,  # [M, P]
    exp_avg,  # [M, P]
    decays,  # [P / 16] int32: which column of `kept`
    scalars,  # [M, 4]
    kept,  # [M, KEPT]
    go,  # [M]
    P: tl.constexpr,
    PARTS: tl.constexpr,
    MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr,
    SIZE: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(go + m) == 0:
        return
    p = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    inside = p < P
    row = scalars + m * 4
    move = tl.load(gradients + m * PARTS * P + p, mask=inside, other=0.0) * tl.load(row + _FACTOR)
    at = m * P + p
    value = tl.load(weights + at, mask=inside, other=0.0)
    column = tl.load(decays + p // 16, mask=inside, other=0)
    value *= tl.load(kept + m * _KEPT + column, mask=inside, other=0.0)
    if MOMENTUM != 0.0:
        buffer = MOMENTUM * tl.load(exp_avg + at, mask=inside, other=0.0) + move
        tl.store(exp_avg + at, buffer, mask=inside)
        if NESTEROV:
            move += MOMENTUM * buffer
        else:
            move = buffer
    tl.store(weights + at, value - tl.load(row + _RATE) * move, mask=inside)


def update(pointers: Mapping[str, torch.Tensor], *, momentum: float, nesterov: bool) -> Launch:
    """`pointers`: the kernel's, by name; the rate in `scalars` is lr, undivided."""
    members, parts, size = pointers["gradients"].shape
    constants = {
        "P": size,
        "PARTS": parts,
        "MOMENTUM": momentum,
        "NESTEROV": nesterov,
        "SIZE": BLOCK,
    }
    return Launch(_update, (programs(size), members), pointers, constants)
