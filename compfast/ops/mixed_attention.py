"""Generalised attention: other weights than softmax, values that a generated network makes.

Attention as a hypernetwork (Schug et al. 2024, arXiv 2406.05816) and what it is compared with; the
equations are in csrc/attention_mixed.h.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from compfast.errors import UsageError
from compfast.ops.shared import Sizes, call, check_native, check_shape, is_native

WEIGHTS = ("softmax", "linear", "rms_head")  # order of csrc/attention_mixed_sizes.h
PATHS = ("none", "linear", "relu", "deep")  # likewise


def mixed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    relative: Tensor | None = None,
    keep: Tensor | None = None,
    deep: Tensor | None = None,
    weights: str = "softmax",
    path: str = "none",
    causal: bool = False,
    epsilon: float = 1e-6,
    impl: str = "native",
) -> Tensor:
    """q [M, B, T_q, H, K], k [M, B, T, H, K], v [M, B, T, H, K_v] -> [M, B, T_q, H, K_v].

    Query i stands at position i + T - T_q; causal: it sees keys 0 .. its position. To the scores
    (q k) / sqrt(K) of a key `n` positions after the query, `relative` [M, H, 2 T - 1] adds its
    number n + T - 1. `weights`: softmax over keys, the scores themselves (linear), or the scores
    over their root mean square over heads (rms_head, with `epsilon` under the root). `keep`
    [M, T_q, T], which takes no gradient, multiplies them: dropout. `path`: the weights sum the
    values (none), or a network that they make of the values: linear, relu, or deep, of which
    `deep` [M, H, K_v, K_v] is the second layer. Raises UsageError.
    """
    sizes: Sizes = {}
    check_shape("mixed_attention", "k", k, "M B T H K", sizes)
    check_shape("mixed_attention", "q", q, "M B T_q H K", sizes)
    check_shape("mixed_attention", "v", v, "M B T H K_v", sizes)
    if sizes["T_q"] > sizes["T"]:
        raise UsageError(
            f"mixed_attention: q has {sizes['T_q']} positions; k has {sizes['T']},"
            " and q must not have more"
        )
    if relative is not None:
        names = {**sizes, "2T-1": 2 * sizes["T"] - 1}
        check_shape("mixed_attention", "relative", relative, "M H 2T-1", names)
    if keep is not None:
        check_shape("mixed_attention", "keep", keep, "M T_q T", sizes)
    _check_options(weights, path, epsilon, deep)
    if deep is not None:
        names = {**sizes, "K_v'": sizes["K_v"]}
        check_shape("mixed_attention", "deep", deep, "M H K_v K_v'", names)
    if not is_native(impl):
        return _reference(q, k, v, relative, keep, deep, weights, path, causal, epsilon)
    given = {"q": q, "k": k, "v": v, "relative": relative, "keep": keep, "deep": deep}
    check_native("mixed_attention", torch.float32, **given)
    out: Tensor = _mixed(q, k, v, relative, keep, deep, weights, path, causal, epsilon)
    return out


def _check_options(weights: str, path: str, epsilon: float, deep: Tensor | None) -> None:
    if weights not in WEIGHTS:
        raise UsageError(
            f"mixed_attention: weights is {weights!r}; it must be one of {', '.join(WEIGHTS)}"
        )
    if path not in PATHS:
        raise UsageError(f"mixed_attention: path is {path!r}; it must be one of {', '.join(PATHS)}")
    if not 0 < epsilon < math.inf:
        raise UsageError(f"mixed_attention: epsilon is {epsilon}; it must be above 0 and finite")
    if (deep is None) == (path == "deep"):
        what = "is missing" if deep is None else "is given"
        raise UsageError(f"mixed_attention: deep {what} and path is {path!r}; they go together")


def _reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    relative: Tensor | None,
    keep: Tensor | None,
    deep: Tensor | None,
    weights: str,
    path: str,
    causal: bool,
    epsilon: float,
) -> Tensor:
    scores = torch.einsum("mbqhc,mbkhc->mbhqk", q, k) / math.sqrt(q.shape[-1])
    length, asking = k.shape[2], q.shape[2]
    positions = torch.arange(length, device=q.device)
    after = positions - positions[length - asking :, None]  # [T_q, T]
    if relative is not None:
        scores = scores + relative[:, None, :, after + length - 1]
    future = (after > 0) & causal
    if weights == "softmax":
        a = scores.masked_fill(future, -math.inf).softmax(-1)
    else:
        a = scores.masked_fill(future, 0)
    if weights == "rms_head":
        a = a * (a.square().mean(2, keepdim=True) + epsilon).rsqrt()
    if keep is not None:
        a = a * keep.detach()[:, None, None]
    if path == "none":
        return torch.einsum("mbhqk,mbkhc->mbqhc", a, v)
    u = torch.einsum("mbhqk,mbkhc->mbqkc", a, v)
    w = u if path == "linear" else u.relu()
    if deep is not None:
        layer = torch.einsum("mhcd,mbqkd->mbhqkc", deep, w)
        w = torch.einsum("mbhqk,mbhqkc->mbqkc", a, layer).relu()
    return torch.einsum("mbhqk,mbqkc->mbqhc", a, w)


@torch.library.custom_op("compfast::mixed_attention", mutates_args=(), device_types="cpu")
def _mixed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    relative: Tensor | None,
    keep: Tensor | None,
    deep: Tensor | None,
    weights: str,
    path: str,
    causal: bool,
    epsilon: float,
) -> Tensor:
    tensors = _contiguous(q, k, v, relative, keep, deep)
    out = _output(q, v)
    call("mixed_forward", *_sizes(q, v, weights, path, causal, epsilon), *tensors, out)
    return out


@_mixed.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    relative: Tensor | None,
    keep: Tensor | None,
    deep: Tensor | None,
    weights: str,
    path: str,
    causal: bool,
    epsilon: float,
) -> Tensor:
    return _output(q, v)


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _output(q: Tensor, v: Tensor) -> Tensor:
    return q.new_empty(*q.shape[:-1], v.shape[-1])


def _sizes(
    q: Tensor, v: Tensor, weights: str, path: str, causal: bool, epsilon: float
) -> tuple[float, ...]:
    members, batch, asking, heads, width = q.shape
    options = causal, WEIGHTS.index(weights), PATHS.index(path), epsilon
    return (
        *(members, batch, asking, v.shape[2], heads, width, v.shape[-1]),
        *options,
        torch.get_num_threads(),
    )


@torch.library.custom_op("compfast::mixed_attention_backward", mutates_args=(), device_types="cpu")
def _mixed_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    relative: Tensor | None,
    keep: Tensor | None,
    deep: Tensor | None,
    d_out: Tensor,
    weights: str,
    path: str,
    causal: bool,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, relative and deep; of what is not given, one of no elements."""
    tensors = _contiguous(q, k, v, relative, keep, deep, d_out)
    made = _gradients(q, k, v, relative, deep)
    addresses = [tensor if tensor.numel() else None for tensor in made]
    call("mixed_backward", *_sizes(q, v, weights, path, causal, epsilon), *tensors, *addresses)
    return made


@_mixed_backward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    relative: Tensor | None,
    keep: Tensor | None,
    deep: Tensor | None,
    d_out: Tensor,
    weights: str,
    path: str,
    causal: bool,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _gradients(q, k, v, relative, deep)


def _gradients(
    q: Tensor, k: Tensor, v: Tensor, relative: Tensor | None, deep: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    each = (q.new_empty(0 if x is None else x.shape) for x in (q, k, v, relative, deep))
    dq, dk, dv, d_relative, d_deep = each
    return dq, dk, dv, d_relative, d_deep


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.weights, ctx.path, ctx.causal, ctx.epsilon = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, relative, keep, deep = ctx.saved_tensors
    options = ctx.weights, ctx.path, ctx.causal, ctx.epsilon
    dq, dk, dv, d_relative, d_deep = _mixed_backward(q, k, v, relative, keep, deep, d_out, *options)
    d_relative = None if relative is None else d_relative
    d_deep = None if deep is None else d_deep
    return dq, dk, dv, d_relative, None, d_deep, None, None, None, None


_mixed.register_autograd(_backward, setup_context=_save)
