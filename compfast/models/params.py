"""The one table of tensors: everything that walks over parameters reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from compfast.config import ModelConfig

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

Init = Literal["normal", "one", "zero", "bias"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One parameter of a member; linear weights are [d_out, d_in] as in `nn.Linear`."""

    id: int  # stream id, never renumbered
    name: str  # the `nn.Module` parameter name
    shape: tuple[int, ...]
    init: Init
    fan_in: int  # d_in of the init law; for a bias, of its layer
    group: str = ""  # init group (config.GAMMA_GROUPS), empty for norms and biases
    residual: bool = False  # writes to the residual stream (1/sqrt(2L) applies)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def matrix(self) -> bool:
        """Decayed under optimizer.decay = matrices."""
        return len(self.shape) == 2


def parameter_table(model: ModelConfig) -> tuple[Tensor, ...]:
    """All tensors of a resolved model, in the order of the flat parameter vector.

    Query, key and value stand side by side so that engines can multiply by them at once.
    """
    d, ff = model.d_model, _known(model.d_ff)
    qk, vo = model.heads * _known(model.d_k), model.heads * _known(model.d_v)
    vocab, positions = _known(model.vocab_size), _known(model.max_positions)

    table = [
        _weight(-1, "embed.token.weight", (vocab, d), "embedding", fan_in=d),
        _weight(-1, "embed.position.weight", (positions, d), "embedding", fan_in=d),
    ]
    for layer in range(model.layers):
        if model.norm == "pre":
            table += _norm(layer, "norm1", d)
        table += [
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
        table += _norm(layer, "norm2" if model.norm == "pre" else "norm1", d)
        table.append(_weight(layer, "ffn.up.weight", (ff, d), "ffn"))
        if model.ffn_bias:
            table.append(_bias(layer, "ffn.up.bias", ff, d))
        table.append(_weight(layer, "ffn.down.weight", (d, ff), "ffn", residual=True))
        if model.ffn_bias:
            table.append(_bias(layer, "ffn.down.bias", d, ff))
        if model.norm == "post":
            table += _norm(layer, "norm2", d)
    if model.final_norm:
        table += _norm(-1, "final_norm", d)
    if not model.tied_head:
        table.append(_weight(-1, "head.weight", (vocab, d), "head"))
    if model.head_bias:
        table.append(_bias(-1, "head.bias", vocab, d))
    return tuple(table)


def parameter_count(model: ModelConfig) -> int:
    return sum(tensor.size for tensor in parameter_table(model))


def _known(value: int | None) -> int:
    if value is None:
        raise ValueError("the model is not resolved: call config.resolve first")
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


def _norm(layer: int, which: str, d: int) -> list[Tensor]:
    return [
        Tensor(*_name(layer, f"{which}.weight"), (d,), "one", d),
        Tensor(*_name(layer, f"{which}.bias"), (d,), "zero", d),
    ]
