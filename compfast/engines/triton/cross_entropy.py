"""Cross-entropy of every member's logits, and its gradient in the same pass.

logits [M, N, V]; N is B T (position t predicts token t + 1, the last one the target) or that of
the targets (the last positions alone). loss = mean over N; dlogits = (softmax - one-hot) / N. Each
program leaves its rows' sum of losses / N, which `adamw.decide` adds in order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from compfast.engines.triton.common import power
from compfast.engines.triton.launch import Launch, Rows, loss_strides


@triton.jit
def loss_rows(logits, inside, answer, column):
    """(loss [R], softmax - one-hot [R, V]); logits [R, V], answer [R], column [1, V]."""
    logits = tl.where(inside, logits, float("-inf"))
    top = tl.max(logits, axis=1)
    weight = tl.where(inside, tl.exp(logits - top[:, None]), 0.0)
    total = tl.sum(weight, axis=1)
    right = column == answer[:, None]
    chosen = tl.sum(tl.where(right, logits - top[:, None], 0.0), axis=1)
    gradient = weight / total[:, None] - tl.where(right, 1.0, 0.0)
    return tl.log(total) - chosen, gradient


@triton.jit
def answers(tokens, targets, n, inside, T: tl.constexpr, ALL: tl.constexpr):
    """What row n predicts; tokens [B, T] and targets [B] of one member."""
    if ALL:
        ends = n % T == T - 1
        following = tl.load(tokens + n + 1, mask=inside & (ends == 0), other=0)
        last = tl.load(targets + n // T, mask=inside & ends, other=0)
        answer = tl.where(ends, last, following)
    else:
        answer = tl.load(targets + n, mask=inside, other=0)
    return answer


@triton.jit
def _loss(
    logits,  # [M, N, LD]
    tokens,  # [M, B, T] int32
    targets,  # [M, B] int32, or [M, N]
    d_logits,  # [M, N, LDG]
    loss,  # [M, programs]
    live,  # [M]
    N: tl.constexpr,
    B: tl.constexpr,
    T: tl.constexpr,
    V: tl.constexpr,
    S: tl.constexpr,
    LD: tl.constexpr,
    SG: tl.constexpr,
    LDG: tl.constexpr,
    S_LOSS: tl.constexpr,
    SHARE: tl.constexpr,
    ALL: tl.constexpr,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDE)[None, :]
    inside = (n < N)[:, None] & (column < V)
    answer = answers(tokens + m * B * T, targets + m * (B if ALL else N), n, n < N, T, ALL)
    row = tl.load(logits + m * S + n[:, None] * LD + column, mask=inside, other=0.0)
    value, gradient = loss_rows(row, column < V, answer, column)
    tl.store(d_logits + m * SG + n[:, None] * LDG + column, gradient * SHARE, mask=inside)
    total = tl.sum(tl.where(n < N, value, 0.0), axis=0) * SHARE
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
    rows = rows_of(wide)
    constants = {
        "N": logits.count,
        "B": tokens.shape[1],
        "T": tokens.shape[2],
        "V": logits.width,
        **loss_strides(logits, d_logits, loss),
        "SHARE": 1.0 / logits.count,
        "ALL": logits.count > targets[0].numel(),
        "ROWS": rows,
        "WIDE": wide,
    }
    pointers = {
        "logits": logits.pointer,
        "tokens": tokens,
        "targets": targets,
        "d_logits": d_logits.pointer,
        "loss": loss,
        "live": live,
    }
    return Launch(_loss, (programs(logits), len(live)), pointers, constants)


def programs(logits: Rows) -> int:
    """Columns of `loss` that a launch over these logits fills."""
    return triton.cdiv(logits.count, rows_of(power(logits.width)))


def rows_of(wide: int) -> int:
    return max(1, min(64, 4096 // wide))
