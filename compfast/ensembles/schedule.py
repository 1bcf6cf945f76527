"""Learning-rate, weight-decay and bias-correction tables, computed once by the driver.

The learning rate of a member at step t is lr * scale[t] + offset[t]. With S steps and
W = round(warmup * S):

    constant  scale = 1.
    cosine    t < W: scale = (t + 1) / W; then from 1 at t = max(W - 1, 0) along half a cosine
              to `floor` at t = S - 1.
    linear    as cosine, with a straight line.
    one_cycle from `start` along half a cosine to 1 at t = warmup S - 1, then along another one to
              `floor` at t = S - 1: PyTorch's OneCycleLR, which arXiv 2406.03072's code uses with
              warmup .02, start .01 and floor .2.
    points    (fraction, factor) pairs: straight lines between them over t / S, level outside.
    paper     t < W: s = t / W; then s = (1 + cos(pi (t - W) / (S - W))) / 2, as PyTorch's
              CosineAnnealingLR: it would reach 0 at t = S. scale = s, offset = base_lr (1 - s),
              so the rate goes base_lr -> lr -> base_lr (arXiv 2405.05409).

Its weight decay is weight_decay * decay[t]: 1 inside the windows of optimizer.decay_windows, 0
elsewhere, and 1 everywhere where there are none. Window [a, b) holds the steps
round(a S) <= t < round(b S).

Cosines and powers come from fixed sequences, so the tables have the same bits on every CPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from compfast.config import MemberSpec, OptimizerConfig
from compfast.ensembles.room import require_room
from compfast.errors import UsageError
from compfast.models.init import initial_std
from compfast.streams import fixedmath

Float64 = NDArray[np.float64]


@dataclass(slots=True)
class Tables:
    """Numbers computed once by the driver and stored in the run, never recomputed.

    The learning rate of member i at step t (0-based) is float32(lr_i * scale[t] + offset[t]), its
    weight decay weight_decay_i * decay[t]. Where moments began at zero later than at step 0, the
    bias corrections count from there, and those of the steps before, which nobody takes, are 0.
    """

    scale: Float64  # [steps]
    offset: Float64  # [steps]
    bias_correction1: Float64  # [steps], 1 - beta1^(t+1)
    bias_correction2: Float64  # [steps], 1 - beta2^(t+1)
    std: Float64  # [M, tensors of the parameter table]; 0 where the init is not normal
    decay: Float64  # [steps], 1 where weight decay is on, else 0

    @property
    def moments_from(self) -> int:
        """The step at which the moments were zero."""
        return int(np.count_nonzero(self.bias_correction1 == 0))


def schedule_tables(
    optimizer: OptimizerConfig, steps: int
) -> tuple[Float64, Float64, Float64, Float64]:
    """(scale, offset, 1 - beta1^(t+1), 1 - beta2^(t+1)), float64 [steps] each.

    Raises OutOfMemory for more steps than memory has room for.
    """
    require_room(8 * 8 * steps)  # and what they are made of
    scale = _SCALES[optimizer.schedule](optimizer, steps)
    offset = np.zeros(steps)
    if optimizer.schedule == "paper":
        offset = optimizer.base_lr * (1.0 - scale)
    return (
        scale,
        offset,
        1.0 - _powers(optimizer.beta1, steps),
        1.0 - _powers(optimizer.beta2, steps),
    )


def decay_table(optimizer: OptimizerConfig, steps: int) -> Float64:
    """What weight decay is multiplied by, float64 [steps].

    Raises UsageError for a window between two steps.
    """
    if not optimizer.decay_windows:
        return np.ones(steps)
    factor = np.zeros(steps)
    for start, end in optimizer.decay_windows:
        inside = slice(round(start * steps), round(end * steps))
        if inside.start == inside.stop:
            raise UsageError(
                f"optimizer.decay_windows has [{start}, {end}], which holds none of the"
                f" {steps} steps"
            )
        factor[inside] = 1.0
    return factor


def make_tables(specs: Sequence[MemberSpec], moments_from: int = 0) -> Tables:
    """Tables of one group: a shared schedule, one row of `std` a member.

    `moments_from`: the step before which nobody trains, at which the moments are zero.
    Raises UsageError when the members' schedules, betas or steps differ, and for a decay window
    between two steps.
    """
    shared = {_schedule_key(spec) for spec in specs}
    if len(shared) != 1:
        raise UsageError(f"one group needs one schedule, betas and steps, not {len(shared)}")
    scale, offset, correction1, correction2 = schedule_tables(
        specs[0].optimizer, specs[0].training.steps
    )
    correction1, correction2 = (_from(moments_from, c) for c in (correction1, correction2))
    std = np.stack([initial_std(spec) for spec in specs])
    decay = decay_table(specs[0].optimizer, specs[0].training.steps)
    return Tables(scale, offset, correction1, correction2, std, decay)


def _from(start: int, corrections: Float64) -> Float64:
    """The corrections [steps] as they are when their moments begin at step `start`."""
    return np.concatenate([np.zeros(start), corrections[: len(corrections) - start]])


def _schedule_key(spec: MemberSpec) -> tuple[object, ...]:
    o = spec.optimizer
    shape = o.schedule, o.warmup, o.floor, o.start, o.points, o.base_lr, o.decay_windows
    return spec.training.steps, shape, o.beta1, o.beta2


def _constant(optimizer: OptimizerConfig, steps: int) -> Float64:
    return np.ones(steps)


def _cosine(optimizer: OptimizerConfig, steps: int) -> Float64:
    return _descent(optimizer, steps, _half_cosine)


def _linear(optimizer: OptimizerConfig, steps: int) -> Float64:
    return _descent(optimizer, steps, lambda progress: 1.0 - np.clip(progress, 0.0, 1.0))


def _descent(
    optimizer: OptimizerConfig, steps: int, shape: Callable[[Float64], Float64]
) -> Float64:
    """A straight warm-up, then from 1 to `floor` as `shape` goes from 1 to 0."""
    warmup = round(optimizer.warmup * steps)
    peak = max(warmup - 1, 0)
    t = np.arange(steps, dtype=np.float64)
    decay = shape((t - peak) / max(steps - 1 - peak, 1))
    scale = optimizer.floor + (1.0 - optimizer.floor) * decay
    return np.where(t < warmup, (t + 1.0) / max(warmup, 1), scale)


def _one_cycle(optimizer: OptimizerConfig, steps: int) -> Float64:
    peak = max(optimizer.warmup * steps - 1.0, 0.0)
    t = np.arange(steps, dtype=np.float64)
    low, high = optimizer.start, optimizer.floor
    rise = 1.0 + (low - 1.0) * _half_cosine(t / max(peak, 1e-9))
    fall = high + (1.0 - high) * _half_cosine((t - peak) / max(steps - 1.0 - peak, 1.0))
    return np.where(t <= peak, rise if peak > 0 else 1.0, fall)


def _points(optimizer: OptimizerConfig, steps: int) -> Float64:
    t = np.arange(steps, dtype=np.float64) / steps
    scale = np.full(steps, optimizer.points[0][1])
    for (x0, y0), (x1, y1) in itertools.pairwise(optimizer.points):
        scale = np.where(t >= x0, y0 + (y1 - y0) * ((t - x0) / (x1 - x0)), scale)
    last, end = optimizer.points[-1]
    return np.where(t >= last, end, scale)


def _paper(optimizer: OptimizerConfig, steps: int) -> Float64:
    warmup = round(optimizer.warmup * steps)
    t = np.arange(steps, dtype=np.float64)
    decay = _half_cosine((t - warmup) / max(steps - warmup, 1))
    return np.where(t < warmup, t / max(warmup, 1), decay)


_SCALES = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "one_cycle": _one_cycle,
    "points": _points,
    "paper": _paper,
}


def _half_cosine(progress: Float64) -> Float64:
    """(1 + cos(pi p)) / 2 for p clipped to [0, 1]."""
    _, cosine = fixedmath.sincos_turn(0.5 * np.clip(progress, 0.0, 1.0))
    return 0.5 * (1.0 + cosine)


def _powers(beta: float, steps: int) -> Float64:
    """beta^1 .. beta^steps, each rounded to float64 from a 40-digit product."""
    powers = np.empty(steps)
    with fixedmath.forty_digits():
        factor, power = Decimal(beta), Decimal(1)
        for t in range(steps):
            power *= factor
            powers[t] = float(power)
    return powers
