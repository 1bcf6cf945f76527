"""Greedy decoding as PyTorch users write it: all prompts in one batch, keys and values kept."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compfast.config import ModelConfig, Prompts
from compfast.engines.base import Int32
from compfast.models.resolved import known

Weights = dict[str, Tensor]  # name -> [*shape], query, key and value joined


def joined(weights: Weights, layers: int) -> Weights:
    """Query, key and value projections of each layer side by side, as `qkv`."""
    found = dict(weights)
    for layer in range(layers):
        name = f"blocks.{layer}.attention"
        for part in ("weight", "bias"):
            each = [weights[f"{name}.{which}.{part}"] for which in ("query", "key", "value")]
            found[f"{name}.qkv.{part}"] = torch.cat(each)
    return found


class CachedLoop:
    """One pre-norm GELU network with all biases and learned positions; position by position, a
    prompt's own tokens first. Rows that are told enough run on until the last one is.
    """

    def __init__(self, model: ModelConfig, weights: Weights, sequences: int, length: int) -> None:
        self._model, self._weights = model, joined(weights, model.layers)
        shape = (model.layers, sequences, model.heads, length, known(model.d_k))
        self._keys, self._values = torch.zeros(shape), torch.zeros(shape)

    @torch.no_grad()
    def generate(self, prompts: Prompts) -> Int32:
        """Told [N, max_new]; nothing ends a row early."""
        lengths = torch.from_numpy(prompts.lengths).long()
        total = int(lengths.max()) + prompts.max_new
        tokens = torch.zeros((len(lengths), total), dtype=torch.long)
        tokens[:, : prompts.tokens.shape[1]] = torch.from_numpy(prompts.tokens)
        for at in range(total - 1):
            found = self._logits(tokens[:, at], at).argmax(-1)
            tokens[:, at + 1] = torch.where(at + 1 < lengths, tokens[:, at + 1], found)
        places = lengths[:, None] + torch.arange(prompts.max_new)
        told: Int32 = tokens.gather(1, places).int().numpy()
        return told

    def _logits(self, tokens: Tensor, at: int) -> Tensor:
        w, d = self._weights, self._model.d_model
        x = w["embed.token.weight"][tokens] + w["embed.position.weight"][at]
        for layer in range(self._model.layers):
            name = f"blocks.{layer}"
            h = F.layer_norm(x, (d,), w[f"{name}.norm1.weight"], w[f"{name}.norm1.bias"])
            qkv = F.linear(h, w[f"{name}.attention.qkv.weight"], w[f"{name}.attention.qkv.bias"])
            q, k, v = qkv.view(len(x), 3, self._model.heads, -1).unbind(1)  # [N, H, d_k]
            keys, values = self._keys[layer], self._values[layer]
            keys[:, :, at], values[:, :, at] = k, v
            seen = keys[:, :, : at + 1], values[:, :, : at + 1]
            mixed = F.scaled_dot_product_attention(q[:, :, None], *seen)[:, :, 0].flatten(1)
            x = x + self._linear(mixed, f"{name}.attention.output")
            h = F.layer_norm(x, (d,), w[f"{name}.norm2.weight"], w[f"{name}.norm2.bias"])
            x = x + self._linear(F.gelu(self._linear(h, f"{name}.ffn.up")), f"{name}.ffn.down")
        x = F.layer_norm(x, (d,), w["final_norm.weight"], w["final_norm.bias"])
        return self._linear(x, "head")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])
