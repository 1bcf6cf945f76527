"""Training in a given precision, and the budget of parameters after some steps.

The budget carries the gradients' budget through AdamW, element by element. With u = m / D,
D = sqrt(v) + eps (both bias-corrected), gradients off by at most d move m and sqrt(v) by at most
d each, so u by at most about 2 d / D; and no two updates lie further apart than 2. Hence
    |parameter - float64| <= steps * eps(float32) * |parameter|
                             + sum over steps t of lr_t * min(2, 2 d_t / D_t)
with d_t the largest budget so far of the tensor's clipped gradient: 2 * (error of float32
PyTorch on its own way + band). Where the float64 gradient has been exactly zero the second line
is zero; where it is zero up to rounding (the key bias) it becomes 2 * sum of learning rates.

SGD moves by lr times a sum of gradients whose weights, powers of the momentum mu, add up to at most
1 / (1 - mu): the second line is sum of lr_t * d_t / (1 - mu).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from oracle import EPS, Array, Arrays, evaluate

from compfast.config import MemberSpec, OptimizerConfig
from compfast.ensembles.schedule import make_tables
from compfast.models.init import initial_parameters
from compfast.models.params import parameter_table
from compfast.tasks import make_task


@dataclass
class Trajectory:
    """Some steps of one member: what the optimiser saw and what came out."""

    start: Arrays
    params: Arrays
    exp_avg: Arrays  # SGD: its buffer
    exp_avg_sq: Arrays
    met: Arrays  # where a gradient has been other than zero
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)  # before clipping
    rates: list[float] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)  # of clipping
    grads: list[Arrays] = field(default_factory=list)  # before clipping
    bands: list[Arrays] = field(default_factory=list)
    divisors: list[Arrays] = field(default_factory=list)  # AdamW's D


@dataclass(frozen=True)
class TrainingBudget:
    """The largest allowed distances from float64."""

    params: Arrays  # name -> element by element
    losses: float  # for the steps' losses as one tensor, as in oracle.py
    norms: Array  # [steps]


def train(spec: MemberSpec, steps: int, dtype: torch.dtype = torch.float64) -> Trajectory:
    """The optimiser as its paper or torch.optim writes it, from step 0, on the task's batches."""
    tables, options = make_tables([spec]), spec.optimizer
    kind = np.float64 if dtype == torch.float64 else np.float32
    start = initial_parameters(spec, tables.std[0])
    zero = {name: np.zeros_like(value, dtype=kind) for name, value in start.items()}
    params = {name: value.astype(kind) for name, value in start.items()}
    run = Trajectory(start, params, dict(zero), dict(zero), {n: z != 0 for n, z in zero.items()})
    table = {t.name: t for t in parameter_table(spec.model)}
    task = make_task(spec.task)
    for t in range(steps):
        batch = task.batch(spec.seed, t, spec.training.batch_size)
        now = evaluate(spec.model, run.params, *batch, dtype=dtype)
        norm = float(np.sqrt(sum(float((g**2).sum()) for g in now.grads.values())))
        factor = min(1.0, options.clip / (norm + 1e-6)) if options.clip else 1.0
        lr = float(np.float32(options.lr * tables.scale[t] + tables.offset[t]))
        divisors = {}
        for name, raw in now.grads.items():
            g = kind(factor) * raw
            run.met[name] = run.met[name] | (raw != 0)
            if options.kind == "sgd":
                update = _sgd(run.exp_avg, name, g, options, first=t == 0)
            else:
                m = kind(options.beta1) * run.exp_avg[name] + kind(1 - options.beta1) * g
                v = kind(options.beta2) * run.exp_avg_sq[name] + kind(1 - options.beta2) * g * g
                run.exp_avg[name], run.exp_avg_sq[name] = m, v
                unbiased = v / kind(1 - options.beta2 ** (t + 1))
                divisors[name] = np.sqrt(unbiased) + kind(options.eps)
                update = m / kind(1 - options.beta1 ** (t + 1)) / divisors[name]
            decays = table[name].decays(options.decay)
            decay = options.weight_decay_of(table[name].group) if decays else 0.0
            kept = kind(1 - lr * decay * tables.decay[t])
            run.params[name] = kept * run.params[name] - kind(lr) * update
        run.losses.append(float(now.loss))
        run.norms.append(norm)
        run.rates.append(lr)
        run.factors.append(factor)
        run.grads.append(now.grads)
        run.bands.append(now.bands)
        run.divisors.append(divisors)
    return run


def _sgd(buffers: Arrays, name: str, g: Array, options: OptimizerConfig, first: bool) -> Array:
    """torch.optim.SGD's move for the gradient g, dampening 0; its buffer is kept in `buffers`."""
    momentum = g.dtype.type(options.momentum)
    if not options.momentum:
        return g
    buffers[name] = g if first else momentum * buffers[name] + g
    return g + momentum * buffers[name] if options.nesterov else buffers[name]


def training_budget(
    exact: Trajectory, single: Trajectory, options: OptimizerConfig
) -> TrainingBudget:
    """The budget of this page; `single` is the same training in float32."""
    steps = range(len(exact.rates))
    params, squares = {}, np.zeros(len(steps))
    for name, value in exact.params.items():
        moved, worst = np.zeros_like(value), 0.0
        for t in steps:
            error = np.abs(single.grads[t][name] - exact.grads[t][name]).max()
            budget = 2 * float(error + exact.bands[t][name].max())
            squares[t] += value.size * budget**2
            worst = max(worst, exact.factors[t] * budget)
            if options.kind == "sgd":
                ratio = np.full_like(value, worst / (1 - options.momentum))
            else:
                ratio = np.minimum(2.0, 2 * worst / exact.divisors[t][name])
            moved += exact.rates[t] * ratio
        rounding = len(steps) * EPS * np.abs(value)
        params[name] = rounding + np.where(exact.met[name], moved, 0.0)
    apart = np.abs(np.subtract(single.losses, exact.losses))
    bands = np.array([float(bands["loss"]) for bands in exact.bands])
    # The distance of two norms is at most the norm of the distance.
    return TrainingBudget(params, 2 * float(apart.max() + bands.max()), np.sqrt(squares))
