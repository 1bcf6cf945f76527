"""One AdamW step (Loshchilov & Hutter 2019) of every member, in place, no gradients through it."""

from __future__ import annotations

import torch
from torch import Tensor

from compfast.errors import UsageError
from compfast.ops.shared import Sizes, call, check_native, check_shape, column, is_native


def adamw(
    params: Tensor,
    grads: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: Tensor,
    weight_decay: Tensor,
    clip_scale: Tensor,
    step: Tensor,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    impl: str = "native",
) -> None:
    """Changes params, exp_avg, exp_avg_sq [M, P] (contiguous for native) by grads [M, P].

    lr, weight_decay [M] float64; clip_scale [M] float64 multiplies the gradient; step [M] int64
    counts this step, from 1. p *= 1 - lr wd; p -= lr / c1 * m / (sqrt(v) / sqrt(c2) + eps),
    c_i = 1 - beta_i^step. Raises UsageError.
    """
    sizes: Sizes = {}
    flat = {"params": params, "grads": grads, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    each = {"lr": lr, "weight_decay": weight_decay, "clip_scale": clip_scale}
    for name, tensor in flat.items():
        check_shape("adamw", name, tensor, "M P", sizes)
    for name, tensor in {**each, "step": step}.items():
        check_shape("adamw", name, tensor, "M", sizes)
    if not is_native(impl):
        _reference(
            params,
            grads,
            exp_avg,
            exp_avg_sq,
            lr,
            weight_decay,
            clip_scale,
            step,
            beta1,
            beta2,
            eps,
        )
        return
    check_native("adamw", torch.float32, **flat)
    check_native("adamw", torch.float64, **each)
    check_native("adamw", torch.int64, step=step)
    for name, tensor in flat.items():
        if name != "grads" and not tensor.is_contiguous():
            raise UsageError(f"adamw: {name} is not contiguous; impl='native' changes it in place")
    _adamw(*flat.values(), *each.values(), step, beta1, beta2, eps)


@torch.no_grad()
def _reference(
    params: Tensor,
    grads: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    lr: Tensor,
    weight_decay: Tensor,
    clip_scale: Tensor,
    step: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    gradient = grads * column(clip_scale, params)
    exp_avg.mul_(beta1).add_(gradient, alpha=1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    correction1, correction2 = (1 - beta ** step.double() for beta in (beta1, beta2))
    denominator = exp_avg_sq.sqrt() * column(correction2.rsqrt(), params) + eps
    params.mul_(column(1 - lr * weight_decay, params))
    params.sub_(column(lr / correction1, params) * (exp_avg / denominator))


@torch.library.custom_op(
    "compfast::adamw", mutates_args=("params", "exp_avg", "exp_avg_sq"), device_types="cpu"
)
def _adamw(
    params: Tensor,
    grads: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    lr: Tensor,
    weight_decay: Tensor,
    clip_scale: Tensor,
    step: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    each = tuple(t.contiguous() for t in (lr, weight_decay, clip_scale, step))
    flat = grads.contiguous(), params, exp_avg, exp_avg_sq
    call("adamw", *params.shape, beta1, beta2, eps, torch.get_num_threads(), *flat, *each)


@_adamw.register_fake
def _(
    params: Tensor,
    grads: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    lr: Tensor,
    weight_decay: Tensor,
    clip_scale: Tensor,
    step: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    return None
