"""One SGD step with momentum of every member, in place, no gradients through it."""

from __future__ import annotations

import torch
from torch import Tensor

from compfast.errors import UsageError
from compfast.ops.shared import Sizes, call, check_native, check_shape, column, is_native


def sgd(
    params: Tensor,
    grads: Tensor,
    momentum_buffer: Tensor,
    *,
    lr: Tensor,
    weight_decay: Tensor,
    clip_scale: Tensor,
    momentum: float = 0.0,
    nesterov: bool = False,
    impl: str = "native",
) -> None:
    """Changes params, momentum_buffer [M, P] (contiguous for native) by grads [M, P].

    lr, weight_decay [M] float64; clip_scale [M] float64 multiplies the gradient g. torch.optim.SGD
    (dampening 0) with decoupled decay: p *= 1 - lr wd; b = momentum b + g; p -= lr b, with Nesterov
    lr (g + momentum b). A buffer of zeros is the first step's; without momentum it stays as it is,
    and p -= lr g. Raises UsageError.
    """
    sizes: Sizes = {}
    flat = {"params": params, "grads": grads, "momentum_buffer": momentum_buffer}
    each = {"lr": lr, "weight_decay": weight_decay, "clip_scale": clip_scale}
    for name, tensor in flat.items():
        check_shape("sgd", name, tensor, "M P", sizes)
    for name, tensor in each.items():
        check_shape("sgd", name, tensor, "M", sizes)
    if not 0 <= momentum < 1:
        raise UsageError(f"sgd: momentum is {momentum}; it must be in [0, 1)")
    if nesterov and momentum == 0:
        raise UsageError("sgd: nesterov is True; it needs a momentum above 0")
    if not is_native(impl):
        _reference(params, grads, momentum_buffer, lr, weight_decay, clip_scale, momentum, nesterov)
        return
    check_native("sgd", torch.float32, **flat)
    check_native("sgd", torch.float64, **each)
    for name, tensor in flat.items():
        if name != "grads" and not tensor.is_contiguous():
            raise UsageError(f"sgd: {name} is not contiguous; impl='native' changes it in place")
    _sgd(*flat.values(), *each.values(), momentum, nesterov)


@torch.no_grad()
def _reference(
    params: Tensor,
    grads: Tensor,
    momentum_buffer: Tensor,
    lr: Tensor,
    weight_decay: Tensor,
    clip_scale: Tensor,
    momentum: float,
    nesterov: bool,
) -> None:
    move = grads * column(clip_scale, params)
    if momentum > 0:
        momentum_buffer.mul_(momentum).add_(move)
        move = move + momentum * momentum_buffer if nesterov else momentum_buffer
    params.mul_(column(1 - lr * weight_decay, params))
    params.sub_(column(lr, params) * move)


@torch.library.custom_op(
    "compfast::sgd", mutates_args=("params", "momentum_buffer"), device_types="cpu"
)
def _sgd(
    params: Tensor,
    grads: Tensor,
    momentum_buffer: Tensor,
    lr: Tensor,
    weight_decay: Tensor,
    clip_scale: Tensor,
    momentum: float,
    nesterov: bool,
) -> None:
    each = tuple(t.contiguous() for t in (lr, weight_decay, clip_scale))
    flat = grads.contiguous(), params, momentum_buffer
    call("sgd", *params.shape, momentum, nesterov, torch.get_num_threads(), *flat, *each)


@_sgd.register_fake
def _(
    params: Tensor,
    grads: Tensor,
    momentum_buffer: Tensor,
    lr: Tensor,
    weight_decay: Tensor,
    clip_scale: Tensor,
    momentum: float,
    nesterov: bool,
) -> None:
    return None
