"""Logistic loss of every member's single logit, and its gradient in the same pass.

logits z [M, N, 1], of token 1 where token 0 has 0; rows and what they predict as in
cross_entropy.py. loss = mean over N of max(z, 0) - answer z + log(1 + exp(-|z|)), dz =
(sigmoid(z) - answer) / N. Each program leaves its rows' sum of losses / N, which `adamw.decide`
adds in order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from compfast.engines.triton.cross_entropy import answers
from compfast.engines.triton.launch import Launch, Rows, loss_strides

_ROWS = 128


@triton.jit
def _loss(
    logits,  # [M, N, LD]
    tokens,  # [M, B, T] int32
    targets,  # [M, B] int32
    d_logits,  # [M, N, LDG]
    loss,  # [M, programs]
    live,  # [M]
    N: tl.constexpr,
    B: tl.constexpr,
    T: tl.constexpr,
    S: tl.constexpr,
    LD: tl.constexpr,
    SG: tl.constexpr,
    LDG: tl.constexpr,
    S_LOSS: tl.constexpr,
    SHARE: tl.constexpr,
    ALL: tl.constexpr,
    ROWS: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    answer = answers(tokens + m * B * T, targets + m * B, n, n < N, T, ALL).to(tl.float32)
    z = tl.load(logits + m * S + n * LD, mask=n < N, other=0.0)
    small = tl.exp(-tl.abs(z))  # in (0, 1]: nothing overflows
    near = tl.div_rn(1.0, 1.0 + small)  # sigmoid(|z|)
    gradient = tl.where(z < 0.0, small * near, near) - answer
    tl.store(d_logits + m * SG + n * LDG, gradient * SHARE, mask=n < N)
    # an infinite logit is not finite in the loss: the answer's product with it is not left out
    value = tl.where(z > 0.0, z, 0.0) - answer * z + tl.log(1.0 + small)
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
    constants = {
        "N": logits.count,
        "B": tokens.shape[1],
        "T": tokens.shape[2],
        **loss_strides(logits, d_logits, loss),
        "SHARE": 1.0 / logits.count,
        "ALL": logits.count > targets[0].numel(),
        "ROWS": _ROWS,
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
    return triton.cdiv(logits.count, _ROWS)
