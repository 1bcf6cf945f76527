"""The same plan as program.py's for narrow members, in three launches a layer and three around.

Known runs of records are a layer each (block.py); final norm, output layer and loss are one
kernel (head.py). What is computed is the plan's, only the sums' order differs.
"""

from __future__ import annotations

import torch

from compfast.config import ModelConfig
from compfast.engines.flat import FlatLayout, pad
from compfast.engines.triton import block, embedding, layer_norm, linear
from compfast.engines.triton.head import WIDEST, head
from compfast.engines.triton.launch import Launch, Rows
from compfast.engines.triton.parts import parts_of


def fits(model: ModelConfig, length: int, precision: str) -> bool:
    """Whether it is made of tokens and positions, of whole blocks of softmax attention with norms
    and their shifts, ends in a logit a token, and a layer's tiles stay on chip
    (tests/test_triton_aot.py holds the report)."""
    heads = max(model.d_k or 0, model.d_v or 0) <= block.WIDEST_HEAD
    narrow = model.d_model <= block.WIDEST and heads and (model.vocab_size or 0) <= WIDEST
    normed = model.norm != "none" and model.norm_bias
    plain = model.attention == "softmax" and model.value_path == "none"
    plain = plain and model.position == "learned" and not model.attention_dropout
    plain = plain and model.value_activation == "none" and model.loss_positions != "masked"
    whole = normed and plain and model.logits == "vocabulary"
    return whole and narrow and length <= block.LONGEST


class FusedProgram:
    """See `program.Program`: the same tensors, `embed`, `forward` and `train`."""

    keep: torch.Tensor | None = None  # networks with dropout are not of this form

    def __init__(
        self,
        model: ModelConfig,
        flat: FlatLayout,
        params: torch.Tensor,
        live: torch.Tensor,
        *,
        batch: int,
        length: int,
        precision: str,
    ) -> None:
        self.model, self.flat, self.params, self.live = model, flat, params, live
        self.batch, self.length, self.precision = batch, length, precision
        members, device = len(params), params.device
        self.tokens = torch.zeros((members, batch, length), dtype=torch.int32, device=device)
        self.targets = torch.zeros((members, batch), dtype=torch.int32, device=device)
        shape = (members, parts_of(batch, length), flat.size)
        self.gradients = torch.zeros(
            shape, dtype=torch.float32, device=device
        )  # the padding between runs stays zero
        self.losses = torch.zeros(shape[:2], dtype=torch.float32, device=device)
        self._buffers: list[Rows] = []

        last = model.loss_positions == "last"
        steps = [length] * model.layers + [1 if last else length]
        self._x = [self._buffer(each) for each in steps]
        d_x = [self._buffer(each) for each in steps]
        layers = [self._layer(i, last=last and i == model.layers - 1) for i in range(model.layers)]
        scratch = self._buffer(length)
        self.embed = self._embed()
        around, back = [], []
        for i, (layer, start) in enumerate(layers):
            x, y, each = self._x[i], self._x[i + 1], steps[i + 1]
            s = self._buffer(each)
            r = self._buffer(each) if model.norm == "post" else s
            here = params[:, start:]
            around.append(layer.forward(x, here, s, r, y, live))
            down = self.gradients[:, :, start:]
            back.append(layer.backward(x, here, s, r, d_x[i + 1], d_x[i], scratch, down, live))
        self.logits, ending = self._logits()
        self.forward = [self.embed, *around, *ending]
        self.train = [
            *around,
            self._head(self._x[-1], d_x[-1]),
            *(launch for pair in reversed(back) for launch in pair),
            self._embed_backward(d_x[0]),
        ]

    def drop_nothing(self) -> None:
        """It never does."""

    def workspace(self) -> list[torch.Tensor]:
        """Every buffer whose contents before a step do not matter."""
        return [self.losses, *(rows.tensor for rows in self._buffers)]

    def _buffer(self, each: int, width: int | None = None) -> Rows:
        width = width or self.model.d_model
        shape = (len(self.params), self.batch * each, pad(width))
        rows = Rows(torch.empty(shape, dtype=torch.float32, device=self.params.device), width, each)
        self._buffers.append(rows)
        return rows

    def _layer(self, index: int, *, last: bool) -> tuple[block.Layer, int]:
        """The layer and where its tensors begin in the flat vector; they lie side by side."""
        prefix = f"blocks.{index}."
        placed = {
            name.removeprefix(prefix): p
            for name, p in self.flat.placed.items()
            if name.startswith(prefix)
        }
        start = min(p.offset for p in placed.values())
        size = max(p.offset + p.rows * p.ld for p in placed.values()) - start
        offsets = {name: p.offset - start for name, p in placed.items()}
        made = block.Layer(
            self.model, offsets, size, self.length, last=last, precision=self.precision
        )
        return made, start

    def _at(self, name: str, of: torch.Tensor) -> torch.Tensor | None:
        placed = self.flat.placed.get(name)
        return None if placed is None else of[..., placed.offset :]

    def _ends(self, of: torch.Tensor) -> dict[str, torch.Tensor | None]:
        return {
            "weight": self._at(self._output, of),
            "bias": self._at("head.bias", of),
            "scale": self._at("final_norm.weight", of),
            "shift": self._at("final_norm.bias", of),
        }

    @property
    def _output(self) -> str:
        return "embed.token.weight" if self.model.tied_head else "head.weight"

    def _embed(self) -> Launch:
        token = self._at("embed.token.weight", self.params)
        position = self._at("embed.position.weight", self.params)
        assert token is not None
        assert position is not None
        ld = self.flat.placed["embed.token.weight"].ld
        return embedding.forward(self.tokens, token, position, self._x[0], self.live, ld=ld)

    def _embed_backward(self, dx: Rows) -> Launch:
        token = self.flat.placed["embed.token.weight"]
        position = self.flat.placed["embed.position.weight"]
        return embedding.backward(
            self.tokens,
            dx,
            self.gradients[..., token.offset :],
            self.gradients[..., position.offset :],
            self.live,
            vocabulary=token.rows,
            positions=position.rows,
            ld=token.ld,
            add=self.model.tied_head,
            precision=self.precision,
        )

    def _logits(self) -> tuple[Rows, list[Launch]]:
        """For answers: final norm and output layer with the logits written down."""
        x, launches = self._x[-1], []
        ends = self._ends(self.params)
        weight, scale, shift = ends["weight"], ends["scale"], ends["shift"]
        assert weight is not None
        if scale is not None and shift is not None:
            h = self._buffer(x.each)
            launches.append(
                layer_norm.forward(x, scale, shift, h, self.live, epsilon=self.model.norm_eps)
            )
            x = h
        logits = self._buffer(x.each, self.model.vocab_size)
        launches.append(
            linear.forward(
                x,
                weight,
                ends["bias"],
                None,
                logits,
                None,
                self.live,
                ld=self.flat.placed[self._output].ld,
                precision=self.precision,
            )
        )
        return logits, launches

    def _head(self, x: Rows, dx: Rows) -> Launch:
        return head(
            x,
            self.tokens,
            self.targets,
            self._ends(self.params),
            dx,
            self._ends(self.gradients),
            self.losses,
            self.live,
            vocabulary=self.model.vocab_size or 0,
            ld=self.flat.placed[self._output].ld,
            epsilon=self.model.norm_eps,
            precision=self.precision,
        )
