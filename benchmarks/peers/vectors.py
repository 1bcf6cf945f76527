"""Networks of vectors (arXiv 2406.05816) in einsum form, as its users write them, and a plain loop.

The network is written once, over the few functions that PyTorch and JAX name differently (`Kit`).
Batches are compfast's, drawn before anything is timed, so these peers draw for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers.fused_loop import FusedLoop, Weights
from compfast.config import ModelConfig, OptimizerConfig
from compfast.models.relative import bucket_table

Batch = tuple[Tensor, Tensor]  # vectors [M, B, T, width]; ids [M, B, k] or numbers [M, B, k, V]


class VectorPeer(Protocol):
    """Made from weights, the model and the optimiser's options."""

    def step(self, batch: Batch) -> Tensor:
        """Train every member one step; losses [M] before it."""


@dataclass(frozen=True, slots=True)
class Kit:
    """A library's own names. linear: x, W, b -> x W^T + b; norm: x, scale, shift, epsilon."""

    einsum: Callable[..., Any]
    softmax: Callable[[Any], Any]  # over the last axis
    relu: Callable[[Any], Any]
    gelu: Callable[[Any], Any]  # its tanh form
    linear: Callable[[Any, Any, Any], Any]
    norm: Callable[[Any, Any, Any, float], Any]
    sqrt: Callable[[Any], Any]


TORCH = Kit(
    torch.einsum,
    lambda x: torch.softmax(x, dim=-1),
    torch.relu,
    lambda x: F.gelu(x, approximate="tanh"),
    F.linear,
    lambda x, scale, shift, eps: F.layer_norm(x, x.shape[-1:], scale, shift, eps),
    torch.sqrt,
)


def network(kit: Kit, p: Any, x: Any, buckets: Any, model: ModelConfig, last: int) -> Any:
    """One member: vectors [B, T, width] -> outputs [B, T, V] or, `last` > 0, the last ones'.

    `buckets` [T, T, buckets] is one-hot (`one_hot_buckets`). `last`: the last layer's queries
    and FFN are computed at so many positions, as compfast does; 0: everywhere, as users do.
    """
    x = kit.linear(x, p["embed.input.weight"], p["embed.input.bias"])
    for layer in range(model.layers):
        name = f"blocks.{layer}"
        rows = slice(-last if layer == model.layers - 1 else 0, None)
        h = _norm(kit, p, f"{name}.norm1", x, model)
        x = x[:, rows] + _attention(kit, p, f"{name}.attention", h, buckets, model, rows)
        h = _norm(kit, p, f"{name}.norm2", x, model)
        up = kit.gelu(_linear(kit, p, f"{name}.ffn.up", h))
        x = x + _linear(kit, p, f"{name}.ffn.down", up)
    return _linear(kit, p, "head", _norm(kit, p, "final_norm", x, model))


def _attention(
    kit: Kit, p: Any, name: str, h: Any, buckets: Any, model: ModelConfig, rows: slice
) -> Any:
    """h [B, T, D] -> [B, rows, D]: softmax, or rms over heads; values plain, or generated."""
    q, k, v = (
        _linear(kit, p, f"{name}.{which}", given).reshape(*given.shape[:2], model.heads, -1)
        for which, given in (("query", h[:, rows]), ("key", h), ("value", h))
    )
    bias = kit.einsum("hn,qkn->hqk", p[f"{name}.relative.weight"], buckets[rows])
    a = kit.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1]) + bias
    if model.attention == "softmax":
        a = kit.softmax(a)
    else:
        a = a / kit.sqrt((a * a).mean(1)[:, None] + model.rms_eps)
    if model.value_path == "none":
        mixed = kit.einsum("bhqk,bkhd->bqhd", a, v)
    else:
        hidden = kit.relu(kit.einsum("bhqk,bkhd->bqkd", a, v))
        mixed = kit.einsum("bhqk,bqkd->bqhd", a, hidden)
    return _linear(kit, p, f"{name}.output", mixed.reshape(*mixed.shape[:2], -1))


def _linear(kit: Kit, p: Any, name: str, x: Any) -> Any:
    return kit.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))


def _norm(kit: Kit, p: Any, name: str, x: Any, model: ModelConfig) -> Any:
    return kit.norm(x, p[f"{name}.weight"], p[f"{name}.bias"], model.norm_eps)


def one_hot_buckets(model: ModelConfig, length: int) -> Tensor:
    """[T, T, buckets]: the relative bias is a product, as in the paper's code."""
    table = torch.from_numpy(bucket_table(length, model.buckets or 0))
    return F.one_hot(table, model.buckets or 0).float()


class Loop(FusedLoop):
    """The network in PyTorch."""

    def __init__(
        self,
        weights: Weights,
        model: ModelConfig,
        options: OptimizerConfig,
        length: int,
        *,
        pruned: bool,
    ) -> None:
        super().__init__(weights, model, options)
        self._asked = model.asked or 1
        self._last = self._asked if pruned else 0
        self._buckets = one_hot_buckets(model, length)

    def loss(self, p: Mapping[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = network(TORCH, p, inputs, self._buckets, self._model, self._last)
        asked = outputs[:, -self._asked :]
        if targets.is_floating_point():
            return F.mse_loss(asked, targets)
        return F.cross_entropy(asked.flatten(0, 1), targets.flatten())
