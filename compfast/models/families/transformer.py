"""Transformers over tokens, or over vectors.

Vaswani et al. 2017 (attention), Ba et al. 2016 (layer norm), arXiv 2405.05409 (form), 2406.03072
(without attention, norms or biases; a single logit for binary sequences), 2406.05816 (vectors,
relative positions, attention as a hypernetwork).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from compfast.config import ModelConfig, Ports
from compfast.errors import UsageError
from compfast.models.dropout import keep_mask
from compfast.models.families.base import Family, Network, check_masked, check_resolved
from compfast.models.plan import (
    Builder,
    Plan,
    Rows,
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
    "embed.input.weight",
    "embed.input.bias",
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
    "attention.relative.weight",
    "attention.deep.weight",
)


class TransformerFamily(Family[ModelConfig]):
    """Its module is compfast.models.transformer.Transformer."""

    Config = ModelConfig

    def resolve(self, model: ModelConfig, ports: Ports) -> ModelConfig:
        positions = model.max_positions or ports.length
        resolved = dataclasses.replace(
            model,
            d_k=model.d_k or model.d_model // model.heads,
            d_v=model.d_v or model.d_model // model.heads,
            d_ff=model.d_ff or 2 * model.d_model,
            max_positions=positions,
            buckets=model.buckets or positions,
            final_norm=model.norm == "pre" if model.final_norm is None else model.final_norm,
            **_ends(model, ports),
        )
        check_resolved(_known(resolved.vocab_size), positions, ports)
        return resolved

    def table(self, model: ModelConfig) -> tuple[Tensor, ...]:
        """Query, key and value stand side by side, so that engines can multiply by them at once."""
        d, vocab = model.d_model, _tokens(model)
        table = _input_table(model)
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
        x = _input(builder, model)
        for layer in range(model.layers):
            x = _block(builder, layer, x, model)
        if model.final_norm:
            x = builder.norm("final_norm", x, model.norm_eps)
        head = ("embed.token.weight" if model.tied_head else "head.weight",)
        logits = builder.op("linear", "logits", _tokens(model), (x,), head, builder.bias("head"))
        loss = "logistic" if single else model.loss or "cross_entropy"
        masked = model.loss_positions == "masked"
        plan = builder.plan(logits, loss, masked=masked)
        positions: Rows = "last" if model.loss_positions == "last" else "all"
        pruned = prune_rows(plan, positions, model.asked or 1)
        return fuse_projections(absorb_projections(pruned) if absorb else pruned)

    def holding(self, model: ModelConfig, weights: Mapping[str, NDArray[Any]]) -> Network:
        from compfast.models.transformer import Transformer

        return Transformer.holding(model, weights)

    @contextlib.contextmanager
    def training(self, module: Any, model: ModelConfig, seed: int, step: int) -> Iterator[None]:
        if not model.attention_dropout:
            yield
            return
        import torch

        length = _known(model.max_positions)
        for layer, block in enumerate(module.blocks):
            mask = keep_mask(model.attention_dropout, seed, step, layer, length)
            block.attention.keep = torch.from_numpy(mask)
        try:
            yield
        finally:
            for block in module.blocks:
                block.attention.keep = None


def _ends(model: ModelConfig, ports: Ports) -> dict[str, Any]:
    """What goes in and what comes out: the fields that a task decides.

    Raises UsageError for a network that cannot take the task's inputs, or gives other answers.
    """
    own = {"input_width": ports.width, "asked": ports.asked, "loss": ports.loss}
    for name, asked in own.items():
        given = getattr(model, name)
        if given not in (None, asked):
            raise UsageError(f"model.{name} is {given}; this task has {asked}")
    check_masked(model.family, ports, model.loss_positions == "masked")
    single, vectors = model.logits == "single", ports.width > 0
    if single and (ports.vocabulary != 2 or vectors or model.vocab_size not in (None, 2)):
        raise UsageError(
            f"model.logits is single, for tokens 0 and 1; this task has {ports.vocabulary} and"
            f" model.vocab_size is {model.vocab_size}; model.logits = vocabulary takes any"
        )
    if not vectors:
        own["vocab_size"] = 2 if single else model.vocab_size or -(-ports.vocabulary // 16) * 16
        return {**own, "position": _position(model, "learned")}
    for name, value, allowed in (
        ("position", model.position, ("auto", "relative", "none")),
        ("tied_head", model.tied_head, (False,)),
        ("loss_positions", model.loss_positions, ("last",)),
        ("vocab_size", model.vocab_size, (ports.vocabulary,)),
    ):
        if value is not None and value not in allowed:
            raise UsageError(
                f"model.{name} is {value}; for a task of vectors it must be"
                f" {' or '.join(map(str, allowed))}"
            )
    return {**own, "vocab_size": ports.vocabulary, "position": _position(model, "relative")}


def _position(model: ModelConfig, usual: str) -> str:
    return usual if model.position == "auto" else model.position


def _input_table(model: ModelConfig) -> list[Tensor]:
    d, positions = model.d_model, _known(model.max_positions)
    if model.input_width:
        width = model.input_width
        return [
            _weight(-1, "embed.input.weight", (d, width), "embedding"),
            _bias(-1, "embed.input.bias", d, width),
        ]
    table = [_weight(-1, "embed.token.weight", (_tokens(model), d), "embedding", fan_in=d)]
    if model.position == "learned":
        table.append(_weight(-1, "embed.position.weight", (positions, d), "embedding", fan_in=d))
    return table


def _input(builder: Builder, model: ModelConfig) -> View:
    if model.input_width:
        vectors = builder.op("vectors", "vectors", model.input_width, ())
        return builder.linear("embed.input", vectors, model.d_model)
    tables: tuple[str, ...] = ("embed.token.weight",)
    if model.position == "learned":
        tables += ("embed.position.weight",)
    first = int(model.logits == "single")
    return builder.op("embed", "embed", model.d_model, (), tables, first=first)


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
            _bias(layer, "attention.query.bias", qk, d, by_head=True),
            _bias(layer, "attention.key.bias", qk, d, by_head=True),
            _bias(layer, "attention.value.bias", vo, d, by_head=True),
        ]
    table.append(_weight(layer, "attention.output.weight", (d, vo), "vo", residual=True))
    if model.attention_bias:
        table.append(_bias(layer, "attention.output.bias", d, vo))
    if model.position == "relative":
        shape = (model.heads, _known(model.buckets))
        table.append(_weight(layer, "attention.relative.weight", shape, "qk"))
    if model.value_path == "deep":
        shape = (vo, _known(model.d_v))
        table.append(_weight(layer, "attention.deep.weight", shape, "vo"))
    return table


def _block(builder: Builder, layer: int, x: View, model: ModelConfig) -> View:
    name = f"blocks.{layer}"
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
    sizes: dict[str, Any] = {
        "heads": model.heads,
        "d_k": model.d_k,
        "d_v": model.d_v,
        "causal": model.causal,
    }
    if _is_plain(model):
        attended = builder.op("attention", name, vo, (q, k, v), **sizes)
    else:
        extra = f"{name}.relative.weight", f"{name}.deep.weight"
        attended = builder.op(
            "mixed_attention",
            name,
            vo,
            (q, k, v),
            tuple(n for n in extra if n in builder.known),
            **sizes,
            scores=model.attention,
            path=model.value_path,
            relative=model.position == "relative",
            deep=model.value_path == "deep",
            buckets=model.buckets,
            dropout=model.attention_dropout,
            layer=int(name.split(".")[1]),
            epsilon=model.rms_eps,
        )
    return builder.linear(f"{name}.output", attended, model.d_model, residual=x)


def _is_plain(model: ModelConfig) -> bool:
    """Softmax attention and nothing else."""
    usual = model.attention == "softmax" and model.value_path == "none"
    return usual and model.position != "relative" and not model.attention_dropout


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


def _bias(layer: int, slot: str, size: int, fan_in: int, by_head: bool = False) -> Tensor:
    return Tensor(*_name(layer, slot), (size,), "bias", fan_in, by_head=by_head)


def _norm(layer: int, which: str, model: ModelConfig) -> list[Tensor]:
    d = model.d_model
    scale = Tensor(*_name(layer, f"{which}.weight"), (d,), "one", d)
    if not model.norm_bias:
        return [scale]
    return [scale, Tensor(*_name(layer, f"{which}.bias"), (d,), "zero", d)]
