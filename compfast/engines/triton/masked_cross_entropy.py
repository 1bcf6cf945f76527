"""Cross-entropy under a mask of every member's logits, and its gradient in the same pass.

logits [M, N, V], N = B T, targets [M, B, T], -1 where nothing is asked. loss = mean over B of the
mean over a sequence's other positions; dlogits accordingly. Each program leaves its rows' part of
the loss, which `adamw.decide` adds in order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from compfast.engines.triton.common import power
from compfast.engines.triton.cross_entropy import loss_rows, programs, rows_of
from compfast.engines.triton.launch import Launch, Rows, loss_strides

__all__ = ["loss_and_gradient", "programs"]


@triton.jit
def _loss(
    logits,  # [M, N, LD]
    targets,  # [M, N] int32
    d_logits,  # [M, N, LDG]
    loss,  # [M, programs]
    live,  # [M]
    N: tl.constexpr,
    T: tl.constexpr,
    V: tl.constexpr,
    S: tl.constexpr,
    LD: tl.constexpr,
    SG: tl.constexpr,
    LDG: tl.constexpr,
    S_LOSS: tl.constexpr,
    SHARE: tl.constexpr,  # 1 / B
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDE)[None, :]
    inside = (n < N)[:, None] & (column < V)
    own = targets + m * N
    answer = tl.load(own + n, mask=n < N, other=-1)
    asked = tl.zeros((ROWS,), dtype=tl.int32)
    for t in range(T):
        other = tl.load(own + n // T * T + t, mask=n < N, other=-1)
        asked += (other >= 0).to(tl.int32)
    weight = tl.where(answer >= 0, SHARE / tl.maximum(asked, 1).to(tl.float32), 0.0)
    row = tl.load(logits + m * S + n[:, None] * LD + column, mask=inside, other=0.0)
    value, gradient = loss_rows(row, column < V, answer, column)
    gradient = tl.where((answer >= 0)[:, None], gradient * weight[:, None], 0.0)
    tl.store(d_logits + m * SG + n[:, None] * LDG + column, gradient, mask=inside)
    total = tl.sum(tl.where(answer >= 0, value * weight, 0.0), axis=0)
    tl.store(loss + m * S_LOSS + tl.program_id(0), total)


def loss_and_gradient(
    logits: Rows,
    tokens: torch.Tensor,
    targets: torch.Tensor,
    d_logits: Rows,
    loss: torch.Tensor,
    live: torch.Tensor,
) -> Launch:
    """loss [M, >= `programs` of these logits]: the sum of its columns is the mean loss."""
    wide = power(logits.width)
    constants = {
        "N": logits.count,
        "T": tokens.shape[2],
        "V": logits.width,
        **loss_strides(logits, d_logits, loss),
        "SHARE": 1.0 / tokens.shape[1],
        "ROWS": rows_of(wide),
        "WIDE": wide,
    }
    pointers = {
        "logits": logits.pointer,
        "targets": targets,
        "d_logits": d_logits.pointer,
        "loss": loss,
        "live": live,
    }
    return Launch(_loss, (programs(logits), len(live)), pointers, constants)
