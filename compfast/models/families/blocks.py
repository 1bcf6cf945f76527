"""What networks of transformer blocks share: the tensors of input and blocks, and their part of a
plan. Families: transformer, bottleneck.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from compfast.config import ModelConfig
from compfast.models.dropout import keep_mask
from compfast.models.plan import Builder, View
from compfast.models.resolved import known
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
    "code.weight",
    "code.bias",
    "generator.weight",
    "generator.bias",
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


def stack_table(model: ModelConfig) -> list[Tensor]:
    """The tensors up to the last norm."""
    table = _input_table(model)
    for layer in range(model.layers):
        table += _block_table(layer, model)
    return table + (_norm(-1, "final_norm", model) if model.final_norm else [])


def stack(builder: Builder, model: ModelConfig, blank: int | None = None) -> View:
    """The ops up to the last norm; of vectors, token `blank` counted back from the last reads as
    zeros."""
    x = _input(builder, model, blank)
    for layer in range(model.layers):
        x = _block(builder, layer, x, model)
    return builder.norm("final_norm", x, model.norm_eps) if model.final_norm else x


@contextlib.contextmanager
def dropping(module: Any, model: ModelConfig, length: int, seed: int, step: int) -> Iterator[None]:
    """What a module of such blocks is in while it takes training step `step`."""
    if not model.attention_dropout:
        yield
        return
    import torch

    for layer, block in enumerate(module.blocks):
        mask = keep_mask(model.attention_dropout, seed, step, layer, length)
        block.attention.keep = torch.from_numpy(mask)
    try:
        yield
    finally:
        for block in module.blocks:
            block.attention.keep = None


def _input_table(model: ModelConfig) -> list[Tensor]:
    d, positions = model.d_model, known(model.max_positions)
    if model.input_width:
        width = model.input_width
        return [
            weight(-1, "embed.input.weight", (d, width), "embedding"),
            bias(-1, "embed.input.bias", d, width),
        ]
    table = [weight(-1, "embed.token.weight", (tokens(model), d), "embedding", fan_in=d)]
    if model.position == "learned":
        table.append(weight(-1, "embed.position.weight", (positions, d), "embedding", fan_in=d))
    return table


def _input(builder: Builder, model: ModelConfig, blank: int | None) -> View:
    if model.input_width:
        given: dict[str, Any] = {} if blank is None else {"blank": blank}
        vectors = builder.op("vectors", "vectors", model.input_width, (), **given)
        return builder.linear("embed.input", vectors, model.d_model)
    tables: tuple[str, ...] = ("embed.token.weight",)
    if model.position == "learned":
        tables += ("embed.position.weight",)
    first = int(model.logits == "single")
    return builder.op("embed", "embed", model.d_model, (), tables, first=first)


def tokens(model: ModelConfig) -> int:
    """Rows of the token table, and logits."""
    return 1 if model.logits == "single" else known(model.vocab_size)


def _block_table(layer: int, model: ModelConfig) -> list[Tensor]:
    d, ff = model.d_model, known(model.d_ff)
    table: list[Tensor] = []
    pre, post = (model.norm == which for which in ("pre", "post"))
    if model.attention != "none":
        table += _norm(layer, "norm1", model) if pre else []
        table += _attention_table(layer, model)
        table += _norm(layer, "norm1", model) if post else []
    table += _norm(layer, "norm2", model) if pre else []
    table.append(weight(layer, "ffn.up.weight", (ff, d), "ffn"))
    if model.ffn_bias:
        table.append(bias(layer, "ffn.up.bias", ff, d))
    table.append(weight(layer, "ffn.down.weight", (d, ff), "ffn", residual=True))
    if model.ffn_bias:
        table.append(bias(layer, "ffn.down.bias", d, ff))
    return table + (_norm(layer, "norm2", model) if post else [])


def _attention_table(layer: int, model: ModelConfig) -> list[Tensor]:
    d = model.d_model
    qk, vo = model.heads * known(model.d_k), model.heads * known(model.d_v)
    table = [
        weight(layer, "attention.query.weight", (qk, d), "qk"),
        weight(layer, "attention.key.weight", (qk, d), "qk"),
        weight(layer, "attention.value.weight", (vo, d), "vo"),
    ]
    if model.attention_bias:
        table += [
            bias(layer, "attention.query.bias", qk, d, by_head=True),
            bias(layer, "attention.key.bias", qk, d, by_head=True),
            bias(layer, "attention.value.bias", vo, d, by_head=True),
        ]
    table.append(weight(layer, "attention.output.weight", (d, vo), "vo", residual=True))
    if model.attention_bias:
        table.append(bias(layer, "attention.output.bias", d, vo))
    if model.position == "relative":
        shape = (model.heads, known(model.buckets))
        table.append(weight(layer, "attention.relative.weight", shape, "qk"))
    if model.value_path == "deep":
        shape = (vo, known(model.d_v))
        table.append(weight(layer, "attention.deep.weight", shape, "vo"))
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
    qk, vo = model.heads * known(model.d_k), model.heads * known(model.d_v)
    q = builder.linear(f"{name}.query", h, qk)
    k = builder.linear(f"{name}.key", h, qk)
    bent: dict[str, Any] = {} if model.value_activation == "none" else {"activation": "relu"}
    v = builder.linear(f"{name}.value", h, vo, **bent)
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
    up = builder.linear(f"{name}.up", h, known(model.d_ff), activation=model.activation)
    return builder.linear(f"{name}.down", up, model.d_model, residual=x)


def _name(layer: int, slot: str) -> tuple[int, str]:
    slots = _OUTER_SLOTS if layer < 0 else _LAYER_SLOTS
    return 64 * (layer + 1) + slots.index(slot), slot if layer < 0 else f"blocks.{layer}.{slot}"


def weight(
    layer: int,
    slot: str,
    shape: tuple[int, int],
    group: str,
    fan_in: int | None = None,
    residual: bool = False,
) -> Tensor:
    tensor_id, name = _name(layer, slot)
    return Tensor(tensor_id, name, shape, "normal", fan_in or shape[1], group, residual)


def bias(layer: int, slot: str, size: int, fan_in: int, by_head: bool = False) -> Tensor:
    return Tensor(*_name(layer, slot), (size,), "bias", fan_in, by_head=by_head)


def _norm(layer: int, which: str, model: ModelConfig) -> list[Tensor]:
    d = model.d_model
    scale = Tensor(*_name(layer, f"{which}.weight"), (d,), "one", d)
    if not model.norm_bias:
        return [scale]
    return [scale, Tensor(*_name(layer, f"{which}.bias"), (d,), "zero", d)]
