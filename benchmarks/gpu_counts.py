"""Operations and bytes of each launch of a step, counted from the plan and from its arguments.

Operations are useful ones, as in compfast/engines/arithmetic.py: what backward computes a second
time is not counted. Bytes are every tensor that the launch is given, once: its activations whole,
of the flat vector and its gradients what belongs to the launch's own weights. Gathers count what
they write; a launch may move more, never less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from compfast.config import MemberSpec
from compfast.engines.arithmetic import op_flops
from compfast.engines.flat import FlatLayout
from compfast.engines.triton.launch import Launch
from compfast.models.families import model_plan
from compfast.models.plan import Op, Plan
from compfast.tasks import make_task

FLOAT = 4


@dataclass(frozen=True)
class Counted:
    """One launch: its name among the step's launches, operations and bytes of all members."""

    name: str
    operations: int
    moved: int


def counted(launches: Sequence[Launch], spec: MemberSpec, flat: FlatLayout) -> list[Counted]:
    """Of each launch of a training step, in order."""
    plan = model_plan(spec.model, absorb=False)
    seen: Counter[str] = Counter()
    found = []
    for launch in launches:
        module, name = launch.kernel.fn.__module__, launch.kernel.fn.__name__
        kernel = f"{module.split('.')[-1]}.{name.lstrip('_')}"
        members = launch.pointers["live" if "live" in launch.pointers else "go"].shape[0]
        ops, directions, own = _work(kernel, seen[kernel], launch, spec, plan, flat)
        seen[kernel] += 1
        length, batch = make_task(spec.task).length, spec.training.batch_size
        each = [op_flops(plan, op, length, batch) for op in ops]
        operations = sum(flops[d] for flops in each for d in directions)
        if kernel.startswith("linear."):
            c = launch.constants
            operations = 2 * c["N"] * c["D_IN"] * c["D_OUT"]
        moved = _moved(launch, members, own, flat)
        found.append(Counted(f"{kernel} {seen[kernel]}", members * operations, moved))
    return found


_FORWARD, _BACKWARD = 0, 1


def _work(
    kernel: str, index: int, launch: Launch, spec: MemberSpec, plan: Plan, flat: FlatLayout
) -> tuple[list[Op], tuple[int, ...], int]:
    """(ops, directions, floats of its own weights a member) of the index-th launch of a kernel."""
    layers = spec.model.layers
    if kernel == "block_forward.layer_forward":
        prefix = f"blocks.{index}."
        return _ops(plan, prefix), (_FORWARD,), _floats(flat, prefix)
    if kernel in ("block_backward.ffn_backward", "block_backward.attention_backward"):
        prefix = f"blocks.{layers - 1 - index}."
        halves = [prefix + "ffn", prefix + "norm2"]
        ffn, ffn_floats = _ops(plan, *halves), _floats(flat, *halves)
        if kernel.endswith("ffn_backward"):
            return ffn, (_BACKWARD,), ffn_floats
        rest = [op for op in _ops(plan, prefix) if op not in ffn]
        return rest, (_BACKWARD,), _floats(flat, prefix) - ffn_floats
    if kernel == "head.head":
        own = _floats(flat, "head.", "final_norm.")
        return _ops(plan, "logits"), (_FORWARD, _BACKWARD), own
    if kernel in ("attention.forward", "attention_tiled.forward"):
        return [_attention(plan)[index]], (_FORWARD,), 0
    if kernel == "attention.backward":
        return [_attention(plan)[layers - 1 - index]], (_BACKWARD,), 0
    if kernel.startswith("attention_tiled."):  # one of the two kernels of backward: half of it
        return [_attention(plan)[layers - 1 - index]], (_FORWARD,), 0
    c = launch.constants
    if kernel.startswith("linear."):
        return [], (), c["LDW"] * c["D_OUT"] + c["D_OUT"]
    if kernel.startswith("layer_norm."):
        return [], (), 2 * c["D"]
    if kernel.startswith("embedding") and "backward" in kernel:
        return [], (), _floats(flat, "embed.")
    return [], (), flat.size if kernel.startswith("adamw.") else 0


def _ops(plan: Plan, *prefixes: str) -> list[Op]:
    return [op for op in plan.ops if op.output and op.output.buffer.startswith(prefixes)]


def _attention(plan: Plan) -> list[Op]:
    return [op for op in plan.ops if op.kind == "attention"]


def _floats(flat: FlatLayout, *prefixes: str) -> int:
    placed = flat.placed.items()
    return sum(p.rows * p.ld for name, p in placed if name.startswith(prefixes))


def _moved(launch: Launch, members: int, own: int, flat: FlatLayout) -> int:
    """Every tensor once; views into the flat vector and into its gradients count `own` floats."""
    total, seen = 0, set()
    flats: set[int] = set()
    for tensor in launch.pointers.values():
        parts = tensor.shape[1] if tensor.ndim == 3 else 1
        if _flat(tensor, flat):
            if launch.kernel.fn.__module__.endswith("adamw"):
                total += tensor.numel() * tensor.element_size()
            elif parts not in flats:
                flats.add(parts)
                total += members * parts * own * FLOAT
            continue
        # on tensors without storage the object says which buffer it is
        place = tensor.untyped_storage()._cdata, tensor.storage_offset()
        if place not in seen:
            seen.add(place)
            total += tensor.numel() * tensor.element_size()
    return total


def _flat(tensor: torch.Tensor, flat: FlatLayout) -> bool:
    """Whether it is [M, .] or [M, PARTS, .] of vectors laid out as `flat`."""
    return tensor.ndim in (2, 3) and tensor.stride(-2) == flat.size
