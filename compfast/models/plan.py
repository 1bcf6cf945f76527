"""A plan: one description of a network's forward pass, run by every fast engine.

A family of networks (compfast/models/families/) builds it: a list of op records over named
buffers. A buffer holds `rows` rows a sequence: all T positions ("all") or the last `asked` ones of
its plan ("last"). An op whose input has more rows than its output reads the last row of each
sequence. Backward is the list reversed; there is no autograd.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Rows = Literal["all", "last"]
Kind = Literal[
    "embed",
    "vectors",
    "select",
    "norm",
    "linear",
    "head_linear",
    "attention",
    "mixed_attention",
    "generated",
    "loss",
    "canonical",
]
Loss = Literal["cross_entropy", "logistic", "squared_error"]


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

    embed: tokens -> output; weights (token table, position table) or the first alone. `first`:
        the token that has the table's first row; those before it add nothing.
    vectors: the task's vectors -> output, as they are; `blank` (there may be none): the token,
        counted back from the last, that comes as zeros.
    select: input (x,) with all rows -> its last `asked` ones.
    norm: inputs (x,); weights (scale,), biases (shift,) or none; `epsilon`.
    linear: inputs (x,) or (x, residual); output = act(x W^T + b) + residual. Several weights
        (and biases) stand side by side in the table and fill the output from left to right.
    head_linear: input (x,), one matrix a head. `narrow` takes [heads * d] to [heads * width] by
        the head's rows of the weight, plus bias; without it the transposed matrices go back.
    attention: inputs (q, k, v), heads side by side, scores / sqrt(d_k). `shared`: all heads read
        the same keys and values, which are one view.
    mixed_attention: as attention, with `scores` softmax, linear or rms_head and a value `path`
        none, linear, relu or deep (compfast.ops.mixed_attention). Weights (relative, deep), of
        which there may be none, `relative` and `deep` say which: a bias a head and bucket of the
        distance (`buckets` of them), and the second matrix of a deep path [heads d_v, d_v].
        `dropout`: the share of weights that a training step drops; `layer` names its stream.
    generated: inputs (w,), the rows of a matrix [output width, `columns`] side by side, one a
        sequence; output = act(w x), x the first `columns` numbers of the task's token `query`,
        counted back from the last.
    loss: inputs (logits,): at every row of the buffer, mean over rows. `loss` cross_entropy: a
        logit a token; logistic: one logit, that of token 1 against token 0; squared_error: mean
        over columns too. `masked`: a row without a target (-1) has no loss, and the mean is over
        the others of its sequence first, then over sequences.
    canonical: tokens -> one logit a position; weights (e, w), biases (b,), a number each; see
        compfast.models.families.canonical.
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
    asked: int = 1  # rows of a buffer of "last" rows

    def buffer(self, name: str) -> Buffer:
        return next(buffer for buffer in self.buffers if buffer.name == name)


class Builder:
    """Collects the op records of a plan; biases are taken where `known` names have them."""

    def __init__(self, known: Iterable[str]) -> None:
        self.known = frozenset(known)
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

    def norm(self, name: str, x: View, epsilon: float) -> View:
        weights = (f"{name}.weight",)
        return self.op("norm", name, x.width, (x,), weights, self.bias(name), epsilon=epsilon)

    def linear(self, name: str, x: View, width: int, **extra: Any) -> View:
        """x W^T (+ bias where the table has one) through `activation`, plus `residual`."""
        residual = extra.pop("residual", None)
        inputs = (x,) if residual is None else (x, residual)
        weights = (f"{name}.weight",)
        return self.op("linear", name, width, inputs, weights, self.bias(name), **extra)

    def bias(self, name: str) -> tuple[str, ...]:
        return (f"{name}.bias",) if f"{name}.bias" in self.known else ()

    def plan(self, logits: View, loss: Loss = "cross_entropy", *, masked: bool = False) -> Plan:
        """The plan that ends in the loss of these logits."""
        end = Op("loss", (logits,), None, attributes={"loss": loss, "masked": masked})
        return Plan(tuple(self.buffers), (*self.ops, end))


def prune_rows(plan: Plan, loss_positions: Rows, asked: int = 1) -> Plan:
    """Give each buffer only the rows that the loss can see: all, or the last `asked`.

    Walks the list backwards: every op is row-wise except attention, whose keys and values are
    read at all positions whatever its output needs, and what fills every row: an embedding, and
    the task's vectors. Where more than one row is asked for, a select op stands before each
    reader of the last ones.
    """
    needed: dict[str, Rows] = {}
    for op in reversed(plan.ops):
        rows = loss_positions if op.output is None else needed[op.output.buffer]
        for index, view in enumerate(op.inputs):
            read: Rows = "all" if _reads_all(op, index) else rows
            if read == "all" or view.buffer not in needed:
                needed[view.buffer] = read
        if op.kind in ("embed", "vectors") and op.output is not None:
            needed[op.output.buffer] = "all"
    buffers = tuple(dataclasses.replace(b, rows=needed[b.name]) for b in plan.buffers)
    pruned = Plan(buffers, plan.ops, asked)
    return pruned if asked == 1 else _select_rows(pruned, loss_positions)


def _reads_all(op: Op, index: int) -> bool:
    return op.kind in ("attention", "mixed_attention") and index > 0


def _select_rows(plan: Plan, loss_positions: Rows) -> Plan:
    """A select op before each op that has the last rows and reads a buffer of all."""
    rows = {buffer.name: buffer.rows for buffer in plan.buffers}
    buffers, ops = {b.name: b for b in plan.buffers}, list[Op]()
    for op in plan.ops:
        own = loss_positions if op.output is None else rows[op.output.buffer]
        views = list(op.inputs)
        for index, view in enumerate(op.inputs):
            if own == "all" or rows[view.buffer] == "last" or _reads_all(op, index):
                continue
            name = f"{view.buffer}.last"
            if name not in buffers:
                whole = buffers[view.buffer]
                buffers[name] = Buffer(name, whole.width, "last")
                read, made = (View(b, 0, whole.width) for b in (view.buffer, name))
                ops.append(Op("select", (read,), made))
            views[index] = dataclasses.replace(view, buffer=name)
        ops.append(dataclasses.replace(op, inputs=tuple(views)))
    return Plan(_in_order(buffers, ops), tuple(ops), plan.asked)


def absorb_projections(plan: Plan) -> Plan:
    """Move the key and value projections of a lone query to the query's side.

    A sequence's only query q, which sees all its positions, needs q . (W_k h_j + b_k) up to a
    number that is the same for all j, which is (W_k^T q) . h_j, and sum_j p_j (W_v h_j + b_v),
    which is W_v (sum_j p_j h_j) + b_v. Two products of one row replace two of T rows. The key's
    bias moves no score against another, so its gradient is zero.
    """
    if plan.asked > 1:
        return plan
    buffers = {buffer.name: buffer for buffer in plan.buffers}
    makers = {op.output.buffer: op for op in plan.ops if op.output is not None}
    replaced: dict[int, tuple[Op, ...]] = {}
    for op in plan.ops:
        if op.kind != "attention" or op.output is None or buffers[op.output.buffer].rows == "all":
            continue
        q, k, v = op.inputs
        key, value = makers[k.buffer], makers[v.buffer]
        if key.attributes or value.attributes:  # what passes an activation cannot be moved
            continue
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
    return Plan(tuple(buffers.values()), tuple(_redirect(op, moved) for op in ops), plan.asked)


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
