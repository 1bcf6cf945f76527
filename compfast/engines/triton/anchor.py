"""Training batches of the anchor task, drawn on the device: the bits of `AnchorTask.batch`.

tokens [M, B, T] and targets [M, B], int32, of each member's own seed and step. Sequence b owns
words [b W, (b + 1) W) of its stream: pair, (key, position), T noise words. Drawn data sets take
sequence j = feistel(row of the epoch), whose stream is (seed, DRAWN, j). The same launch may embed
what it has drawn.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from compfast.engines.triton.embedding import gather
from compfast.engines.triton.launch import Launch
from compfast.streams import philox

_EMBEDDING = ("D", "STEP", "FIRST", "SP", "LD", "SX", "LDX")
_TRAIN, _DRAWN, _AUX = (tl.constexpr(i) for i in (philox.TRAIN, philox.DRAWN, philox.AUX))


@triton.jit
def word(seed, step, purpose, sub, index):
    """Word `index` of the stream (seed, purpose, step, sub); any integers, broadcast."""
    zero = index * 0
    block = tl.philox(seed, index // 4, zero + step, zero + purpose, zero + sub)
    lane = index % 4
    low = tl.where(lane == 0, block[0], block[1])
    high = tl.where(lane == 2, block[2], block[3])
    return tl.where(lane < 2, low, high)


@triton.jit
def integer(bits, COUNT: tl.constexpr):
    """[0, COUNT) from words."""
    return tl.umulhi(bits, tl.full(bits.shape, COUNT, tl.uint32)).to(tl.int32)


@triton.jit
def feistel(seed, epoch, row, TOTAL: tl.constexpr, HALF: tl.constexpr):
    """The permutation of [0, TOTAL) keyed by (seed, epoch), at `row` (int32)."""
    MASK: tl.constexpr = (1 << HALF) - 1
    pending = row == row
    while tl.max(pending.to(tl.int32), axis=0) > 0:
        left, right = row >> HALF, row & MASK
        for turn in tl.static_range(6):
            bits = tl.philox(seed, right, right * 0 + epoch, right * 0 + _AUX, right * 0 + turn)[0]
            mixed = left ^ (bits & MASK).to(tl.int32)
            left, right = right, mixed
        row = tl.where(pending, (left << HALF) | right, row)
        pending = row >= TOTAL
    return row


@triton.jit
def _draw(
    pairs,  # [PAIRS, 3] int32
    combos,  # [COMBOS, 2] int32
    seed,  # [M] int64
    step,  # [M] int64
    tokens,  # [M, B, T] int32
    targets,  # [M, B] int32
    token,  # as in embedding.py, and so are position and x
    position,
    x,
    live,  # [M]
    B: tl.constexpr,
    T: tl.constexpr,
    W: tl.constexpr,
    PAIRS: tl.constexpr,
    COMBOS: tl.constexpr,
    LOW: tl.constexpr,
    COUNT: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    TOTAL: tl.constexpr,
    HALF: tl.constexpr,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,
    EMBED: tl.constexpr,
    D: tl.constexpr,
    STEP: tl.constexpr,
    FIRST: tl.constexpr,
    SP: tl.constexpr,
    LD: tl.constexpr,
    SX: tl.constexpr,
    LDX: tl.constexpr,
    STRIP: tl.constexpr,
    WIDE_D: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    b = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    t = tl.arange(0, WIDE)[None, :]
    key, now = tl.load(seed + m), tl.load(step + m).to(tl.int32)
    purpose: tl.constexpr = _DRAWN if TOTAL > 0 else _TRAIN
    if TOTAL > 0:
        # rows past B stay inside the epoch, so that their walk ends
        row = now % (TOTAL // B) * B + tl.minimum(b, B - 1)
        stream = feistel(key, now // (TOTAL // B), row, TOTAL, HALF)
        first = b * 0
        pair = stream // GROUP_SIZE
    else:
        stream = b * 0 + now
        first = b * W
        pair = integer(word(key, stream, purpose, 0, first), PAIRS)
    combo = integer(word(key, stream, purpose, 0, first + 1), COMBOS)
    item, place = tl.load(combos + combo * 2), tl.load(combos + combo * 2 + 1)
    noise = word(key, stream[:, None], purpose, 0, (first + 2)[:, None] + t)
    drawn = LOW + integer(noise, COUNT)
    at = t - place[:, None]
    drawn = tl.where(at == 0, item[:, None], drawn)
    drawn = tl.where(at == 1, tl.load(pairs + pair * 3)[:, None], drawn)
    drawn = tl.where(at == 2, tl.load(pairs + pair * 3 + 1)[:, None], drawn)
    inside = (b < B)[:, None] & (t < T)
    tl.store(tokens + m * B * T + b[:, None] * T + t, drawn, mask=inside)
    tl.store(targets + m * B + b, item + tl.load(pairs + pair * 3 + 2), mask=b < B)
    if EMBED:
        tl.debug_barrier()  # tokens that other threads of this program have written
        each: tl.constexpr = T // STEP
        for start in range(0, ROWS * each, STRIP):
            i = start + tl.arange(0, STRIP)
            n = tl.program_id(0) * ROWS * each + i
            gather(
                tokens + m * B * T, token + m * SP, position + m * SP, x + m * SX,
                n, (i < ROWS * each) & (n < B * each), T, D, STEP, FIRST, LD, LDX, WIDE_D,
            )  # fmt: skip


def draw(
    table: dict[str, Any],
    seed: torch.Tensor,
    step: torch.Tensor,
    tokens: torch.Tensor,
    targets: torch.Tensor,
    live: torch.Tensor,
    embed: Launch | None = None,
) -> Launch:
    """`table`: `AnchorTask.stream()`, with its pairs and combos on the device.

    `embed`: an `embedding.forward` of these tokens, which then need not be launched.
    """
    members, batch, length = tokens.shape
    total = table["total"]
    rows = 32
    constants = {
        "B": batch,
        "T": length,
        "W": table["words"],
        "PAIRS": len(table["pairs"]),
        "COMBOS": len(table["combos"]),
        "LOW": table["item_low"],
        "COUNT": table["item_count"],
        "GROUP_SIZE": table["group_size"],
        "TOTAL": total,
        "HALF": max(1, ((total - 1).bit_length() + 1) // 2) if total else 0,
        "ROWS": rows,
        "WIDE": triton.next_power_of_2(length),
        "EMBED": embed is not None,
        **{name: 0 if embed is None else embed.constants[name] for name in _EMBEDDING},
        "STRIP": 0 if embed is None else embed.constants["ROWS"],
        "WIDE_D": 0 if embed is None else embed.constants["WIDE"],
    }
    pointers = {
        "pairs": table["pairs"],
        "combos": table["combos"],
        "seed": seed,
        "step": step,
        "tokens": tokens,
        "targets": targets,
        **{
            name: tokens if embed is None else embed.pointers[name]
            for name in ("token", "position", "x")
        },
        "live": live,
    }
    return Launch(_draw, (triton.cdiv(batch, rows), members), pointers, constants)
