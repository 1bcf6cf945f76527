"""relu, exact GELU, or its tanh form (Hendrycks & Gimpel 2016), any shape [M, ...]."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compfast.errors import UsageError
from compfast.ops.shared import ACTIVATIONS, call, check_activation, check_native, is_native


def activation(x: Tensor, kind: str, *, impl: str = "native") -> Tensor:
    """`kind`: relu, gelu, gelu_tanh. x [M, ...] -> the same shape. Raises UsageError."""
    check_activation("activation", kind, ACTIVATIONS[1:])
    if x.dim() == 0 or x.numel() == 0:
        raise UsageError(f"activation: x has shape {list(x.shape)}; it must be [M, ...], not empty")
    if not is_native(impl):
        return apply(x, kind)
    check_native("activation", torch.float32, x=x)
    y: Tensor = _activation(x, kind)[0]
    return y


def apply(x: Tensor, kind: str) -> Tensor:
    """The same in plain PyTorch, "none" included."""
    if kind == "none":
        return x
    if kind == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="tanh" if kind == "gelu_tanh" else "none")


@torch.library.custom_op("compfast::activation", mutates_args=(), device_types="cpu")
def _activation(x: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """y and the slope dy/dx."""
    x = x.contiguous()
    y, slope = torch.empty_like(x), torch.empty_like(x)
    members, threads = x.shape[0], torch.get_num_threads()
    call("activation", members, x.numel() // members, ACTIVATIONS.index(kind), threads, x, y, slope)
    return y, slope


@_activation.register_fake
def _(x: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor, None]:
    (slope,) = ctx.saved_tensors
    return dy * slope, None


_activation.register_autograd(_backward, setup_context=_save)
