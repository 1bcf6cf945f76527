"""What other engines' plans have and this one's kernels do not: refused by name."""

from __future__ import annotations

from compfast.engines.triton import mixed_attention
from compfast.engines.triton.mixed import generalised
from compfast.errors import UsageError
from compfast.models.plan import Op, Plan

KINDS = frozenset(
    {
        *("embed", "vectors", "select", "norm", "linear", "attention", "mixed_attention"),
        *("generated", "loss"),
    }
)


def check_plan(plan: Plan, length: int) -> None:
    """Raise UsageError for an op that there is no kernel for, naming engines that have it."""
    for op in generalised(plan).ops:
        lacking = _lacking(op, length)
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
