"""Where everything of a plan lies in one worker's workspace.

Offsets count floats; rows are padded as in the flat vector (flat.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compfast.config import ModelSection
from compfast.engines.arena import Arena
from compfast.engines.base import Int32
from compfast.engines.flat import PAD, FlatLayout, pad
from compfast.engines.lengths import WHOLE
from compfast.models.dropout import threshold
from compfast.models.plan import Op, Plan, View
from compfast.models.relative import distance_buckets

_KINDS = {
    "embed": 0,
    "norm": 1,
    "linear": 2,
    "attention": 3,
    "loss": 4,
    "head_linear": 5,
    "canonical": 6,
    "vectors": 7,
    "select": 8,
    "mixed_attention": 9,
    "generated": 10,
}
_SCORES = {None: 0, "softmax": 0, "linear": 1, "rms_head": 2}  # csrc/attention_mixed_sizes.h
_PATHS = {None: 0, "none": 0, "linear": 1, "relu": 2, "deep": 3}
_LOSSES = {None: 0, "cross_entropy": 0, "logistic": 1, "squared_error": 2}
_ACTIVATIONS = {None: 0, "relu": 1, "gelu": 2, "gelu_tanh": 3}
_WRITE, _ADD, _ZERO_ADD, _NONE = 0, 1, 2, 3


def _relative_row(positions: int) -> int:
    """Floats of one head's relative bias over all distances: csrc/attention_mixed_sizes.h."""
    return 2 * pad(positions)


def row_of(width: int) -> int:
    """Floats from one row of a buffer to the next: of long rows an odd number of cache lines.

    An even number, a power of two above all, puts the rows that a product reads side by side into
    a few sets of the first cache.
    """
    padded = pad(width)
    return padded | PAD if padded >= 4 * PAD else padded


def saved_row(positions: int) -> int:
    """Floats that attention saves a query row and head: csrc/attention_sizes.h."""
    return WHOLE if positions <= WHOLE else 2


