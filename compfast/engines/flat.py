"""The flat parameter vector of a member: where each tensor of a plan lies in it.

Offsets count floats. Rows are padded to a multiple of 16 with zeros, so that kernels of every
vector width read the same memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from compfast.config import ModelSection
from compfast.engines.base import Float32, Named
from compfast.engines.decays import decay_column
from compfast.models.params import Tensor, parameter_table
from compfast.models.plan import Plan

PAD = 16


def pad(n: int) -> int:
    return -(-n // PAD) * PAD


@dataclass(frozen=True, slots=True)
class Placed:
    """A tensor in the flat vector: [rows, ld], the first `columns` of each row are its own."""

    tensor: Tensor
    offset: int
    rows: int
    columns: int
    ld: int


class FlatLayout:
    """Positions of all tensors in a member's flat vector of `size` floats."""

    def __init__(self, model: ModelSection, plan: Plan, decay: str) -> None:
        table = {tensor.name: tensor for tensor in parameter_table(model)}
        self.placed: dict[str, Placed] = {}
        self.size = 0
        marks: list[tuple[int, int]] = []  # where each tensor begins, and how it decays
        for op in plan.ops:
            for run in (op.weights, op.biases):
                for name in run:
                    if name not in self.placed:
                        marks.append((self.size, decay_column(table[name], decay)))
                        self._place(table[name])
                self.size = pad(self.size)
        self.segments = _segments(marks, self.size)
        missing = table.keys() - self.placed.keys()
        assert not missing, f"the plan never uses {sorted(missing)}"

    def _place(self, tensor: Tensor) -> None:
        if tensor.matrix:
            rows, columns = tensor.shape
            ld = pad(columns)
        else:  # biases of fused projections stand side by side without gaps
            rows, columns, ld = 1, tensor.shape[0], tensor.shape[0]
        self.placed[tensor.name] = Placed(tensor, self.size, rows, columns, ld)
        self.size += rows * ld

    def unpack(self, flat: Float32) -> Named:
        """flat [M, size] -> name -> [M, *shape] (copies)."""
        shapes = {name: (len(flat), *p.tensor.shape) for name, p in self.placed.items()}
        return {name: self.view(name, flat).copy().reshape(shapes[name]) for name in shapes}

    def pack(self, named: Named, flat: Float32) -> None:
        """name -> [M, *shape] into flat [M, size]; the padding is left as it is (zero)."""
        for name in self.placed:
            view = self.view(name, flat)
            view[:] = named[name].reshape(view.shape)

    def view(self, name: str, flat: Float32) -> Float32:
        """A tensor's own elements in flat [M, size]: [M, rows, columns], no copy."""
        p = self.placed[name]
        block = flat[:, p.offset : p.offset + p.rows * p.ld]
        return block.reshape(len(flat), p.rows, p.ld)[:, :, : p.columns]


def _segments(marks: list[tuple[int, int]], size: int) -> list[tuple[int, int, int]]:
    """(offset, length, column of decays.py): the stretches of a flat vector that decay alike."""
    begun = [mark for i, mark in enumerate(marks) if i == 0 or marks[i - 1][1] != mark[1]]
    ends = [*(start for start, _ in begun[1:]), size]
    return [(start, end - start, column) for (start, column), end in zip(begun, ends, strict=True)]
