"""What other engines' plans have and this one's kernels do not: refused by name."""

from __future__ import annotations

from compfast.errors import UsageError
from compfast.models.plan import Op, Plan

KINDS = frozenset({"embed", "norm", "linear", "attention", "loss"})


def check_plan(plan: Plan) -> None:
    """Raise UsageError for an op that there is no kernel for, naming engines that have it."""
    for op in plan.ops:
        lacking = _lacking(op)
        if lacking is not None:
            raise UsageError(f"engine triton has no {lacking}; engines native and eager have it")


def _lacking(op: Op) -> str | None:
    if op.kind == "canonical":
        return "op canonical (model.family = canonical)"
    if op.attributes.get("masked"):
        return "loss under a mask (model.loss_positions = masked)"
    if op.kind not in KINDS:
        return f"op {op.kind}"
    if op.attributes.get("shared"):
        return "op attention whose heads share keys and values"
    return None
