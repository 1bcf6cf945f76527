"""The dropout masks of a training step, drawn on the device: the bits of models/dropout.py.

keep [M, layers, T T]: 0 where the weight of (query, key) is dropped, else 1 / (1 - rate); word
q T + k of the stream (init_seed, DROPOUT, step, layer). All heads and sequences share a mask.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from compfast.engines.triton.anchor import word
from compfast.engines.triton.launch import Launch
from compfast.models.dropout import threshold
from compfast.streams import philox

_DROPOUT = tl.constexpr(philox.DROPOUT)
_SIZE = 256


@triton.jit
def _draw(
    keep,  # [M, LAYERS, COUNT]
    seed,  # [M] int64
    step,  # [M] int64
    live,  # [M]
    LAYERS: tl.constexpr,
    COUNT: tl.constexpr,  # T T
    BELOW: tl.constexpr,
    KEPT: tl.constexpr,
    SIZE: tl.constexpr,
):
    m = tl.program_id(2).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    layer = tl.program_id(1)
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    now = tl.load(step + m).to(tl.int32)
    drawn = word(tl.load(seed + m), now, _DROPOUT, layer, i).to(tl.uint32, bitcast=True)
    value = tl.where(drawn.to(tl.int64) < BELOW, 0.0, KEPT)
    tl.store(keep + (m * LAYERS + layer) * COUNT + i, value, mask=i < COUNT)


def draw(
    keep: torch.Tensor, seed: torch.Tensor, step: torch.Tensor, live: torch.Tensor, *, rate: float
) -> Launch:
    """Of each member's own seed and step."""
    members, layers, count = keep.shape
    constants = {
        "LAYERS": layers,
        "COUNT": count,
        "BELOW": threshold(rate),
        "KEPT": 1.0 / (1.0 - rate),
        "SIZE": _SIZE,
    }
    pointers = {"keep": keep, "seed": seed, "step": step, "live": live}
    return Launch(_draw, (triton.cdiv(count, _SIZE), layers, members), pointers, constants)
