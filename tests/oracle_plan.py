"""A plan interpreter in NumPy float64: slow, literal, sharing nothing with the oracle's module.

It keeps only the rows that each buffer holds, so a wrongly pruned buffer fails by shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from oracle import Array

from compfast.config import ModelConfig
from compfast.models.plan import Op, Plan, View

_erf = np.vectorize(math.erf, otypes=[np.float64])


class PlanRun:
    """Forward of one plan. `rows` of a sequence: T for buffers "all", 1 for "last"."""

    def __init__(
        self, plan: Plan, model: ModelConfig, params: Mapping[str, Array], tokens: Array
    ) -> None:
        self.plan, self.model, self.tokens = plan, model, tokens
        self.params = {name: value.astype(np.float64) for name, value in params.items()}
        self.values: dict[str, Array] = {}  # buffer -> [B, rows, width]
        for buffer in plan.buffers:
            rows = tokens.shape[1] if buffer.rows == "all" else 1
            self.values[buffer.name] = np.full((len(tokens), rows, buffer.width), np.nan)
        for op in plan.ops:
            if op.output is not None:
                self._write(op.output, getattr(self, f"_{op.kind}")(op))

    def read(self, view: View, rows: int) -> Array:
        """[B, rows, width] of a view; the last rows where the buffer holds more."""
        value = self.values[view.buffer]
        assert value.shape[1] >= rows, f"{view.buffer} has no rows left for its reader"
        columns: Array = value[:, value.shape[1] - rows :, view.column : view.column + view.width]
        assert columns.shape[2] == view.width
        assert not np.isnan(columns).any(), f"{view.buffer} is read before it is written"
        return columns

    def _write(self, view: View, value: Array) -> None:
        target = self.values[view.buffer]
        assert value.shape[:2] == target.shape[:2]
        target[:, :, view.column : view.column + view.width] = value

    def _rows(self, op: Op) -> int:
        assert op.output is not None
        rows: int = self.values[op.output.buffer].shape[1]
        return rows

    def _embed(self, op: Op) -> Array:
        token, position = (self.params[name] for name in op.weights)
        rows, length = self._rows(op), self.tokens.shape[1]
        first = op.attributes["first"]
        table = np.concatenate([np.zeros((first, token.shape[1])), token])
        value: Array = (table[self.tokens] + position[:length])[:, length - rows :]
        return value

    def _norm(self, op: Op) -> Array:
        x = self.read(op.inputs[0], self._rows(op))
        centred = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(-1, keepdims=True) + op.attributes["epsilon"])
        value: Array = centred / spread * self.params[op.weights[0]]
        return value + self.params[op.biases[0]] if op.biases else value

    def _linear(self, op: Op) -> Array:
        rows = self._rows(op)
        weight = np.concatenate([self.params[name] for name in op.weights])
        value: Array = self.read(op.inputs[0], rows) @ weight.T
        if op.biases:
            value = value + np.concatenate([self.params[name] for name in op.biases])
        value = _activate(value, op.attributes.get("activation", "none"))
        if len(op.inputs) == 2:
            value = value + self.read(op.inputs[1], rows)
        return value

    def _head_linear(self, op: Op) -> Array:
        """Head by head: x_h W_h^T (narrow) or x_h W_h, W_h [width, d] rows of the one weight."""
        heads, width = op.attributes["heads"], op.attributes["width"]
        blocks = self.params[op.weights[0]].reshape(heads, width, -1)
        x = self.read(op.inputs[0], self._rows(op))
        x = x.reshape(*x.shape[:2], heads, -1)
        form = "brhd,hwd->brhw" if op.attributes["narrow"] else "brhw,hwd->brhd"
        value: Array = np.einsum(form, x, blocks).reshape(*x.shape[:2], -1)
        if op.biases and op.attributes["narrow"]:
            value = value + self.params[op.biases[0]]
        return value

    def _attention(self, op: Op) -> Array:
        rows, length = self._rows(op), self.tokens.shape[1]
        heads: int = op.attributes["heads"]
        q = self.read(op.inputs[0], rows)
        k, v = (self.read(view, length) for view in op.inputs[1:])
        if op.attributes.get("shared"):
            assert op.inputs[1] == op.inputs[2]
            k = v = np.tile(k, (1, 1, heads))
        dk, dv = k.shape[2] // heads, v.shape[2] // heads
        out = np.zeros((len(q), rows, heads * dv))
        for h in range(heads):
            for row in range(rows):
                position = length - rows + row
                seen = position + 1 if op.attributes["causal"] else length
                key = k[:, :seen, h * dk : (h + 1) * dk]
                scores = np.einsum("bd,bsd->bs", q[:, row, h * dk : (h + 1) * dk], key)
                weight = np.exp(scores / math.sqrt(op.attributes["d_k"]))
                weight /= weight.sum(-1, keepdims=True)
                value = v[:, :seen, h * dv : (h + 1) * dv]
                out[:, row, h * dv : (h + 1) * dv] = np.einsum("bs,bsd->bd", weight, value)
        return out


def _activate(x: Array, name: str) -> Array:
    if name == "none":
        return x
    if name == "relu":
        return np.maximum(x, 0)
    if name == "gelu":
        value: Array = x * 0.5 * (1 + _erf(x / math.sqrt(2)))
        return value
    assert name == "gelu_tanh", name
    smooth: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return smooth
