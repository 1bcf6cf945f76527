"""Squared error of every member's outputs, and its gradient in the same pass.

outputs z and targets y [M, N, V]. loss = mean over N and V of (z - y)^2, dz = 2 (z - y) / (N V).
Each program leaves its share of the loss, which `adamw.decide` adds in order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from compfast.engines.triton.launch import Launch, Rows, loss_strides

_SIZE = 256


@triton.jit
def _loss(
    outputs,  # [M, N, LD]
    targets,  # [M, N, V]
    d_outputs,  # [M, N, LDG]
    loss,  # [M, programs]
    live,  # [M]
    COUNT: tl.constexpr,  # N V
    V: tl.constexpr,
    S: tl.constexpr,
    LD: tl.constexpr,
    SG: tl.constexpr,
    LDG: tl.constexpr,
    S_LOSS: tl.constexpr,
    SHARE: tl.constexpr,
    SIZE: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    n, c = i // V, i % V
    z = tl.load(outputs + m * S + n * LD + c, mask=i < COUNT, other=0.0)
    apart = z - tl.load(targets + m * COUNT + i, mask=i < COUNT, other=0.0)
    tl.store(d_outputs + m * SG + n * LDG + c, 2.0 * apart * SHARE, mask=i < COUNT)
    total = tl.sum(apart * apart, axis=0) * SHARE
    tl.store(loss + m * S_LOSS + tl.program_id(0), total)


def loss_and_gradient(
    outputs: Rows,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    d_outputs: Rows,
    loss: torch.Tensor,
    live: torch.Tensor,
) -> Launch:
    """loss [M, >= `programs` of these outputs]: the sum of its columns is the mean loss.

    `inputs` are those of the other losses, which may answer with a sequence's next token.
    """
    count = outputs.count * outputs.width
    constants = {
        "COUNT": count,
        "V": outputs.width,
        **loss_strides(outputs, d_outputs, loss),
        "SHARE": 1.0 / count,
        "SIZE": _SIZE,
    }
    pointers = {
        "outputs": outputs.pointer,
        "targets": targets,
        "d_outputs": d_outputs.pointer,
        "loss": loss,
        "live": live,
    }
    return Launch(_loss, (programs(outputs), len(live)), pointers, constants)


def programs(outputs: Rows) -> int:
    """Columns of `loss` that a launch over these outputs fills."""
    return triton.cdiv(outputs.count * outputs.width, _SIZE)
