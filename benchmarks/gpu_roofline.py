"""The Triton engine's step on paper: what an H100 would need at least, and what we expect.

    python -m benchmarks.gpu_roofline

Nothing here is measured. Counts come from the plan and from the launches of one member's step,
built on tensors without storage; rates are those of NVIDIA's H100 (SXM) data sheet, and what the
expected time assumes beside them stands in ASSUMED.

operations   matrix products and attention, forward and backward (compfast/engines/arithmetic.py)
least        bytes of device memory that no design avoids: parameters and both moments, in and out
design       bytes that ours moves: the above; parameters once more forward and backward; every
             workspace buffer three times (written, read by the next launch, read by backward);
             PARTS partial gradients written, read and summed, the sum read
on chip      operands that the products read from shared memory, in tiles of TILE rows and columns
             (FUSED_TILE in the fused layers)
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from benchmarks.cards import H100
from benchmarks.triton_resources import spec_of, step_of
from compfast.engines.arithmetic import step_flops
from compfast.engines.triton.fused import FusedProgram
from compfast.models.families import model_plan
from compfast.tasks import make_task

PEAK = H100.peak  # dense, operations a second
HBM = H100.bandwidth  # bytes a second
# 132 SMs x 128 bytes a clock x 1.98 GHz, the clock that the fp32 peak implies
SHARED = 132 * 128 * 1.98e9

FLOAT = 4
TILE, FUSED_TILE = 64, 16
OPERAND = {"fp32": 4, "tf32": 4, "bf16": 2}  # bytes

ASSUMED = {
    "fp32": 0.4,  # share of the peak; FMA loops that also load operands and run epilogues
    "tf32": 0.15,  # the small tiles here feed mma.sync, not the widest warp-group instructions;
    "bf16": 0.15,  # tiny-cuda-nn's fused networks, written by hand, reach 0.22 to 0.34
    "hbm": 0.8,
    "shared": 0.5,
    "launch": 1.25e-6,  # seconds a kernel of a replayed CUDA graph
}

# shape -> members trained at once
MEMBERS = {"tiny": 512, "d64": 512, "d128": 512, "paper": 64}


@dataclass(frozen=True)
class Paper:
    """One row: counts of a step of all members, seconds."""

    shape: str
    precision: str
    members: int
    launches: int
    operations: int
    least: int  # bytes of device memory
    design: int
    on_chip: int

    @property
    def floor(self) -> float:
        """What no design undercuts."""
        return max(self.operations / PEAK[self.precision], self.least / HBM)

    @property
    def bound(self) -> str:
        arithmetic = self.operations / PEAK[self.precision]
        return "arithmetic" if arithmetic >= self.least / HBM else "memory"

    @property
    def expected(self) -> float:
        """The slowest of arithmetic, device memory and shared memory, plus the launches."""
        arithmetic = self.operations / (ASSUMED[self.precision] * PEAK[self.precision])
        memory = self.design / (ASSUMED["hbm"] * HBM)
        shared = self.on_chip / (ASSUMED["shared"] * SHARED)
        return max(arithmetic, memory, shared) + self.launches * ASSUMED["launch"]


def on_paper(shape: str, precision: str) -> Paper:
    """A row of the table."""
    spec, members = spec_of(shape, precision), MEMBERS[shape]
    step = step_of(spec)
    plan = model_plan(spec.model, absorb=False)
    counted = step_flops(plan, make_task(spec.task).length, spec.training.batch_size)
    operations = sum(counted.values())
    _, parts, size = step.program.gradients.shape
    workspace = sum(tensor.numel() for tensor in step.program.workspace())
    tile = FUSED_TILE if isinstance(step.program, FusedProgram) else TILE
    least = 6 * size * FLOAT
    gradients = (2 * parts + 2) * size * FLOAT
    return Paper(
        shape=shape,
        precision=precision,
        members=members,
        launches=len(step.launches),
        operations=members * operations,
        least=members * least,
        design=members * (least + 2 * size * FLOAT + gradients + 3 * workspace * FLOAT),
        on_chip=members * operations // 2 * 2 * OPERAND[precision] // tile,
    )


def table() -> str:
    """Markdown; every figure computed."""
    lines = [
        "| shape | members | precision | launches | GFLOP | least MB | design MB | on chip GB"
        " | floor ms (bound) | expected ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for shape in MEMBERS:
        for precision in PEAK:
            row = on_paper(shape, precision)
            lines.append(
                f"| {shape} | {row.members} | {precision} | {row.launches}"
                f" | {row.operations / 1e9:.0f} | {row.least / 1e6:.0f} | {row.design / 1e6:.0f}"
                f" | {row.on_chip / 1e9:.1f} | {1e3 * row.floor:.2f} ({row.bound})"
                f" | {1e3 * row.expected:.2f} |"
            )
    return "\n".join(lines)


def main() -> int:
    print("Computed from counts and a data sheet, never measured; a step of all members, H100 SXM")
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
