"""Who may read a plan's buffers, as the kernels that write or bend their gradients need it."""

from __future__ import annotations

from collections.abc import Container

from compfast.models.plan import Op, Plan

ATTENTION = ("attention", "mixed_attention")


def check_slopes(plan: Plan, activated: Container[str]) -> None:
    """Who reads an activated buffer multiplies its gradient by the slope: these do."""
    for op in plan.ops:
        for index, view in enumerate(op.inputs):
            known = index == 0 if op.kind == "linear" else index == 2 and op.kind in ATTENTION
            assert known or view.buffer not in activated, f"{op.kind} reads {view.buffer}"


def need_sole_consumer(plan: Plan, op: Op, inputs: int = 3) -> None:
    """These kernels write their inputs' gradients, so nobody else may add to them."""
    for view in op.inputs[:inputs]:
        readers = [o for o in plan.ops for v in o.inputs if v.buffer == view.buffer]
        assert {id(o) for o in readers} == {id(op)}, f"{view.buffer} has another reader"
