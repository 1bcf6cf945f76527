"""A launch: a kernel with its grid and arguments, prepared once and run at every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from compfast.errors import UsageError


@dataclass(frozen=True, slots=True)
class Rows:
    """Columns [column, column + width) of a buffer [M, rows, ld]; `each` rows a sequence."""

    tensor: torch.Tensor
    width: int
    each: int
    column: int = 0

    def __post_init__(self) -> None:
        if self.tensor.shape[1] * self.tensor.shape[2] > 2**31 - 1:
            rows, ld = self.tensor.shape[1:]
            raise UsageError(
                f"one member's {rows:,} rows of {ld} columns are more than the triton engine can"
                f" address, {2**31 - 1:,} numbers; a smaller batch or shorter sequences are needed"
            )

    @property
    def pointer(self) -> torch.Tensor:
        return self.tensor[:, :, self.column :]

    @property
    def count(self) -> int:
        return self.tensor.shape[1]

    @property
    def ld(self) -> int:
        return self.tensor.shape[2]

    @property
    def stride(self) -> int:
        """Floats from one member to the next."""
        return self.tensor.stride(0)

    def step_from(self, rows: Rows) -> tuple[int, int]:
        """(step, first): row n of `rows` goes with row n step + first of this buffer."""
        step = self.each // rows.each
        return step, step - 1


@dataclass(frozen=True, slots=True)
class Launch:
    """`kernel[grid](*pointers, **constants)`; sizes are constants, so a kernel knows its shape."""

    kernel: Any
    grid: tuple[int, ...]
    pointers: Mapping[str, torch.Tensor]
    constants: Mapping[str, Any]
    # A multiply and the add after it may be contracted, as everywhere but in `adamw.decide`.
    options: Mapping[str, Any] = field(default_factory=lambda: {"enable_fp_fusion": True})

    def run(self) -> None:
        self.kernel[self.grid](**self.pointers, **self.constants, **self.options)


def roomy(warps: int, stages: int = 1) -> dict[str, Any]:
    """Options of a kernel of up to 8 warps that wants all registers a thread can have.

    Left to itself ptxas sometimes stops at 64 or 128 to run programs side by side, and spills a
    few. `stages`: of the pipeline that copies a loop's tiles ahead.
    """
    return {"enable_fp_fusion": True, "num_warps": warps, "num_stages": stages, "maxnreg": 255}


def loss_strides(logits: Rows, d_logits: Rows, loss: Any) -> dict[str, Any]:
    """Where the losses' kernels find logits, their gradient and their part of `loss` [M, ..]."""
    return {
        "S": logits.stride,
        "LD": logits.ld,
        "SG": d_logits.stride,
        "LDG": d_logits.ld,
        "S_LOSS": loss.stride(0),
    }
