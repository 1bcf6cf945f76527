"""y = act(x W^T + b) of every member, W [D_out, D_in] as in nn.Linear."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compfast.errors import UsageError
from compfast.models.precision import rounded_product
from compfast.ops.activation import apply
from compfast.ops.shared import (
    ACTIVATIONS,
    Sizes,
    call,
    check_activation,
    check_native,
    check_shape,
    is_native,
)

PRECISIONS = ("fp32", "bf16")


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str = "none",
    *,
    precision: str = "fp32",
    impl: str = "native",
) -> Tensor:
    """x [M, N, D_in], weight [M, D_out, D_in], bias [M, D_out] or None -> [M, N, D_out].

    `activation`: none, relu, gelu, gelu_tanh. `precision` bf16 rounds both operands of the product,
    and of its gradients' products, to bfloat16; all else is float32. Raises UsageError.
    """
    sizes: Sizes = {}
    check_shape("linear", "x", x, "M N D_in", sizes)
    check_shape("linear", "weight", weight, "M D_out D_in", sizes)
    if bias is not None:
        check_shape("linear", "bias", bias, "M D_out", sizes)
    check_activation("linear", activation)
    if precision not in PRECISIONS:
        raise UsageError(f"linear: precision is {precision!r}; it must be fp32 or bf16")
    if not is_native(impl):
        return apply(_in_torch(x, weight, bias, precision), activation)
    check_native("linear", torch.float32, x=x, weight=weight, bias=bias)
    y: Tensor = _linear(x, weight, bias, activation, precision)[0]
    return y


def _in_torch(x: Tensor, weight: Tensor, bias: Tensor | None, precision: str) -> Tensor:
    if precision == "bf16":
        product = rounded_product(x, weight)
        return product if bias is None else product + bias[:, None]
    return x @ weight.mT if bias is None else torch.baddbmm(bias[:, None], x, weight.mT)


@torch.library.custom_op("compfast::linear", mutates_args=(), device_types="cpu")
def _linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, precision: str
) -> tuple[Tensor, Tensor]:
    """y and the activation's slope, both [M, N, D_out]; no activation: a slope of no elements."""
    x, weight = x.contiguous(), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    y, slope = _outputs(x, weight, activation)
    sizes = _sizes(x, weight, activation, precision)
    call("linear_forward", *sizes, x, weight, bias, y, slope if slope.numel() else None)
    return y, slope


@_linear.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, precision: str
) -> tuple[Tensor, Tensor]:
    return _outputs(x, weight, activation)


def _sizes(x: Tensor, weight: Tensor, activation: str, precision: str) -> tuple[int, ...]:
    options = ACTIVATIONS.index(activation), PRECISIONS.index(precision)
    return (*x.shape, weight.shape[1], *options, torch.get_num_threads())


def _outputs(x: Tensor, weight: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    y = x.new_empty(x.shape[0], x.shape[1], weight.shape[1])
    return y, x.new_empty(0 if activation == "none" else y.shape)


@torch.library.custom_op("compfast::linear_backward", mutates_args=(), device_types="cpu")
def _linear_backward(
    x: Tensor, weight: Tensor, slope: Tensor, dy: Tensor, activation: str, precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    x, weight, dy = x.contiguous(), weight.contiguous(), dy.contiguous()
    dx, dw, db = _gradients(x, weight)
    sizes = _sizes(x, weight, activation, precision)
    call("linear_backward", *sizes, x, weight, slope, dy, dx, dw, db)
    return dx, dw, db


@_linear_backward.register_fake
def _(
    x: Tensor, weight: Tensor, slope: Tensor, dy: Tensor, activation: str, precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(x, weight)


def _gradients(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    db = x.new_empty(weight.shape[0], weight.shape[1])
    return x.new_empty(x.shape), x.new_empty(weight.shape), db


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, *ctx.options = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    dx, dw, db = _linear_backward(*ctx.saved_tensors, dy, *ctx.options)
    return dx, dw, db if ctx.has_bias else None, None, None


_linear.register_autograd(_backward, setup_context=_save)
