"""What other engines' plans have and this one's kernels do not: refused by name."""

from __future__ import annotations

from compfast.errors import UsageError
from compfast.models.plan import Op, Plan


def check_plan(plan: Plan) -> None:
    """Raise UsageError for an op that there is no kernel for, naming engines that have it."""
    for op in plan.ops:
        lacking = _lacking(op)
        if lacking is not None:
            raise UsageError(f"engine triton has no {lacking}; engines native and eager have it")


def _lacking(op: Op) -> str | None:
    if op.kind == "canonical":
        return "op canonical (model.family = canonical)"
    if op.attributes.get("first") or op.attributes.get("loss", "cross_entropy") != "cross_entropy":
        return "logistic loss of a single logit (model.logits = single)"
    if op.kind == "norm" and not op.biases:
        return "norm without shifts (model.norm_bias = false)"
    return None
