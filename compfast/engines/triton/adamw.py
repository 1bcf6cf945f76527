"""The optimiser for all members: gradient norms, one decision a member, then clip and AdamW.

gradients [M, PARTS, P] of the flat vectors [M, P]. Three launches, since no member may change
before its norm is known: `reduce` adds the partial sums in order, `decide` (one program a member)
settles loss, norm, learning rate and who goes on, `update` moves parameters and moments.
A member whose loss or norm is not finite is left untouched and marked DIVERGED.
Source: Loshchilov and Hutter 2019, in the order of torch.optim.AdamW.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl

from compfast.engines.base import DIVERGED
from compfast.engines.triton.launch import Launch

BLOCK = 1024
FACTOR, RATE, ROOT = range(3)  # columns of `scalars`
SCALARS = 4
KEPT = 8  # columns of `kept` and `weight_decay`: those of engines/decays.py, and zeros

_FACTOR, _RATE, _ROOT = (tl.constexpr(i) for i in (FACTOR, RATE, ROOT))
_KEPT = tl.constexpr(KEPT)
_DIVERGED = tl.constexpr(DIVERGED)


@triton.jit
def _reduce(
    gradients,  # [M, PARTS, P]; the sum is left in part 0
    squares,  # [M, programs]
    live,  # [M]
    P: tl.constexpr,
    PARTS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    SIZE: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    p = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    base = gradients + m * PARTS * P + p
    total = tl.load(base, mask=p < P, other=0.0)
    for part in tl.static_range(1, PARTS):
        total += tl.load(base + part * P, mask=p < P, other=0.0)
    if PARTS > 1:
        tl.store(base, total, mask=p < P)
    tl.store(squares + m * PROGRAMS + tl.program_id(0), tl.sum(total * total, axis=0))


@triton.jit
def _row_sum(row, COUNT: tl.constexpr, SIZE: tl.constexpr):
    total = tl.zeros((SIZE,), tl.float32)
    for start in range(0, COUNT, SIZE):
        i = start + tl.arange(0, SIZE)
        total += tl.load(row + i, mask=i < COUNT, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _decide(
    squares,  # [M, PROGRAMS]
    losses,  # [M, LOSSES]
    lr,  # [M] float64, and so is clip
    weight_decay,  # [M, KEPT] float64
    clip,
    scale,  # [steps] float64, and so are offset, correction1, correction2, decay
    offset,
    correction1,
    correction2,
    decay,
    window,  # [2] int64: first column's step, the step to stop at
    step,  # [M] int64
    status,  # [M] uint8
    live,  # [M] int32: trains at this step; for the next step when this kernel is done
    go,  # [M] int32: `update` moves this member
    scalars,  # [M, 4]
    kept,  # [M, KEPT]: what each weight decay leaves of a parameter
    loss_history,  # [M, HISTORY]
    norm_history,  # [M, HISTORY]
    PROGRAMS: tl.constexpr,
    LOSSES: tl.constexpr,
    HISTORY: tl.constexpr,
    SIZE: tl.constexpr,
):
    m = tl.program_id(0).to(tl.int64)
    if tl.load(live + m) == 0:
        tl.store(go + m, 0)
        return
    norm = tl.sqrt_rn(_row_sum(squares + m * PROGRAMS, PROGRAMS, SIZE))
    loss = _row_sum(losses + m * LOSSES, LOSSES, SIZE)
    now = tl.load(step + m)
    column = now - tl.load(window)
    tl.store(loss_history + m * HISTORY + column, loss)
    tl.store(norm_history + m * HISTORY + column, norm)
    infinite = float("inf")
    finite = (tl.abs(loss) < infinite) & (tl.abs(norm) < infinite)
    tl.store(go + m, finite.to(tl.int32))
    if finite:
        most = tl.load(clip + m).to(tl.float32)
        factor = tl.where(most > 0.0, tl.minimum(1.0, tl.div_rn(most, norm + 1e-6)), 1.0)
        # float32(lr scale + offset), then float64 until each scalar's one rounding
        rate = tl.load(lr + m) * tl.load(scale + now) + tl.load(offset + now)
        rate = rate.to(tl.float32).to(tl.float64)
        row = scalars + m * 4
        tl.store(row + _FACTOR, factor)
        each = m * _KEPT + tl.arange(0, _KEPT)
        decayed = tl.load(weight_decay + each) * tl.load(decay + now)
        tl.store(kept + each, (1.0 - rate * decayed).to(tl.float32))
        tl.store(row + _RATE, (rate / tl.load(correction1 + now)).to(tl.float32))
        tl.store(row + _ROOT, tl.sqrt(tl.load(correction2 + now)).to(tl.float32))
        tl.store(step + m, now + 1)
        tl.store(live + m, (now + 1 < tl.load(window + 1)).to(tl.int32))
    else:
        tl.store(status + m, _DIVERGED)
        tl.store(live + m, 0)


@triton.jit
def _update(
    gradients,  # [M, PARTS, P], the sum in part 0
    weights,  # [M, P]
    exp_avg,  # [M, P]
    exp_avg_sq,  # [M, P]
    decays,  # [P / 16] int32: which column of `kept`
    scalars,  # [M, 4]
    kept,  # [M, KEPT]
    go,  # [M]
    P: tl.constexpr,
    PARTS: tl.constexpr,
    BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    GAIN1: tl.constexpr,
    GAIN2: tl.constexpr,
    EPSILON: tl.constexpr,
    SIZE: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(go + m) == 0:
        return
    p = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    inside = p < P
    row = scalars + m * 4
    g = tl.load(gradients + m * PARTS * P + p, mask=inside, other=0.0) * tl.load(row + _FACTOR)
    at = m * P + p
    value = tl.load(weights + at, mask=inside, other=0.0)
    first = tl.load(exp_avg + at, mask=inside, other=0.0)
    second = tl.load(exp_avg_sq + at, mask=inside, other=0.0)
    column = tl.load(decays + p // 16, mask=inside, other=0)
    value *= tl.load(kept + m * _KEPT + column, mask=inside, other=0.0)
    first = BETA1 * first + GAIN1 * g
    second = BETA2 * second + GAIN2 * (g * g)
    divisor = tl.div_rn(tl.sqrt_rn(second), tl.load(row + _ROOT)) + EPSILON
    value -= tl.load(row + _RATE) * tl.div_rn(first, divisor)
    tl.store(weights + at, value, mask=inside)
    tl.store(exp_avg + at, first, mask=inside)
    tl.store(exp_avg_sq + at, second, mask=inside)


def reduce(gradients: torch.Tensor, squares: torch.Tensor, live: torch.Tensor) -> Launch:
    """squares [M, programs(P)]."""
    members, parts, size = gradients.shape
    constants = {"P": size, "PARTS": parts, "PROGRAMS": programs(size), "SIZE": BLOCK}
    pointers = {"gradients": gradients, "squares": squares, "live": live}
    return Launch(_reduce, (programs(size), members), pointers, constants)


def decide(pointers: Mapping[str, torch.Tensor]) -> Launch:
    """`pointers`: the kernel's, by name. Without contracted sums: the rate is the driver's."""
    constants = {
        "PROGRAMS": pointers["squares"].shape[1],
        "LOSSES": pointers["losses"].shape[1],
        "HISTORY": pointers["loss_history"].shape[1],
        "SIZE": 128,
    }
    grid = (len(pointers["live"]),)
    return Launch(_decide, grid, pointers, constants, {"enable_fp_fusion": False})


def update(
    pointers: Mapping[str, torch.Tensor], *, beta1: float, beta2: float, epsilon: float
) -> Launch:
    """`pointers`: the kernel's, by name."""
    members, parts, size = pointers["gradients"].shape
    constants = {
        "P": size,
        "PARTS": parts,
        "BETA1": beta1,
        "BETA2": beta2,
        "GAIN1": 1.0 - beta1,
        "GAIN2": 1.0 - beta2,
        "EPSILON": epsilon,
        "SIZE": BLOCK,
    }
    return Launch(_update, (programs(size), members), pointers, constants)


def programs(size: int) -> int:
    """Blocks of a flat vector; also the columns of `squares`."""
    return triton.cdiv(size, BLOCK)
