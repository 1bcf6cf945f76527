"""A plan: one description of a network's forward pass, run by every fast engine.

A plan is a list of op records over named buffers. A buffer holds `rows` rows a sequence: all
T positions ("all") or only the last ("last"). An op whose input has more rows than its output
reads the last row of each sequence. Backward is the list reversed; there is no autograd.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from compfast.config import ModelConfig
from compfast.models.params import parameter_table

Rows = Literal["all", "last"]
Kind = Literal["embed", "norm", "linear", "head_linear", "attention", "loss"]


@dataclass(frozen=True, slots=True)
class Buffer:
    name: str
    width: int
    rows: Rows = "all"


@dataclass(frozen=True, slots=True)
class View:
    """Columns [column, column + width) of a buffer."""

    buffer: str
    column: int
    width: int


@dataclass(frozen=True, slots=True)
class Op:
    """One op record.

    embed: tokens -> output; weights (token table, position table).
    norm: inputs (x,); weights (scale,), biases (shift,).
    linear: inputs (x,) or (x, residual); output = act(x W^T + b) + residual. Several weights
        (and biases) stand side by side in the table and fill the output from left to right.
    head_linear: input (x,), one matrix a head. `narrow` takes [heads * d] to [heads * width] by
        the head's rows of the weight, plus bias; without it the transposed matrices go back.
    attention: inputs (q, k, v), heads side by side, scores / sqrt(d_k). `shared`: all heads read
        the same keys and values, which are one view.
    loss: inputs (logits,): cross-entropy at every row of the buffer, mean over rows.
    """

    kind: Kind
    inputs: tuple[View, ...]
    output: View | None
    weights: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    buffers: tuple[Buffer, ...]
    ops: tuple[Op, ...]

    def buffer(self, name: str) -> Buffer:
        return next(buffer for buffer in self.buffers if buffer.name == name)


def transformer_plan(model: ModelConfig, *, absorb: bool = True) -> Plan:
    """The plan of a resolved model, with rows that the loss never reads pruned.

    `absorb`: where a sequence has one query, keys and values are not projected; see
    `absorb_projections`.
    """
    builder = _Builder(model)
    x = builder.op("embed", "embed", model.d_model, (), ("embed.token.weight", *_POSITION))
    for layer in range(model.layers):
        x = _block(builder, f"blocks.{layer}", x, model)
    if model.final_norm:
        x = builder.norm("final_norm", x)
    tied = "embed.token.weight" if model.tied_head else "head.weight"
    bias = ("head.bias",) if model.head_bias else ()
    logits = builder.op("linear", "logits", model.vocab_size or 0, (x,), (tied,), bias)
    builder.ops.append(Op("loss", (logits,), None))
    pruned = prune_rows(Plan(tuple(builder.buffers), tuple(builder.ops)), model.loss_positions)
    return fuse_projections(absorb_projections(pruned) if absorb else pruned)


_POSITION = ("embed.position.weight",)


class _Builder:
    def __init__(self, model: ModelConfig) -> None:
        self.known = {tensor.name for tensor in parameter_table(model)}
        self.buffers: list[Buffer] = []
        self.ops: list[Op] = []

    def op(
        self,
        kind: Kind,
        name: str,
        width: int,
        inputs: tuple[View, ...],
        weights: tuple[str, ...] = (),
        biases: tuple[str, ...] = (),
        **attributes: Any,
    ) -> View:
        self.buffers.append(Buffer(name, width))
        output = View(name, 0, width)
        self.ops.append(Op(kind, inputs, output, weights, biases, attributes))
        return output

    def norm(self, name: str, x: View) -> View:
        return self.op("norm", name, x.width, (x,), (f"{name}.weight",), (f"{name}.bias",))

    def linear(self, name: str, x: View, width: int, **extra: Any) -> View:
        """x W^T (+ bias where the table has one) through `activation`, plus `residual`."""
        residual = extra.pop("residual", None)
        bias = (f"{name}.bias",) if f"{name}.bias" in self.known else ()
        inputs = (x,) if residual is None else (x, residual)
        return self.op("linear", name, width, inputs, (f"{name}.weight",), bias, **extra)


def _block(builder: _Builder, name: str, x: View, model: ModelConfig) -> View:
    qk, vo = model.heads * (model.d_k or 0), model.heads * (model.d_v or 0)
    pre = model.norm == "pre"
    h = builder.norm(f"{name}.norm1", x) if pre else x
    q = builder.linear(f"{name}.attention.query", h, qk)
    k = builder.linear(f"{name}.attention.key", h, qk)
    v = builder.linear(f"{name}.attention.value", h, vo)
    attended = builder.op(
        "attention",
        f"{name}.attention",
        vo,
        (q, k, v),
        heads=model.heads,
        d_k=model.d_k,
        causal=model.causal,
    )
    x = builder.linear(f"{name}.attention.output", attended, model.d_model, residual=x)
    if not pre:
        x = builder.norm(f"{name}.norm1", x)
    h = builder.norm(f"{name}.norm2", x) if pre else x
    up = builder.linear(f"{name}.ffn.up", h, model.d_ff or 0, activation=model.activation)
    x = builder.linear(f"{name}.ffn.down", up, model.d_model, residual=x)
    return x if pre else builder.norm(f"{name}.norm2", x)


def prune_rows(plan: Plan, loss_positions: Rows) -> Plan:
    """Give each buffer only the rows that the loss can see.

    Walks the list backwards: every op is row-wise except attention, whose keys and values are
    read at all positions whatever its output needs.
    """
    needed: dict[str, Rows] = {}
    for op in reversed(plan.ops):
        rows = loss_positions if op.output is None else needed[op.output.buffer]
        for index, view in enumerate(op.inputs):
            read: Rows = "all" if op.kind == "attention" and index > 0 else rows
            if read == "all" or view.buffer not in needed:
                needed[view.buffer] = read
    buffers = tuple(dataclasses.replace(b, rows=needed[b.name]) for b in plan.buffers)
    return Plan(buffers, plan.ops)


def absorb_projections(plan: Plan) -> Plan:
    """Move the key and value projections of a lone query to the query's side.

    A sequence's only query q, which sees all its positions, needs q . (W_k h_j + b_k) up to a
    number that is the same for all j, which is (W_k^T q) . h_j, and sum_j p_j (W_v h_j + b_v),
    which is W_v (sum_j p_j h_j) + b_v. Two products of one row replace two of T rows. The key's
    bias moves no score against another, so its gradient is zero.
    """
    buffers = {buffer.name: buffer for buffer in plan.buffers}
    makers = {op.output.buffer: op for op in plan.ops if op.output is not None}
    replaced: dict[int, tuple[Op, ...]] = {}
    for op in plan.ops:
        if op.kind != "attention" or op.output is None or buffers[op.output.buffer].rows == "all":
            continue
        q, k, v = op.inputs
        key, value = makers[k.buffer], makers[v.buffer]
        h, heads = key.inputs[0], op.attributes["heads"]
        assert value.inputs == (h,), "keys and values are made of one input"
        asked = View(k.buffer, 0, heads * h.width)
        found = View(v.buffer, 0, heads * h.width)
        for view in (asked, found):
            buffers[view.buffer] = Buffer(view.buffer, view.width, "last")
        per_head = {"heads": heads, "width": k.width // heads, "narrow": False}
        replaced |= {id(key): (), id(value): ()}
        replaced[id(op)] = (
            Op("head_linear", (q,), asked, key.weights, key.biases, per_head),
            Op("attention", (asked, h, h), found, attributes=op.attributes | {"shared": True}),
            Op(
                "head_linear",
                (found,),
                op.output,
                value.weights,
                value.biases,
                {"heads": heads, "width": v.width // heads, "narrow": True},
            ),
        )
    ops = [new for op in plan.ops for new in replaced.get(id(op), (op,))]
    return Plan(_in_order(buffers, ops), tuple(ops))


def _in_order(buffers: dict[str, Buffer], ops: list[Op]) -> tuple[Buffer, ...]:
    return tuple(buffers[op.output.buffer] for op in ops if op.output is not None)


def fuse_projections(plan: Plan) -> Plan:
    """Join neighbouring linear ops of one input and equal rows into one wider op."""
    rows = {buffer.name: buffer.rows for buffer in plan.buffers}
    buffers = {buffer.name: buffer for buffer in plan.buffers}
    moved: dict[str, tuple[str, int]] = {}
    ops: list[Op] = []
    for op in plan.ops:
        last = ops[-1] if ops else None
        if last is not None and _joinable(last, op, rows):
            assert last.output is not None
            assert op.output is not None
            joined = buffers[last.output.buffer]
            moved[op.output.buffer] = (joined.name, joined.width)
            width = joined.width + op.output.width
            buffers[joined.name] = dataclasses.replace(joined, width=width)
            del buffers[op.output.buffer]
            ops[-1] = dataclasses.replace(
                last,
                output=View(joined.name, 0, width),
                weights=last.weights + op.weights,
                biases=last.biases + op.biases,
            )
        else:
            ops.append(op)
    return Plan(tuple(buffers.values()), tuple(_redirect(op, moved) for op in ops))


def _joinable(a: Op, b: Op, rows: dict[str, Rows]) -> bool:
    if a.kind != "linear" or b.kind != "linear" or a.output is None or b.output is None:
        return False
    plain = len(a.inputs) == len(b.inputs) == 1 and not a.attributes and not b.attributes
    same = a.inputs == b.inputs and rows[a.output.buffer] == rows[b.output.buffer]
    return plain and same and bool(a.biases) == bool(b.biases)


def _redirect(op: Op, moved: dict[str, tuple[str, int]]) -> Op:
    def view(v: View) -> View:
        if v.buffer not in moved:
            return v
        buffer, column = moved[v.buffer]
        return View(buffer, column + v.column, v.width)

    return dataclasses.replace(op, inputs=tuple(view(v) for v in op.inputs))
