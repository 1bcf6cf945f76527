"""Sequences under a mask as PyTorch users train them: a plain causal transformer with SDPA and
fused AdamW, one member after the other.

Batches are compfast's, drawn before anything is timed, so these peers draw for nothing. `padded`:
to all T positions, else to the longest sequence of each batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from benchmarks.peers.vectors import decaying
from compfast.config import ModelConfig, OptimizerConfig

Weights = Mapping[str, Tensor]  # compfast's names -> [M, *shape]
Batch = tuple[Tensor, Tensor]  # tokens, targets (-1: nothing is asked): int64 [M, B, T]


def network(p: Mapping[str, Tensor], tokens: Tensor, model: ModelConfig) -> Tensor:
    """tokens [B, T] -> logits [B, T, V]; pre-norm, GELU, learned positions."""
    x = F.embedding(tokens, p["embed.token.weight"])
    x = x + p["embed.position.weight"][: tokens.shape[1]]
    for layer in range(model.layers):
        name = f"blocks.{layer}"
        h = _norm(p, f"{name}.norm1", x, model)
        q, k, v = (_heads(_linear(p, f"{name}.attention.{w}", h), model.heads) for w in _QKV)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + _linear(p, f"{name}.attention.output", mixed.transpose(1, 2).flatten(2))
        h = _norm(p, f"{name}.norm2", x, model)
        x = x + _linear(p, f"{name}.ffn.down", F.gelu(_linear(p, f"{name}.ffn.up", h)))
    return _linear(p, "head", _norm(p, "final_norm", x, model))


_QKV = ("query", "key", "value")


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def _linear(p: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))


def _norm(p: Mapping[str, Tensor], name: str, x: Tensor, model: ModelConfig) -> Tensor:
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
    return F.layer_norm(x, x.shape[-1:], weight, bias, model.norm_eps)


def masked_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over a sequence's targets, then over sequences."""
    losses = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-1, reduction="none")
    return (losses.sum(1) / (targets >= 0).sum(1).clamp(min=1)).mean()


class Loop:
    """One fused AdamW a member."""

    def __init__(
        self, weights: Weights, model: ModelConfig, options: OptimizerConfig, *, padded: bool
    ) -> None:
        self._model, self._clip, self._padded = model, options.clip, padded
        self._params, self._optimizers = list[dict[str, Tensor]](), list[torch.optim.AdamW]()
        decay = decaying(model, options)
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
        """Train every member one step; losses [M] before it."""
        losses = []
        for p, optimizer, tokens, targets in zip(
            self._params, self._optimizers, *batch, strict=True
        ):
            length = tokens.shape[1]
            if not self._padded:
                length = int((targets >= 0).any(0).nonzero().max()) + 1
            optimizer.zero_grad(set_to_none=True)
            loss = masked_loss(network(p, tokens[:, :length], self._model), targets[:, :length])
            loss.backward()  # type: ignore[no-untyped-call]
            if self._clip:
                clip_grad_norm_(p.values(), self._clip)
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)
