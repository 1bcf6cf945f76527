"""The precision modes in plain PyTorch: what the fast engines' products mean.

"fp32": IEEE float32. "bf16": both operands of every linear layer's three products (forward,
gradient of the input, gradient of the weight) are rounded to bfloat16, sums and everything else
(master weights, moments, biases, norms, attention scores and softmax, loss) stay float32.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


def products(precision: str) -> AbstractContextManager[Any]:
    """A context in which every `F.linear` multiplies in the given precision."""
    return _RoundedLinear() if precision == "bf16" else nullcontext()


class _RoundedLinear(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.linear:
            return _rounded_linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _rounded_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y = rounded_product(x.flatten(0, -2), weight).reshape(*x.shape[:-1], -1)
    return y if bias is None else y + bias


def rounded_product(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., N, d_in], weight [..., d_out, d_in] -> x weight^T of the rounded operands.

    The leading axes are the same; so are the operands of both gradients rounded.
    """
    y: Tensor = _Product.apply(x, weight)  # type: ignore[no-untyped-call]
    return y


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x, weight = _round(x), _round(weight)
        ctx.save_for_backward(x, weight)
        return x @ weight.mT

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        dy = _round(dy)
        return dy @ weight, dy.mT @ x


def _round(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).to(x.dtype)
