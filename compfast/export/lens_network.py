"""A member laid out as TransformerLens wants its models: a table, a stack of blocks, a linear head.

The blocks and their weights are the member's own. What differs is what TransformerLens has one
form for: a head that is tied holds the table, and a single logit becomes two, token 0 having zeros
in the table and in the head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from compfast.config import ModelConfig
from compfast.errors import UsageError
from compfast.models.resolved import known
from compfast.models.transformer import Embedding, Transformer


class LensNetwork(nn.Module):
    """Token ids [B, T] -> logits [B, T, V], of a transformer over tokens, which it takes over.

    No child has the name of a slot of TransformerLens (embed, blocks, unembed...), which a bridge
    looks for in the module that it wraps, too.
    """

    def __init__(self, network: Transformer, sizes: ModelConfig) -> None:
        super().__init__()
        assert isinstance(network.embed, Embedding), "vectors have no token table"
        self.sizes, self.positions = sizes, known(sizes.max_positions)
        self.token, self.position = network.embed.token, network.embed.position
        self.layers, self.final = network.blocks, network.final_norm
        weight, bias = network.head.weight, network.head.bias
        if network.single:
            given = nn.Embedding.from_pretrained
            self.token = given(_below_zero(self.token.weight), freeze=False)  # type: ignore[no-untyped-call]
            weight = None if weight is None else nn.Parameter(_below_zero(weight))
            bias = None if bias is None else nn.Parameter(_below_zero(bias))
        rows, told = self.token.num_embeddings, bias is not None
        self.head = nn.Linear(sizes.d_model, rows, bias=told, device="meta")
        self.head.weight = self.token.weight if weight is None else weight
        if bias is not None:
            self.head.bias = bias
        self.eval()

    def forward(
        self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Tensor:
        """`inputs_embeds` [B, T, D] stands for the table's rows; nothing else is taken, so that a
        mask or a cache of keys is refused by Python."""
        given = inputs_embeds if input_ids is None else input_ids
        assert given is not None, "either ids or embeddings"
        length = given.shape[1]
        if length > self.positions:
            raise UsageError(
                f"the sequence has {length} tokens; this model has {self.positions} positions"
            )
        x: Tensor = given if input_ids is None else self.token(input_ids)
        if self.position is not None:
            x = x + self.position(torch.arange(length, device=x.device)[None])
        for block in self.layers:
            x = _first(block(x))
        logits: Tensor = self.head(x if self.final is None else self.final(x))
        return logits


def _below_zero(row: Tensor) -> Tensor:
    """[1, ...] of token 1 -> [2, ...], token 0 having zeros."""
    return torch.cat([torch.zeros_like(row), row]).detach()


def _first(output: Any) -> Tensor:
    """What a block gives; TransformerLens gives it as a tuple of one."""
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor
