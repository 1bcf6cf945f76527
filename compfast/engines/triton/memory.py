"""How many members fit on the device at once, counted on tensors without storage."""

from __future__ import annotations

import torch

from compfast.config import MemberSpec
from compfast.engines.flat import FlatLayout
from compfast.engines.triton.step import program_for

SHARE = 0.9  # of the free memory; the rest is for CUDA graphs, compiled kernels and evaluation


def workspace_bytes(spec: MemberSpec, flat: FlatLayout) -> int:
    """Bytes that one member needs beside its parameters and moments while it trains."""
    meta = torch.device("meta")
    params = torch.empty((1, flat.size), dtype=torch.float32, device=meta)
    live = torch.empty(1, dtype=torch.int32, device=meta)
    program = program_for(spec, flat, params, live, spec.training.batch_size)
    tensors = [program.tokens, program.targets, program.gradients, *program.workspace()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def stacked(spec: MemberSpec, flat: FlatLayout, members: int, device: torch.device) -> int:
    """Members whose workspace fits beside all members' state; at least 1, at most `members`."""
    if device.type != "cuda":
        return members
    free, _ = torch.cuda.mem_get_info(device)
    return fitting(spec, flat, members, free)


def fitting(spec: MemberSpec, flat: FlatLayout, members: int, free: int) -> int:
    """`stacked` for a given number of free bytes."""
    return max(1, min(members, int(SHARE * free) // workspace_bytes(spec, flat)))
