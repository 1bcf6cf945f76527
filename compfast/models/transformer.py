"""The single member as a plain `nn.Module`: the specification every engine is checked against.

Parameter names and shapes are those of `compfast.models.params.parameter_table`.
Sources: Vaswani et al. 2017 (attention), Ba et al. 2016 (layer norm), arXiv 2405.05409 (form).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from compfast.config import ModelConfig
from compfast.errors import UsageError
from compfast.models.attention import Attention, Made
from compfast.models.resolved import known
from compfast.models.sequences import answers_loss, binary_logits, sequence_loss

Kind = TypeVar("Kind", bound="Stack")

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


class Stack(nn.Module):
    """Input and blocks, which other networks than a transformer begin with, too.

    `model` is resolved (`compfast.models.families.resolve`). Fresh weights are PyTorch's
    defaults, drawn from its global generator; `holding` makes a member with its own. Both are
    float32, on `device`, whatever the defaults of type and device are.
    """

    def __init__(self, model: ModelConfig, device: str = "cpu") -> None:
        super().__init__()
        self.made: Made = {"device": device, "dtype": torch.float32}
        self.single, self.vectors = model.logits == "single", bool(model.input_width)
        self.outputs = 1 if self.single else known(model.vocab_size)
        self.embed = (
            VectorInput(model, self.made)
            if self.vectors
            else Embedding(model, self.outputs, self.made)
        )
        self.blocks = nn.ModuleList(Block(model, self.made) for _ in range(model.layers))
        self.final_norm = _norm(model, self.made) if model.final_norm else None

    @classmethod
    def holding(cls: type[Kind], model: ModelConfig, weights: Mapping[str, NDArray[Any]]) -> Kind:
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

    def stack(self, inputs: Tensor) -> Tensor:
        """Tokens [B, T], or vectors [B, T, width] -> [B, T, D], after the last norm."""
        x: Tensor = self.embed(inputs)
        for block in self.blocks:
            x = block(x)
        return x if self.final_norm is None else self.final_norm(x)


class Transformer(Stack):
    """A transformer: tokens [B, T], or vectors [B, T, width] -> outputs [B, T, V]."""

    def __init__(self, model: ModelConfig, device: str = "cpu") -> None:
        super().__init__(model, device)
        tied, bias = model.tied_head, model.head_bias
        self.head = Head(model.d_model, self.outputs, self.made, tied=tied, bias=bias)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.stack(inputs)
        table = self.embed.token.weight if isinstance(self.embed, Embedding) else None
        outputs: Tensor = self.head(x, table)  # [B, T, V]
        return binary_logits(outputs[..., 0]) if self.single else outputs

    def loss(self, inputs: Tensor, targets: Tensor, positions: str) -> Tensor:
        """See `sequence_loss` of compfast.models.sequences and, for vectors, `answers_loss`."""
        outputs = self(inputs)
        if self.vectors:
            return answers_loss(outputs, targets)
        return sequence_loss(outputs, inputs, targets, positions)


class Embedding(nn.Module):
    """Token table, and learned absolute positions where there are: [B, T] -> [B, T, D].

    With a single logit the table has one row, that of token 1, and token 0 adds nothing.
    """

    def __init__(self, model: ModelConfig, vocab: int, made: Made) -> None:
        super().__init__()
        self.first = model.logits == "single"
        self.positions = known(model.max_positions)
        self.token = _table(vocab, model.d_model, made)
        learned = model.position == "learned"
        self.position = _table(self.positions, model.d_model, made) if learned else None

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        if length > self.positions:
            raise UsageError(
                f"the sequence has {length} tokens; this model has {self.positions} positions"
            )
        own: Tensor
        own = tokens[..., None] * self.token.weight[0] if self.first else self.token(tokens)
        if self.position is None:
            return own
        embedded: Tensor = own + self.position(torch.arange(length, device=tokens.device))
        return embedded


class VectorInput(nn.Module):
    """A dense layer over the task's vectors: [B, T, width] -> [B, T, D]."""

    def __init__(self, model: ModelConfig, made: Made) -> None:
        super().__init__()
        self.input = nn.Linear(known(model.input_width), model.d_model, **made)

    def forward(self, vectors: Tensor) -> Tensor:
        embedded: Tensor = self.input(vectors)
        return embedded


def _table(rows: int, d: int, made: Made) -> nn.Embedding:
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

    def __init__(self, model: ModelConfig, made: Made) -> None:
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


class FeedForward(nn.Module):
    """down(activation(up(x)))."""

    def __init__(self, model: ModelConfig, made: Made) -> None:
        super().__init__()
        d, ff = model.d_model, known(model.d_ff)
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

    def __init__(self, d: int, vocab: int, made: Made, *, tied: bool, bias: bool) -> None:
        super().__init__()
        fresh = nn.Linear(d, vocab, **made)
        self.weight = None if tied else nn.Parameter(fresh.weight.detach())
        self.bias = nn.Parameter(fresh.bias.detach()) if bias else None

    def forward(self, x: Tensor, token_table: Tensor | None) -> Tensor:
        weight = token_table if self.weight is None else self.weight
        assert weight is not None, "a tied head needs a token table"
        return F.linear(x, weight, self.bias)


def _norm(model: ModelConfig, made: Made) -> nn.LayerNorm:
    return nn.LayerNorm(model.d_model, eps=model.norm_eps, bias=model.norm_bias, **made)
