"""softmax(q k^T / sqrt(K)) v of every member, sequence and head (Vaswani et al. 2017)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from compfast.ops.shared import Sizes, call, check_native, check_shape, is_native


def attention(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = True, *, impl: str = "native"
) -> Tensor:
    """q, k [M, B, T, H, K], v [M, B, T, H, K_v] -> [M, B, T, H, K_v].

    causal: position t sees positions 0 .. t. Raises UsageError.
    """
    sizes: Sizes = {}
    check_shape("attention", "q", q, "M B T H K", sizes)
    check_shape("attention", "k", k, "M B T H K", sizes)
    check_shape("attention", "v", v, "M B T H K_v", sizes)
    if not is_native(impl):
        return _reference(q, k, v, causal)
    check_native("attention", torch.float32, q=q, k=k, v=v)
    out: Tensor = _attention(q, k, v, causal)[0]
    return out


def _reference(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    q, k, v = q.transpose(2, 3), k.transpose(2, 3), v.transpose(2, 3)
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # [M, B, H, T, T]
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    return (scores.softmax(dim=-1) @ v).transpose(2, 3)


@torch.library.custom_op("compfast::attention", mutates_args=(), device_types="cpu")
def _attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """The output, and [M, B, H, T, 16 or 2]: the weights, or each row's maximum and 1 / sum."""
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out, saved = _outputs(q, v)
    sizes = (*q.shape, v.shape[-1], causal, torch.get_num_threads())
    call("attention_forward", *sizes, q, k, v, out, saved)
    return out, saved


@_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    return _outputs(q, v)


def _outputs(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    members, batch, length, heads, _ = q.shape
    row = 16 if length <= 16 else 2  # attention_saved_row in csrc/attention_sizes.h
    # zero, since a kernel of 8 lanes writes 8 of a short row, and an output has no rest of memory
    saved = q.new_zeros(members, batch, heads, length, row)
    return q.new_empty(v.shape), saved


@torch.library.custom_op("compfast::attention_backward", mutates_args=(), device_types="cpu")
def _attention_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, saved: Tensor, d_out: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    q, k, v, d_out = q.contiguous(), k.contiguous(), v.contiguous(), d_out.contiguous()
    dq, dk, dv = _gradients(q, k, v)
    sizes = (*q.shape, v.shape[-1], causal, torch.get_num_threads())
    call("attention_backward", *sizes, q, k, v, out, saved, d_out, dq, dk, dv)
    return dq, dk, dv


@_attention_backward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, saved: Tensor, d_out: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(q, k, v)


def _gradients(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(k.shape), q.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.causal = inputs
    ctx.save_for_backward(q, k, v, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, d_out: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    dq, dk, dv = _attention_backward(*ctx.saved_tensors, d_out, ctx.causal)
    return dq, dk, dv, None


_attention.register_autograd(_backward, setup_context=_save)
