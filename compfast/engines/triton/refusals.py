"""What other engines' plans have and this one's kernels do not: refused by name."""

from __future__ import annotations

from compfast.engines.triton import mixed_attention
from compfast.engines.triton.mixed import generalised
from compfast.errors import UsageError
from compfast.models.plan import Op, Plan

KINDS = frozenset(
    {"embed", "vectors", "select", "norm", "linear", "attention", "mixed_attention", "loss"}
)


def check_plan(plan: Plan, length: int) -> None:
    """Raise UsageError for an op that there is no kernel for, naming engines that have it."""
    bent = {op.output.buffer for op in plan.ops if op.output and op.attributes.get("activation")}
    for op in generalised(plan).ops:
        lacking = _lacking(op, length)
        if op.kind in ("attention", "mixed_attention") and bent & {v.buffer for v in op.inputs}:
            lacking = "attention over activated values (model.value_activation)"
        if lacking is not None:
            raise UsageError(f"engine triton has no {lacking}; engines native and eager have it")


def _lacking(op: Op, length: int) -> str | None:
    if op.kind == "canonical":
        return "op canonical (model.family = canonical)"
    if op.kind not in KINDS:
        return f"op {op.kind}"
    if op.attributes.get("shared"):
        return "op attention whose heads share keys and values"
    known = op.attributes
    if op.kind == "mixed_attention" and not mixed_attention.fits(
        known["heads"], length, known["scores"], known["path"]
    ):
        kind = f"attention {known['scores']} with value path {known['path']}"
        return f"op mixed_attention ({kind}) of {known['heads']} heads over {length} positions"
    return None