class PlanRecords:
    """The records that csrc/plan.h expects, of one plan over a flat vector that has its tensors."""

    microbatch: int
    ops: list[dict[str, Any]]

    def __init__(
        self,
        model: ModelSection,
        plan: Plan,
        flat: FlatLayout,
        *,
        positions: int,
        batch: int,
        precision: str,
        ragged: bool = False,
    ) -> None:
        self.model, self.plan, self.flat = model, plan, flat
        self.positions, self.batch, self.ragged = positions, batch, ragged
        self.bf16 = precision == "bf16"

    def lay_out(self, sequences: int) -> None:
        """Make the records of microbatches of so many sequences."""
        self.microbatch = sequences
        self.ops = self._records()

    @property
    def worker_bytes(self) -> int:
        """Memory of one worker, without the scratch of its largest op."""
        width, outputs = self._width, self._outputs
        numbers = self.plan.asked * (outputs if self._numbers else 1)
        batch = self.batch * (self.positions * (width or 1) + numbers)
        batch += self.microbatch * self.positions + 1 if self.ragged else 0  # where each begins
        return 4 * (self.workspace_size + self.packed_size + 2 * self.flat.size + batch)

    @property
    def _width(self) -> int:
        """Numbers a position of the task's vectors; 0: it has tokens."""
        made = (op.output for op in self.plan.ops if op.kind == "vectors" and op.output)
        return next((view.width for view in made), 0)

    @property
    def _outputs(self) -> int:
        """Logits or numbers out a position."""
        return self.model.vocab_size or 0

    @property
    def _numbers(self) -> bool:
        """Whether the answers are numbers."""
        return bool(self.plan.ops[-1].attributes["loss"] == "squared_error")

    def record(self) -> dict[str, Any]:
        return {
            "ops": self.ops,
            "segments": self.flat.segments,
            "buckets": self._buckets,
            "flat_size": self.flat.size,
            "packed_size": self.packed_size,
            "workspace_size": self.workspace_size,
            "positions": self.positions,
            "microbatch": self.microbatch,
            "batch": self.batch,
            "vocabulary": self._outputs,
            "width": self._width,
            "asked": self.plan.asked,
            "numbers": int(self._numbers),
            "masked": int(self.model.loss_positions == "masked"),
            "loss_all": int(self.model.loss_positions == "all"),
            "ragged": int(self.ragged),
        }

    def _rows(self, buffer: str) -> int:
        return self.positions if self.plan.buffer(buffer).rows == "all" else self.plan.asked

    def _ld(self, buffer: str) -> int:
        return row_of(self.plan.buffer(buffer).width)

    def _floats(self, buffer: str) -> int:
        return self.microbatch * self._rows(buffer) * self._ld(buffer)

    def _records(self) -> list[dict[str, Any]]:
        arena = Arena()
        values = {b.name: arena.take(self._floats(b.name)) for b in self.plan.buffers}
        slopes = {
            op.output.buffer: arena.take(self._floats(op.output.buffer))
            for op in self.plan.ops
            if op.output is not None and op.attributes.get("activation")
        }
        saved = [arena.take(size) if (size := self._saved(op)) else -1 for op in self.plan.ops]
        spare = [arena.take(size) if (size := self._spare(op)) else -1 for op in self.plan.ops]
        operands = arena.take(max(map(self._operands, self.plan.ops))) if self.bf16 else 0
        grads, modes = self._gradients(arena)  # last: they reuse each other's places
        self.packed_size = 0
        records = []
        for index, op in enumerate(self.plan.ops):
            record = self._parameters(op)
            record["operands"] = operands
            record["inputs"] = [
                self._view(view, values, grads, mode)
                for view, mode in zip(op.inputs, modes[index], strict=True)
            ]
            output = op.output
            write = _NONE if op.kind == "vectors" else _WRITE
            record["output"] = output and self._view(output, values, grads, write)
            record["saved"] = saved[index]
            record["spare"] = spare[index]
            record["activation"] = _ACTIVATIONS[op.attributes.get("activation")]
            record["slope"] = slopes.get(output.buffer, -1) if output else -1
            # The one consumer of an activation multiplies the gradient by its slope, if linear.
            sole = output is not None and self._consumers(output.buffer) == ["linear"]
            record["slope_applied"] = int(record["slope"] >= 0 and sole)
            record["factor"] = -1
            if op.kind == "linear" and self._consumers(op.inputs[0].buffer) == ["linear"]:
                record["factor"] = slopes.get(op.inputs[0].buffer, -1)
            records.append(record)
        self.workspace_size = arena.size
        return records

    def _consumers(self, buffer: str) -> list[str]:
        """Kinds of the ops that read a buffer, one for each view of it."""
        return [op.kind for op in self.plan.ops for view in op.inputs if view.buffer == buffer]

    def _operands(self, op: Op) -> int:
        """Room for one product's bfloat16 operands, and for a transposed weight in float32."""
        if op.kind != "linear" or op.output is None:
            return 0
        rows = self.microbatch * self._rows(op.output.buffer)
        d_in, d_out = self._ld(op.inputs[0].buffer), self._ld(op.output.buffer)
        wide = PAD * -(-max(d_in, d_out) // (2 * PAD))  # a row in pairs
        return max(rows * wide, -(-rows // 2) * (d_in + d_out), d_in * d_out)

    def _saved(self, op: Op) -> int:
        if op.output is None:
            return 0
        rows = self.microbatch * self._rows(op.output.buffer)
        if op.kind == "attention":
            row = WHOLE if self.ragged else saved_row(self.positions)
            return rows * int(op.attributes["heads"]) * row
        return 2 * rows if op.kind == "norm" else 0

    def _spare(self, op: Op) -> int:
        """A norm without shifts reads zeros and leaves their gradient beside them; a relative bias
        has a gradient a distance."""
        if op.kind == "mixed_attention" and op.attributes["relative"]:
            return int(op.attributes["heads"]) * _relative_row(self.positions)
        shiftless = op.kind == "norm" and op.output is not None and not op.biases
        return 2 * pad(op.output.width) if shiftless and op.output else 0

    def _view(
        self, view: View, values: dict[str, int], grads: dict[str, int], mode: int
    ) -> dict[str, int]:
        return {
            "value": values[view.buffer] + view.column,
            "grad": -1 if mode == _NONE else grads[view.buffer] + view.column,
            "width": view.width,
            "ld": self._ld(view.buffer),
            "rows": self._rows(view.buffer),
            "mode": mode,
        }

    def _gradients(self, arena: Arena) -> tuple[dict[str, int], list[list[int]]]:
        """Place the gradient buffers over their lifetimes; say how each op meets each."""
        grads: dict[str, int] = {}
        modes: list[list[int]] = [[] for _ in self.plan.ops]
        owners: dict[int, int] = {}  # offset -> buffers that live there now
        given = {op.output.buffer for op in self.plan.ops if op.kind == "vectors" and op.output}
        for index in reversed(range(len(self.plan.ops))):
            op = self.plan.ops[index]
            for position, view in enumerate(op.inputs):
                name = view.buffer
                if name in given:
                    modes[index].append(_NONE)
                    continue
                rows = self._rows(op.output.buffer) if op.output else self._rows(name)
                if op.attributes.get("shared"):  # attention leaves the padding as it is
                    whole = position == 0 or view.width % PAD == 0
                else:
                    whole = rows == self._rows(name) or op.kind in ("attention", "mixed_attention")
                    whole = whole and op.kind != "select"  # which adds, be it to all rows
                first = name not in grads
                modes[index].append((_WRITE if whole else _ZERO_ADD) if first else _ADD)
                if not first:
                    continue
                residual = op.kind == "linear" and position == 1
                if residual and whole and op.output is not None:
                    grads[name] = grads[op.output.buffer]  # dX of a residual is dY itself
                else:
                    grads[name] = arena.take(self._floats(name))
                owners[grads[name]] = owners.get(grads[name], 0) + 1
            if op.output is not None and op.output.buffer not in given:
                offset = grads[op.output.buffer]
                owners[offset] -= 1
                if owners[offset] == 0:
                    arena.give_back(offset, self._floats(op.output.buffer))
        return grads, modes

    def _parameters(self, op: Op) -> dict[str, Any]:
        record: dict[str, Any] = {
            "kind": _KINDS[op.kind],
            "heads": op.attributes.get("heads", 0),
            "causal": int(op.attributes.get("causal", False)),
            "shared": int(op.attributes.get("shared", False)),
            "head_width": op.attributes.get("width", 0),
            "narrow": int(op.attributes.get("narrow", False)),
            "d_k": op.attributes.get("d_k", 0),
            "d_v": op.attributes.get("d_v", 0),
            "epsilon": op.attributes.get("epsilon", 0.0),
            "first": op.attributes.get("first", 0),
            "loss": _LOSSES[op.attributes.get("loss")],
            "blank": op.attributes.get("blank", -1),
            "query": op.attributes.get("query", 0),
            "columns": op.attributes.get("columns", 0),
            "d_out": op.output.width if op.output else 0,
            "d_in": op.inputs[0].width if op.inputs else 0,
        }
        placed = [self.flat.placed[name] for name in op.weights]
        record["weight"] = placed[0].offset if placed else -1
        second = op.kind in ("embed", "canonical") and len(placed) > 1
        record["weight2"] = placed[1].offset if second else -1
        record["weight_ld"] = placed[0].ld if placed else 0
        record["bias"] = self.flat.placed[op.biases[0]].offset if op.biases else -1
        record["packed"] = record["packed_bias"] = record["packed_back"] = -1
        record["bf16"] = int(self.bf16)
        if op.kind == "head_linear":  # the weight's own rows and columns
            record["d_out"] = record["heads"] * record["head_width"]
            wide = op.inputs[0] if record["narrow"] else op.output
            assert wide is not None
            record["d_in"] = wide.width // record["heads"]
        record["packed_ld"] = pad(record["d_out"])
        record |= self._mixed(op)
        if op.kind in ("linear", "head_linear"):
            record["packed"] = self.packed_size
            self.packed_size += record["d_in"] * record["packed_ld"]  # bf16 needs half of it
            if self.bf16:
                record["packed_back"] = self.packed_size
                self.packed_size += -(-record["d_out"] // 2) * record["weight_ld"]
            if op.biases:
                record["packed_bias"] = self.packed_size
                self.packed_size += record["packed_ld"]
        return record

    def _mixed(self, op: Op) -> dict[str, Any]:
        """What a generalised attention has beside attention's fields."""
        dropout = op.attributes.get("dropout", 0.0)
        own: dict[str, Any] = {
            "scores": _SCORES[op.attributes.get("scores")],
            "path": _PATHS[op.attributes.get("path")],
            "buckets": 0,
            "deep_ld": 0,
            "layer": op.attributes.get("layer", 0),
            "keep": -1,
            "drop_below": threshold(dropout),
            "keep_scale": float(np.float32(1.0 / (1.0 - dropout))),
        }
        if op.kind != "mixed_attention" or op.output is None:
            return own
        own["weight"] = own["weight2"] = -1
        weights = [self.flat.placed[name] for name in op.weights]
        if op.attributes["relative"]:
            own["weight"], own["weight_ld"] = weights[0].offset, weights[0].ld
            own["buckets"] = op.attributes["buckets"]
            own["packed"] = self.packed_size
            self.packed_size += int(op.attributes["heads"]) * _relative_row(self.positions)
        if op.attributes["deep"]:
            own["weight2"], own["deep_ld"] = weights[-1].offset, weights[-1].ld
        if dropout:
            own["keep"] = self.packed_size
            self.packed_size += self._rows(op.output.buffer) * pad(self.positions)
        return own

    @property
    def _buckets(self) -> Int32 | None:
        """The bucket of each distance; its networks have one table a layer, of equal buckets."""
        found = {op.attributes["buckets"] for op in self.plan.ops if op.attributes.get("relative")}
        assert len(found) <= 1, "all layers have the same buckets"
        return distance_buckets(self.positions, found.pop()) if found else None
