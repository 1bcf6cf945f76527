"""y = (x - mean) / sqrt(var + eps) * weight + bias over the last axis (Ba et al. 2016)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compfast.ops.shared import Sizes, call, check_native, check_shape, is_native


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, impl: str = "native"
) -> Tensor:
    """x [M, N, D], weight [M, D], bias [M, D] -> [M, N, D]. Raises UsageError."""
    sizes: Sizes = {}
    check_shape("layer_norm", "x", x, "M N D", sizes)
    check_shape("layer_norm", "weight", weight, "M D", sizes)
    check_shape("layer_norm", "bias", bias, "M D", sizes)
    if not is_native(impl):
        return F.layer_norm(x, x.shape[-1:], eps=eps) * weight[:, None] + bias[:, None]
    check_native("layer_norm", torch.float32, x=x, weight=weight, bias=bias)
    y: Tensor = _layer_norm(x, weight, bias, eps)[0]
    return y


@torch.library.custom_op("compfast::layer_norm", mutates_args=(), device_types="cpu")
def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """y, and mean and 1 / std of every row [M, N, 2]."""
    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    y, saved = _outputs(x)
    call("norm_forward", *x.shape, eps, torch.get_num_threads(), x, weight, bias, y, saved)
    return y, saved


@_layer_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return _outputs(x)


def _outputs(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[0], x.shape[1], 2)


@torch.library.custom_op("compfast::layer_norm_backward", mutates_args=(), device_types="cpu")
def _layer_norm_backward(
    x: Tensor, weight: Tensor, saved: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    x, weight, dy = x.contiguous(), weight.contiguous(), dy.contiguous()
    dx, dw, db = _gradients(x, weight)
    call("norm_backward", *x.shape, torch.get_num_threads(), x, weight, dy, saved, dx, dw, db)
    return dx, dw, db


@_layer_norm_backward.register_fake
def _(x: Tensor, weight: Tensor, saved: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(x, weight)


def _gradients(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(weight.shape), x.new_empty(weight.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, _ = inputs
    ctx.save_for_backward(x, weight, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    dx, dw, db = _layer_norm_backward(*ctx.saved_tensors, dy)
    return dx, dw, db, None


_layer_norm.register_autograd(_backward, setup_context=_save)
