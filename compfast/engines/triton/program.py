"""A plan as launches: buffers for C stacked members and B sequences, forward and backward.

Backward is the list of ops reversed. A buffer's gradient is written by its last consumer and
added to by earlier ones; where a residual is consumed last, its gradient is its op's own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch

from compfast.engines.flat import FlatLayout, pad
from compfast.engines.triton import (
    cross_entropy,
    embedding,
    generated,
    layer_norm,
    linear,
    logistic,
    masked_cross_entropy,
    rows,
    select,
    squared_error,
    vectors,
)
from compfast.engines.triton.launch import Launch, Rows
from compfast.engines.triton.mixed import MixedOp, generalised
from compfast.engines.triton.parts import parts_of
from compfast.engines.triton.plain import PlainOp
from compfast.engines.triton.readers import ATTENTION, check_slopes, need_sole_consumer
from compfast.models.plan import Op, Plan, View

LOSSES: dict[str, Any] = {
    "cross_entropy": cross_entropy,
    "logistic": logistic,
    "squared_error": squared_error,
}


def _query(op: Op) -> dict[str, Any]:
    """Which of the task's numbers a generated layer reads."""
    return {name: op.attributes[name] for name in ("columns", "query")}


class Program:
    """One plan's launches over `params` [C, P], for `tokens` [C, B, T] and `targets` [C, B].

    Of a task of vectors, `tokens` are those [C, B, T, width] and `targets` ids [C, B, asked] or
    numbers [C, B, asked, V]. `keep` [C, layers, T T]: dropout's masks, or None without dropout.
    `embed` fills the first buffer, `forward` that and all up to the logits; `train` goes on from
    `embed` and leaves losses [C, .] whose rows add up to the mean loss, and gradients
    [C, PARTS, P] whose parts add up to its gradient. Members whose `live` entry is zero are left
    out.
    """

    def __init__(
        self,
        plan: Plan,
        flat: FlatLayout,
        params: torch.Tensor,
        live: torch.Tensor,
        *,
        batch: int,
        length: int,
        precision: str,
    ) -> None:
        plan = generalised(plan)
        self.plan, self.flat, self.params, self.live = plan, flat, params, live
        self.batch, self.length = batch, length
        self.precision = precision
        members, device = len(params), params.device
        read = next((op for op in plan.ops if op.kind == "vectors"), None)
        self.vectors = read.output.buffer if read is not None and read.output else None
        self._blank = None if read is None else read.attributes.get("blank")
        loss = plan.ops[-1].attributes.get("loss") or "cross_entropy"
        self.tokens = torch.zeros(
            (members, batch, length, *self._width),
            dtype=torch.int32 if self.vectors is None else torch.float32,
            device=device,
        )
        masked = bool(plan.ops[-1].attributes.get("masked"))
        answers: tuple[int, ...] = () if self.vectors is None and not masked else (plan.asked,)
        numbers = loss == "squared_error"
        if numbers:
            answers = (plan.asked, plan.ops[-1].inputs[0].width)
        self.targets = torch.zeros(
            (members, batch, *answers),
            dtype=torch.float32 if numbers else torch.int32,
            device=device,
        )
        shape = (members, parts_of(batch, length), flat.size)
        self.gradients = torch.zeros(
            shape, dtype=torch.float32, device=device
        )  # the padding between runs stays zero
        self.values = {b.name: self._buffer(b.name) for b in plan.buffers}
        self.keep = self._masks()
        self.attentions = {
            op.output.buffer: self._attention(op)
            for op in plan.ops
            if op.output is not None and op.kind in ATTENTION
        }
        self.slopes = {
            op.output.buffer: self._buffer(op.output.buffer)
            for op in plan.ops
            if op.output is not None and op.attributes.get("activation")
        }
        check_slopes(plan, self.slopes)
        self.d_values: dict[str, Rows] = {}
        self.logits = self.values[plan.ops[-1].inputs[0].buffer]
        self.loss = masked_cross_entropy if masked else LOSSES[loss]
        programs = self.loss.programs(self.logits)
        self.losses = torch.zeros((members, programs), dtype=torch.float32, device=device)
        self.forward = [launch for op in plan.ops for launch in self._forward(op)]
        self.used: set[str] = set()  # tensors that have a gradient already
        backward = [launch for op in reversed(plan.ops) for launch in self._backward(op)]
        self.embed = self.forward[0]
        self.train = [*self.forward[1:], *backward]

    def workspace(self) -> list[torch.Tensor]:
        """Every buffer whose contents before a step do not matter."""
        named = (self.values, self.slopes, self.d_values)
        own = None if self._blank is not None else self.vectors  # that is the task's
        made = [r.tensor for part in named for n, r in part.items() if n != own]
        sums = [s for op in self.attentions.values() for s in op.sums.values() if s is not None]
        return [self.losses, *made, *sums, *([] if self.keep is None else [self.keep])]

    def drop_nothing(self) -> None:
        """No attention weight is dropped, until a training step draws its masks."""
        if self.keep is not None:
            self.keep.fill_(1)

    @property
    def _width(self) -> tuple[int, ...]:
        """Numbers a position, of vectors."""
        return () if self.vectors is None else (self.plan.buffer(self.vectors).width,)

    def _masks(self) -> torch.Tensor | None:
        layers = sum(op.kind == "mixed_attention" for op in self.plan.ops)
        if not any(op.attributes.get("dropout") for op in self.plan.ops):
            return None
        shape = (len(self.params), layers, self.length * self.length)
        return torch.ones(shape, dtype=torch.float32, device=self.params.device)

    def _attention(self, op: Op) -> MixedOp | PlainOp:
        if op.kind == "attention":
            assert op.output is not None
            room = functools.partial(self._rows, op.output.buffer)
            return PlainOp(op, room, self.length, self.precision)
        keep = None if self.keep is None else self.keep[:, op.attributes["layer"]]
        return MixedOp(op, self.flat, self.params, keep, self.length, self.precision)

    def _buffer(self, name: str) -> Rows:
        return self._rows(name, self.plan.buffer(name).width)

    def _rows(self, name: str, width: int) -> Rows:
        each = self.length if self.plan.buffer(name).rows == "all" else self.plan.asked
        if name == self.vectors and self._blank is None:  # the task's own, as they come
            return self._given()
        shape = (len(self.params), self.batch * each, pad(width))
        return Rows(torch.empty(shape, dtype=torch.float32, device=self.params.device), width, each)

    def _given(self) -> Rows:
        """The task's vectors, [C, B T, width]."""
        (width,) = self._width
        return Rows(self.tokens.flatten(1, 2), width, self.length)

    def _view(self, view: View, of: dict[str, Rows]) -> Rows:
        whole = of[view.buffer]
        return Rows(whole.tensor, view.width, whole.each, view.column)

    def _parameter(self, name: str, of: torch.Tensor) -> torch.Tensor:
        return of[..., self.flat.placed[name].offset :]

    def _shift(self, op: Op, of: torch.Tensor) -> torch.Tensor | None:
        return self._parameter(op.biases[0], of) if op.biases else None

    def _weights(self, op: Op, of: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, int]:
        """Weight and bias of a linear op, which stand side by side in the table; the row's ld."""
        weight = self._parameter(op.weights[0], of)
        bias = self._parameter(op.biases[0], of) if op.biases else None
        return weight, bias, self.flat.placed[op.weights[0]].ld

    def _forward(self, op: Op) -> Iterator[Launch]:
        if op.output is None:
            return
        y = self._view(op.output, self.values)
        inputs = [self._view(view, self.values) for view in op.inputs]
        if op.kind == "vectors":
            if self._blank is not None:
                yield vectors.forward(self._given(), y, self.live, blank=self._blank)
        elif op.kind == "embed":
            token, *position = (self._parameter(name, self.params) for name in op.weights)
            ld = self.flat.placed[op.weights[0]].ld
            first = op.attributes.get("first", 0)
            places = position[0] if position else None
            yield embedding.forward(self.tokens, token, places, y, self.live, ld=ld, first=first)
        elif op.kind == "select":
            yield select.forward(inputs[0], y, self.live)
        elif op.kind == "norm":
            scale = self._parameter(op.weights[0], self.params)
            shift = self._shift(op, self.params)
            epsilon = op.attributes["epsilon"]
            yield layer_norm.forward(inputs[0], scale, shift, y, self.live, epsilon=epsilon)
        elif op.kind == "linear":
            weight, bias, ld = self._weights(op, self.params)
            yield linear.forward(
                inputs[0],
                weight,
                bias,
                inputs[1] if len(inputs) == 2 else None,
                y,
                self.slopes.get(op.output.buffer),
                self.live,
                ld=ld,
                activation=op.attributes.get("activation") or "none",
                precision=self.precision,
            )
        elif op.kind == "generated":
            yield generated.forward(
                inputs[0],
                self._given(),
                y,
                self.slopes.get(op.output.buffer),
                self.live,
                activation=op.attributes.get("activation") or "none",
                **_query(op),
            )
        else:
            q, k, v = inputs
            yield self.attentions[op.output.buffer].forward(q, k, v, y, self.live)

    def _backward(self, op: Op) -> Iterator[Launch]:
        if op.output is None:
            dx, _, _ = self._gradient_of(op, 0)
            yield self.loss.loss_and_gradient(
                self.logits, self.tokens, self.targets, dx, self.losses, self.live
            )
        elif op.kind == "vectors":
            return
        elif op.kind == "embed":
            yield self._embed_backward(op)
        elif op.kind == "select":
            dx, add, sparse = self._gradient_of(op, 0)
            if sparse or not add:  # it adds, be it to all rows
                yield rows.zero(dx, self.live)
            yield select.backward(self._view(op.output, self.d_values), dx, self.live)
        elif op.kind == "norm":
            yield from self._norm_backward(op)
        elif op.kind == "linear":
            yield from self._linear_backward(op)
        elif op.kind == "generated":
            need_sole_consumer(self.plan, op, 1)
            dy, (dw, _, _) = self._view(op.output, self.d_values), self._gradient_of(op, 0)
            yield generated.backward(dy, self._given(), dw, self.live, **_query(op))
        else:
            yield from self._attention_backward(op)

    def _attention_backward(self, op: Op) -> Iterator[Launch]:
        assert op.output is not None
        need_sole_consumer(self.plan, op)
        q, k, v = (self._view(view, self.values) for view in op.inputs)
        dq, dk, dv = (self._gradient_of(op, i)[0] for i in range(3))
        do = self._view(op.output, self.d_values)
        attention = self.attentions[op.output.buffer]
        yield from attention.backward(do, (q, k, v), (dq, dk, dv), self.gradients, self.live)
        values = op.inputs[2]
        if values.buffer in self.slopes:
            yield rows.multiply(dv, self._view(values, self.slopes), self.live)

    def _gradient_of(self, op: Op, index: int) -> tuple[Rows, bool, bool]:
        """(d loss/d input, whether this op adds to it, whether it must be zeroed first)."""
        view = op.inputs[index]
        first = view.buffer not in self.d_values
        if first:
            self.d_values[view.buffer] = self._buffer(view.buffer)
        gradient = self._view(view, self.d_values)
        partial = op.output is not None and self.values[op.output.buffer].each < gradient.each
        sparse = first and partial and op.kind not in ATTENTION
        return gradient, not first or sparse, sparse

    def _norm_backward(self, op: Op) -> Iterator[Launch]:
        assert op.output is not None
        dx, add, sparse = self._gradient_of(op, 0)
        if sparse:
            yield rows.zero(dx, self.live)
        yield layer_norm.backward(
            self._view(op.output, self.d_values),
            self._view(op.inputs[0], self.values),
            self._parameter(op.weights[0], self.params),
            dx,
            self._parameter(op.weights[0], self.gradients),
            self._shift(op, self.gradients),
            self.live,
            epsilon=op.attributes["epsilon"],
            add=add,
        )

    def _linear_backward(self, op: Op) -> Iterator[Launch]:
        assert op.output is not None
        dy = self._view(op.output, self.d_values)
        source = op.inputs[0].buffer
        if source in self.slopes:
            need_sole_consumer(self.plan, op, 1)
        d_weight, d_bias, ld = self._weights(op, self.gradients)
        add = op.weights[0] in self.used
        self.used.update(op.weights)
        yield linear.weight_gradient(
            dy,
            self._view(op.inputs[0], self.values),
            d_weight,
            d_bias,
            self.live,
            ld=ld,
            add=add,
            precision=self.precision,
        )
        if source != self.vectors:
            yield from self._input_gradient(op, dy)
        if len(op.inputs) == 2:  # last: an alias of dy may be added to from here on
            yield from self._residual_backward(op, dy)

    def _input_gradient(self, op: Op, dy: Rows) -> Iterator[Launch]:
        dx, add, sparse = self._gradient_of(op, 0)
        if sparse:
            yield rows.zero(dx, self.live)
        weight, _, ld = self._weights(op, self.params)
        yield linear.input_gradient(
            dy,
            weight,
            dx,
            self.slopes.get(op.inputs[0].buffer),
            self.live,
            ld=ld,
            add=add,
            precision=self.precision,
        )

    def _residual_backward(self, op: Op, dy: Rows) -> Iterator[Launch]:
        name = op.inputs[1].buffer
        if name not in self.d_values and self.values[name].each == dy.each:
            self.d_values[name] = dy
            return
        dx, _, sparse = self._gradient_of(op, 1)
        if sparse:
            yield rows.zero(dx, self.live)
        yield rows.add(dy, dx, self.live)

    def _embed_backward(self, op: Op) -> Launch:
        assert op.output is not None
        token, *position = (self.flat.placed[name] for name in op.weights)
        return embedding.backward(
            self.tokens,
            self._view(op.output, self.d_values),
            self._parameter(op.weights[0], self.gradients),
            self._parameter(op.weights[1], self.gradients) if position else None,
            self.live,
            vocabulary=token.rows,
            positions=position[0].rows if position else 0,
            ld=token.ld,
            add=op.weights[0] in self.used,
            precision=self.precision,
            first=op.attributes.get("first", 0),
        )
