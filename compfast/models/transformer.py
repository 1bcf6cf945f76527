"""The single member as a plain `nn.Module`: the specification every engine is checked against.

Parameter names and shapes are those of `compfast.models.params.parameter_table`.
Sources: Vaswani et al. 2017 (attention), Ba et al. 2016 (layer norm), arXiv 2405.05409 (form).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from compfast.config import ModelConfig
from compfast.errors import UsageError
from compfast.models.sequences import binary_logits, sequence_loss

_Made = dict[str, Any]  # where and in what type parameters are made

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


class Transformer(nn.Module):
    """A decoder-only transformer: tokens [B, T] -> logits [B, T, V].

    `model` is resolved (`compfast.models.families.resolve`). Fresh weights are PyTorch's
    defaults, drawn from its global generator; `holding` makes a member with its own. Both are
    float32, on `device`, whatever the defaults of type and device are.
    """

    def __init__(self, model: ModelConfig, device: str = "cpu") -> None:
        super().__init__()
        made: _Made = {"device": device, "dtype": torch.float32}
        self.single, d = model.logits == "single", model.d_model
        vocab = 1 if self.single else _known(model.vocab_size)
        self.embed = Embedding(vocab, _known(model.max_positions), d, made, first=self.single)
        self.blocks = nn.ModuleList(Block(model, made) for _ in range(model.layers))
        self.final_norm = _norm(model, made) if model.final_norm else None
        self.head = Head(d, vocab, made, tied=model.tied_head, bias=model.head_bias)

    @classmethod
    def holding(cls, model: ModelConfig, weights: Mapping[str, NDArray[Any]]) -> Transformer:
        """A network with copies of these weights by name; nothing is drawn.

        It can be trained, also where it is made in inference mode.
        """
        with torch.inference_mode(False):
            module = cls(model, device="meta")
            copies = {
                name: torch.tensor(array, dtype=torch.float32, device="cpu")
                for name, array in weights.items()
            }
            module.load_state_dict(copies, assign=True)
        return module

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)  # [B, T, D]
        for block in self.blocks:
            x = block(x)
        if self.final_norm is not None:
            x = self.final_norm(x)
        logits: Tensor = self.head(x, self.embed.token.weight)  # [B, T, V]
        return binary_logits(logits[..., 0]) if self.single else logits

    def loss(self, tokens: Tensor, targets: Tensor, positions: str) -> Tensor:
        """See `compfast.models.sequences.sequence_loss`."""
        return sequence_loss(self(tokens), tokens, targets, positions)


class Embedding(nn.Module):
    """Token table + learned absolute position table: [B, T] -> [B, T, D].

    `first`: the table has one row, that of token 1, and token 0 adds nothing.
    """

    def __init__(self, vocab: int, positions: int, d: int, made: _Made, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.token = _table(vocab, d, made)
        self.position = _table(positions, d, made)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        if length > self.position.num_embeddings:
            raise UsageError(
                f"the sequence has {length} tokens; this model has"
                f" {self.position.num_embeddings} positions"
            )
        where = torch.arange(length, device=tokens.device)
        own = tokens[..., None] * self.token.weight[0] if self.first else self.token(tokens)
        embedded: Tensor = own + self.position(where)
        return embedded


def _table(rows: int, d: int, made: _Made) -> nn.Embedding:
    if made["device"] != "meta":
        return nn.Embedding(rows, d, **made)
    # Asked to draw where there is nothing to draw, PyTorch imports its compiler, for seconds.
    nothing, given = torch.empty((rows, d), **made), nn.Embedding.from_pretrained
    table: nn.Embedding = given(nothing, freeze=False)  # type: ignore[no-untyped-call]
    return table


class Block(nn.Module):
    """pre:  x + attention(norm1(x)), then x + ffn(norm2(x)).
    post: norm1(x + attention(x)), then norm2(x + ffn(x)). none: no norms.
    All [B, T, D] -> [B, T, D]; without attention the first half is left out.
    """

    def __init__(self, model: ModelConfig, made: _Made) -> None:
        super().__init__()
        self.form = model.norm
        attends, norms = model.attention != "none", model.norm != "none"
        self.norm1 = _norm(model, made) if norms and attends else None
        self.attention = Attention(model, made) if attends else None
        self.norm2 = _norm(model, made) if norms else None
        self.ffn = FeedForward(model, made)

    def forward(self, x: Tensor) -> Tensor:
        if self.attention is not None:
            x = self._added(x, self.attention, self.norm1)
        return self._added(x, self.ffn, self.norm2)

    def _added(self, x: Tensor, inner: nn.Module, norm: nn.Module | None) -> Tensor:
        added: Tensor
        if norm is None:
            added = x + inner(x)
        else:
            added = x + inner(norm(x)) if self.form == "pre" else norm(x + inner(x))
        return added


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d_k) + mask) v per head, heads side by side in the columns."""

    def __init__(self, model: ModelConfig, made: _Made) -> None:
        super().__init__()
        d, bias = model.d_model, model.attention_bias
        self.heads, self.d_k, self.causal = model.heads, _known(model.d_k), model.causal
        values = model.heads * _known(model.d_v)
        self.query = nn.Linear(d, model.heads * self.d_k, bias=bias, **made)
        self.key = nn.Linear(d, model.heads * self.d_k, bias=bias, **made)
        self.value = nn.Linear(d, values, bias=bias, **made)
        self.output = nn.Linear(values, d, bias=bias, **made)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split(project(x)) for project in (self.query, self.key, self.value))
        scores: Tensor = q @ k.transpose(-2, -1) / math.sqrt(self.d_k)  # [B, H, T, T]
        if self.causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(future, -math.inf)
        mixed = scores.softmax(dim=-1) @ v  # [B, H, T, d_v]
        joined: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return joined

    def _split(self, x: Tensor) -> Tensor:
        """[B, T, H * size] -> [B, H, T, size]."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """down(activation(up(x)))."""

    def __init__(self, model: ModelConfig, made: _Made) -> None:
        super().__init__()
        d, ff = model.d_model, _known(model.d_ff)
        self.up = nn.Linear(d, ff, bias=model.ffn_bias, **made)
        self.down = nn.Linear(ff, d, bias=model.ffn_bias, **made)
        self.activation = ACTIVATIONS[model.activation]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.activation(self.up(x)))
        return out


class Head(nn.Module):
    """x W^T (+ bias) with its own W, or with the token table where the head is tied."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, d: int, vocab: int, made: _Made, *, tied: bool, bias: bool) -> None:
        super().__init__()
        fresh = nn.Linear(d, vocab, **made)
        self.weight = None if tied else nn.Parameter(fresh.weight.detach())
        self.bias = nn.Parameter(fresh.bias.detach()) if bias else None

    def forward(self, x: Tensor, token_table: Tensor) -> Tensor:
        return F.linear(x, token_table if self.weight is None else self.weight, self.bias)


def _norm(model: ModelConfig, made: _Made) -> nn.LayerNorm:
    return nn.LayerNorm(model.d_model, eps=model.norm_eps, bias=model.norm_bias, **made)


def _known(value: int | None) -> int:
    if value is None:
        raise ValueError("the model is not resolved: call compfast.models.families.resolve first")
    return value
