"""Sequences under a mask as PyTorch users train them: a plain causal transformer with SDPA and
fused AdamW, one member after the other.

Batches are compfast's, drawn before anything is timed, so these peers draw for nothing. `padded`:
to all T positions, else to the longest sequence of each batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers.fused_loop import FusedLoop, Weights
from compfast.config import ModelConfig, OptimizerConfig
from compfast.models.sequences import sequence_loss

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


class Loop(FusedLoop):
    """The mean of a sequence's targets, then of sequences."""

    def __init__(
        self, weights: Weights, model: ModelConfig, options: OptimizerConfig, *, padded: bool
    ) -> None:
        super().__init__(weights, model, options)
        self._padded = padded

    def loss(self, p: Mapping[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        length = inputs.shape[1]
        if not self._padded:
            length = int((targets >= 0).any(0).nonzero().max()) + 1
        tokens, asked = inputs[:, :length], targets[:, :length]
        return sequence_loss(network(p, tokens, self._model), tokens, asked, "masked")
