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
from torch.nn.utils import clip_grad_norm_

from compfast.config import ModelConfig, OptimizerConfig
from compfast.models.params import parameter_table
from compfast.models.relative import bucket_table

Weights = Mapping[str, Tensor]  # compfast's names -> [M, *shape]
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


def decaying(model: ModelConfig, options: OptimizerConfig) -> set[str]:
    """Names of what the weight decay is for."""
    return {t.name for t in parameter_table(model) if t.decays(options.decay)}


class Loop:
    """One fused AdamW a member, one member after the other."""

    def __init__(
        self,
        weights: Weights,
        model: ModelConfig,
        options: OptimizerConfig,
        length: int,
        *,
        pruned: bool,
    ) -> None:
        self._model, self._clip = model, options.clip
        self._last = (model.asked or 1) if pruned else 0
        self._buckets = one_hot_buckets(model, length)
        self._asked, self._params = model.asked or 1, list[dict[str, Tensor]]()
        self._optimizers, decay = [], decaying(model, options)
        for member in range(len(next(iter(weights.values())))):
            own = {name: w[member].clone().requires_grad_() for name, w in weights.items()}
            groups: list[dict[str, Any]] = [
                {"params": [own[n] for n in own if n in decay]},
                {"params": [own[n] for n in own if n not in decay], "weight_decay": 0.0},
            ]
            self._params.append(own)
            self._optimizers.append(
                torch.optim.AdamW(
                    groups,
                    lr=options.lr,
                    betas=(options.beta1, options.beta2),
                    eps=options.eps,
                    weight_decay=options.weight_decay,
                    fused=True,
                )
            )

    def step(self, batch: Batch) -> Tensor:
        losses = []
        for p, optimizer, x, y in zip(self._params, self._optimizers, *batch, strict=True):
            optimizer.zero_grad(set_to_none=True)
            outputs = network(TORCH, p, x, self._buckets, self._model, self._last)
            asked = outputs[:, -self._asked :]
            if y.is_floating_point():
                loss = F.mse_loss(asked, y)
            else:
                loss = F.cross_entropy(asked.flatten(0, 1), y.flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            if self._clip:
                clip_grad_norm_(p.values(), self._clip)
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)
