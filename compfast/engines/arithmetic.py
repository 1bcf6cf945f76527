"""What one training step of one member costs, counted from the records of its plan.

Arithmetic is GEMM and attention, forward and backward, of the rows that the pruned plan holds;
masked scores are computed and counted. Norms, softmax, activations, embedding, data and the
optimiser are not counted. A new op kind is one more entry in PRODUCTS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from compfast.engines.flat import pad
from compfast.engines.layout import saved_row
from compfast.engines.native_plan import NativePlan
from compfast.models.plan import Op, Plan

FLOAT = 4  # bytes
# Forward is one product, backward two: the gradients of both factors, or of the one that is not the
# task's own numbers.
FORWARD, BACKWARD = 1, 2


def _none(op: Op, rows: int, positions: int) -> int:
    return 0


def _linear(op: Op, rows: int, positions: int) -> int:
    assert op.output is not None
    return rows * op.inputs[0].width * op.output.width


def _head_linear(op: Op, rows: int, positions: int) -> int:
    """Each head's columns of the input meet only its own columns of the output."""
    return _linear(op, rows, positions) // int(op.attributes["heads"])


def _attention(op: Op, rows: int, positions: int) -> int:
    """Scores and weighted sum: each head's columns of a query meet every position."""
    assert op.output is not None
    return rows * positions * (op.inputs[0].width + op.output.width)


def _mixed_attention(op: Op, rows: int, positions: int) -> int:
    """Scores and weighted sum, and what a generated value network makes of each pair."""
    sizes = op.attributes
    pairs, values = rows * positions, int(sizes["heads"] * sizes["d_v"])
    generated = 0 if sizes["path"] == "none" else values
    if sizes["path"] == "deep":
        generated += values * (int(sizes["d_v"]) + 1)
    return pairs * (int(sizes["heads"] * sizes["d_k"]) + values + generated)


def _generated(op: Op, rows: int, positions: int) -> int:
    """Each row of a sequence's matrix meets its query."""
    return rows * op.inputs[0].width


# kind -> multiply-adds of forward, a sequence: (op, rows of its output, positions) -> count
PRODUCTS: dict[str, Callable[[Op, int, int], int]] = {
    "embed": _none,
    "vectors": _none,
    "select": _none,
    "norm": _none,
    "linear": _linear,
    "head_linear": _head_linear,
    "attention": _attention,
    "mixed_attention": _mixed_attention,
    "generated": _generated,
    "loss": _none,
}


def op_flops(plan: Plan, op: Op, positions: int, batch_size: int) -> tuple[int, int]:
    """Floating-point operations (forward, backward) of one op over a batch.

    Raises ValueError for a kind that PRODUCTS does not know.
    """
    if op.kind not in PRODUCTS:
        raise ValueError(f"op kind {op.kind!r} has no entry in compfast.engines.arithmetic")
    rows = positions
    if op.output is not None and plan.buffer(op.output.buffer).rows == "last":
        rows = plan.asked
    multiply_adds = PRODUCTS[op.kind](op, rows, positions) * batch_size
    backward = 1 if _of_data(plan, op) else BACKWARD
    return 2 * FORWARD * multiply_adds, 2 * backward * multiply_adds


def _of_data(plan: Plan, op: Op) -> bool:
    """Whether one factor is the task's own numbers, which have no gradient."""
    given = [made.output.buffer for made in plan.ops if made.kind == "vectors" and made.output]
    return op.kind == "generated" or any(view.buffer in given for view in op.inputs)


def step_flops(plan: Plan, positions: int, batch_size: int) -> dict[str, int]:
    """kind -> floating-point operations of one step, for the kinds that have any."""
    total: dict[str, int] = {}
    for op in plan.ops:
        total[op.kind] = total.get(op.kind, 0) + sum(op_flops(plan, op, positions, batch_size))
    return {kind: flops for kind, flops in total.items() if flops}


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that one stage of a step must move, and the memory that it goes over again and again.

    The stages: "passes" (forward and backward of all microbatches) and "update" (optimiser).
    """

    stage: str
    moved: int
    held: int


def step_traffic(native: NativePlan, moments: int = 2) -> tuple[Traffic, Traffic]:
    """The least that the native engine's step moves past what stays in a nearer cache.

    passes: every value of a buffer, and what forward saves beside it, is written once and read by
    backward (the next op's read and the buffers' gradients, whose places are reused at once, are
    left out); each microbatch reads the weights once forward and once backward, and reads and
    writes their gradient. update: parameters and `moments` (AdamW's two) are read and written; the
    gradients of both halves are cleared and read, their sum is written and read twice (norm,
    optimiser).
    """
    record = native.record()
    microbatches = sum(-(-half // native.microbatch) for half in _halves(native.batch))
    activations = native.batch * sum(_floats_a_sequence(native, op) for op in native.plan.ops)
    weights = sum(
        native.flat.placed[name].rows * native.flat.placed[name].ld
        for op in native.plan.ops
        if PRODUCTS[op.kind] is not _none
        for name in op.weights
    )
    flat, packed = native.flat.size, record["packed_size"]
    moving = activations + 4 * microbatches * weights
    working = record["workspace_size"] + packed + 2 * flat
    return (
        Traffic("passes", FLOAT * moving, FLOAT * working),
        Traffic(
            "update", FLOAT * (2 + 2 * moments + 2 + 2 + 3) * flat, FLOAT * (3 + moments) * flat
        ),
    )


def _floats_a_sequence(native: NativePlan, op: Op) -> int:
    """Floats that one sequence writes and reads of an op's output and of what it saves."""
    if op.output is None:
        return 0
    buffer = native.plan.buffer(op.output.buffer)
    rows = native.positions if buffer.rows == "all" else native.plan.asked
    kept = pad(op.output.width) * (2 if op.attributes.get("activation") else 1)
    if op.kind == "attention":
        kept += int(op.attributes["heads"]) * saved_row(native.positions)  # mixed: nothing
    return 2 * rows * kept


def _halves(batch: int) -> tuple[int, int]:
    """Sequences of the two fixed halves (csrc/member.h)."""
    return (batch + 1) // 2, batch // 2
