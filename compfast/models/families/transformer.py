"""Decoder-only transformers over tokens.

Vaswani et al. 2017 (attention), Ba et al. 2016 (layer norm), arXiv 2405.05409 (form), 2406.03072
(without attention, norms or biases; a single logit for binary sequences).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from compfast.config import ModelConfig
from compfast.errors import UsageError
from compfast.models.families.base import Family, Network, check_resolved
from compfast.models.plan import (
    Builder,
    Plan,
    View,
    absorb_projections,
    fuse_projections,
    prune_rows,
)
from compfast.models.tensors import Tensor

# Append-only: a tensor's stream id is 64 * (layer + 1) + its slot (layer -1: embeddings, head).
_OUTER_SLOTS = (
    "embed.token.weight",
    "embed.position.weight",
    "final_norm.weight",
    "final_norm.bias",
    "head.weight",
    "head.bias",
)
_LAYER_SLOTS = (
    "attention.query.weight",
    "attention.key.weight",
    "attention.value.weight",
    "attention.output.weight",
    "attention.query.bias",
    "attention.key.bias",
    "attention.value.bias",
    "attention.output.bias",
    "norm1.weight",
    "norm1.bias",
    "norm2.weight",
    "norm2.bias",
    "ffn.up.weight",
    "ffn.up.bias",
    "ffn.down.weight",
    "ffn.down.bias",
)


class TransformerFamily(Family[ModelConfig]):
    """Its module is compfast.models.transformer.Transformer."""

    Config = ModelConfig

    def resolve(self, model: ModelConfig, length: int, vocabulary: int) -> ModelConfig:
        single = model.logits == "single"
        if single and (vocabulary != 2 or model.vocab_size not in (None, 2)):
            raise UsageError(
                f"model.logits is single, for tokens 0 and 1; this task has {vocabulary} and"
                f" model.vocab_size is {model.vocab_size}; model.logits = vocabulary takes any"
            )
        resolved = dataclasses.replace(
            model,
            d_k=model.d_k or model.d_model // model.heads,
            d_v=model.d_v or model.d_model // model.heads,
            d_ff=model.d_ff or 2 * model.d_model,
            vocab_size=2 if single else model.vocab_size or -(-vocabulary // 16) * 16,
            max_positions=model.max_positions or length,
            final_norm=model.norm == "pre" if model.final_norm is None else model.final_norm,
        )
        sizes = _known(resolved.vocab_size), _known(resolved.max_positions)
        check_resolved(*sizes, length, vocabulary)
        return resolved

    def table(self, model: ModelConfig) -> tuple[Tensor, ...]:
        """Query, key and value stand side by side, so that engines can multiply by them at once."""
        d, vocab = model.d_model, _tokens(model)
        table = [
            _weight(-1, "embed.token.weight", (vocab, d), "embedding", fan_in=d),
            _weight(
                -1, "embed.position.weight", (_known(model.max_positions), d), "embedding", fan_in=d
            ),
        ]
        for layer in range(model.layers):
            table += _block_table(layer, model)
        if model.final_norm:
            table += _norm(-1, "final_norm", model)
        if not model.tied_head:
            table.append(_weight(-1, "head.weight", (vocab, d), "head"))
        if model.head_bias:
            table.append(_bias(-1, "head.bias", vocab, d))
        return tuple(table)

    def plan(self, model: ModelConfig, *, absorb: bool) -> Plan:
        builder = Builder(tensor.name for tensor in self.table(model))
        single = model.logits == "single"
        tables = ("embed.token.weight", "embed.position.weight")
        x = builder.op("embed", "embed", model.d_model, (), tables, first=int(single))
        for layer in range(model.layers):
            x = _block(builder, f"blocks.{layer}", x, model)
        if model.final_norm:
            x = builder.norm("final_norm", x, model.norm_eps)
        head = ("embed.token.weight" if model.tied_head else "head.weight",)
        logits = builder.op("linear", "logits", _tokens(model), (x,), head, builder.bias("head"))
        plan = builder.plan(logits, "logistic" if single else "cross_entropy")
        pruned = prune_rows(plan, model.loss_positions)
        return fuse_projections(absorb_projections(pruned) if absorb else pruned)

    def holding(self, model: ModelConfig, weights: Mapping[str, NDArray[Any]]) -> Network:
        from compfast.models.transformer import Transformer

        return Transformer.holding(model, weights)


def _tokens(model: ModelConfig) -> int:
    """Rows of the token table, and logits."""
    return 1 if model.logits == "single" else _known(model.vocab_size)


def _block_table(layer: int, model: ModelConfig) -> list[Tensor]:
    d, ff = model.d_model, _known(model.d_ff)
    table: list[Tensor] = []
    pre, post = (model.norm == which for which in ("pre", "post"))
    if model.attention != "none":
        table += _norm(layer, "norm1", model) if pre else []
        table += _attention_table(layer, model)
        table += _norm(layer, "norm1", model) if post else []
    table += _norm(layer, "norm2", model) if pre else []
    table.append(_weight(layer, "ffn.up.weight", (ff, d), "ffn"))
    if model.ffn_bias:
        table.append(_bias(layer, "ffn.up.bias", ff, d))
    table.append(_weight(layer, "ffn.down.weight", (d, ff), "ffn", residual=True))
    if model.ffn_bias:
        table.append(_bias(layer, "ffn.down.bias", d, ff))
    return table + (_norm(layer, "norm2", model) if post else [])


def _attention_table(layer: int, model: ModelConfig) -> list[Tensor]:
    d = model.d_model
    qk, vo = model.heads * _known(model.d_k), model.heads * _known(model.d_v)
    table = [
        _weight(layer, "attention.query.weight", (qk, d), "qk"),
        _weight(layer, "attention.key.weight", (qk, d), "qk"),
        _weight(layer, "attention.value.weight", (vo, d), "vo"),
    ]
    if model.attention_bias:
        table += [
            _bias(layer, "attention.query.bias", qk, d),
            _bias(layer, "attention.key.bias", qk, d),
            _bias(layer, "attention.value.bias", vo, d),
        ]
    table.append(_weight(layer, "attention.output.weight", (d, vo), "vo", residual=True))
    if model.attention_bias:
        table.append(_bias(layer, "attention.output.bias", d, vo))
    return table


def _block(builder: Builder, name: str, x: View, model: ModelConfig) -> View:
    if model.attention != "none":
        x = _sublayer(builder, f"{name}.norm1", x, model, _attention, f"{name}.attention")
    return _sublayer(builder, f"{name}.norm2", x, model, _feed_forward, f"{name}.ffn")


def _sublayer(
    builder: Builder, norm: str, x: View, model: ModelConfig, inner: Callable[..., View], name: str
) -> View:
    """pre: x + inner(norm(x)); post: norm(x + inner(x)); none: x + inner(x)."""
    h = builder.norm(norm, x, model.norm_eps) if model.norm == "pre" else x
    x = inner(builder, name, h, x, model)
    return builder.norm(norm, x, model.norm_eps) if model.norm == "post" else x


def _attention(builder: Builder, name: str, h: View, x: View, model: ModelConfig) -> View:
    qk, vo = model.heads * _known(model.d_k), model.heads * _known(model.d_v)
    q = builder.linear(f"{name}.query", h, qk)
    k = builder.linear(f"{name}.key", h, qk)
    v = builder.linear(f"{name}.value", h, vo)
    attended = builder.op(
        "attention",
        name,
        vo,
        (q, k, v),
        heads=model.heads,
        d_k=model.d_k,
        d_v=model.d_v,
        causal=model.causal,
    )
    return builder.linear(f"{name}.output", attended, model.d_model, residual=x)


def _feed_forward(builder: Builder, name: str, h: View, x: View, model: ModelConfig) -> View:
    up = builder.linear(f"{name}.up", h, _known(model.d_ff), activation=model.activation)
    return builder.linear(f"{name}.down", up, model.d_model, residual=x)


def _known(value: int | None) -> int:
    if value is None:
        raise ValueError("the model is not resolved: call compfast.models.families.resolve first")
    return value


def _name(layer: int, slot: str) -> tuple[int, str]:
    slots = _OUTER_SLOTS if layer < 0 else _LAYER_SLOTS
    return 64 * (layer + 1) + slots.index(slot), slot if layer < 0 else f"blocks.{layer}.{slot}"


def _weight(
    layer: int,
    slot: str,
    shape: tuple[int, int],
    group: str,
    fan_in: int | None = None,
    residual: bool = False,
) -> Tensor:
    tensor_id, name = _name(layer, slot)
    return Tensor(tensor_id, name, shape, "normal", fan_in or shape[1], group, residual)


def _bias(layer: int, slot: str, size: int, fan_in: int) -> Tensor:
    return Tensor(*_name(layer, slot), (size,), "bias", fan_in)


def _norm(layer: int, which: str, model: ModelConfig) -> list[Tensor]:
    d = model.d_model
    scale = Tensor(*_name(layer, f"{which}.weight"), (d,), "one", d)
    if not model.norm_bias:
        return [scale]
    return [scale, Tensor(*_name(layer, f"{which}.bias"), (d,), "zero", d)]
