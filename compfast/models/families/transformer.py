"""Transformers over tokens, or over vectors.

Vaswani et al. 2017 (attention), Ba et al. 2016 (layer norm), arXiv 2405.05409 (form), 2406.03072
(without attention, norms or biases; a single logit for binary sequences), 2406.05816 (vectors,
relative positions, attention as a hypernetwork).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from compfast.config import ModelConfig, Ports
from compfast.models.families.base import Family, Network
from compfast.models.families.blocks import (
    bias,
    dropping,
    stack,
    stack_table,
    tokens,
    weight,
)
from compfast.models.families.ends import resolved
from compfast.models.plan import (
    Builder,
    Plan,
    Rows,
    absorb_projections,
    fuse_projections,
    prune_rows,
)
from compfast.models.tensors import Tensor


class TransformerFamily(Family[ModelConfig]):
    """Its module is compfast.models.transformer.Transformer."""

    Config = ModelConfig

    def resolve(self, model: ModelConfig, ports: Ports) -> ModelConfig:
        return resolved(model, ports)

    def table(self, model: ModelConfig) -> tuple[Tensor, ...]:
        """Query, key and value stand side by side, so that engines can multiply by them at once."""
        d, vocab = model.d_model, tokens(model)
        table = stack_table(model)
        if not model.tied_head:
            table.append(weight(-1, "head.weight", (vocab, d), "head"))
        if model.head_bias:
            table.append(bias(-1, "head.bias", vocab, d))
        return tuple(table)

    def plan(self, model: ModelConfig, *, absorb: bool) -> Plan:
        builder = Builder(tensor.name for tensor in self.table(model))
        single = model.logits == "single"
        x = stack(builder, model)
        head = ("embed.token.weight" if model.tied_head else "head.weight",)
        logits = builder.op("linear", "logits", tokens(model), (x,), head, builder.bias("head"))
        loss = "logistic" if single else model.loss or "cross_entropy"
        plan = builder.plan(logits, loss, masked=model.loss_positions == "masked")
        positions: Rows = "last" if model.loss_positions == "last" else "all"
        pruned = prune_rows(plan, positions, model.asked or 1)
        return fuse_projections(absorb_projections(pruned) if absorb else pruned)

    def holding(self, model: ModelConfig, weights: Mapping[str, NDArray[Any]]) -> Network:
        from compfast.models.transformer import Transformer

        return Transformer.holding(model, weights)

    def training(
        self, module: Any, model: ModelConfig, length: int, seed: int, step: int
    ) -> contextlib.AbstractContextManager[None]:
        return dropping(module, model, length, seed, step)
