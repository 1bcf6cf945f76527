"""Final norm, output layer and cross-entropy, forward and backward, in one kernel.

X [M, N, D] -> losses [M, PARTS], whose rows add up to the mean loss, d loss/dX and the gradients
of scale, shift, W and b. logits = norm(X) W^T + b stay on chip; as in block.py one program owns
one of PARTS stretches of rows and adds its weight gradients up in place.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from compfast.engines.triton.common import LINEAR, power, product
from compfast.engines.triton.cross_entropy import answers, loss_rows
from compfast.engines.triton.launch import Launch, Rows, roomy
from compfast.engines.triton.tiles import (
    add_matrix,
    add_sums,
    anew,
    clear,
    matrix,
    norm_through,
    normed,
    put_rows,
    statistics,
    vector,
)

WIDEST = 256  # tokens of the vocabulary


@triton.jit
def _head(
    x,  # [M, N, LDX]
    tokens,  # [M, B, T] int32
    targets,  # [M, B] int32
    scale,  # [M, D]
    shift,  # [M, D]
    weight,  # [M, V, LDW]
    bias,  # [M, V]
    dx,  # [M, N, LDX]
    d_scale,  # [M, PARTS, D]
    d_shift,  # [M, PARTS, D]
    d_weight,  # [M, PARTS, V, LDW]
    d_bias,  # [M, PARTS, V]
    losses,  # [M, PARTS]
    live,  # [M]
    N: tl.constexpr,
    B: tl.constexpr,
    T: tl.constexpr,
    D: tl.constexpr,
    V: tl.constexpr,
    P: tl.constexpr,
    PARTS: tl.constexpr,
    SHARE: tl.constexpr,
    LDX: tl.constexpr,
    LDW: tl.constexpr,
    EACH: tl.constexpr,
    ALL: tl.constexpr,
    NORM: tl.constexpr,
    BIAS: tl.constexpr,
    EPSILON: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,
    TALL: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    part = tl.program_id(0)
    first = (m * PARTS + part) * P
    clear(d_weight + first, V * LDW, 1024)
    if BIAS:
        clear(d_bias + first, V, TALL)
    if NORM:
        clear(d_scale + first, D, 128)
        clear(d_shift + first, D, 128)
    column = tl.arange(0, TALL)[None, :]
    loss = tl.zeros((ROWS,), tl.float32)
    x += m * N * LDX
    dx += m * N * LDX
    for start in range(0, SHARE, ROWS):
        # Another thread of this program may have written what this one now adds to.
        tl.debug_barrier()
        nothing = anew(live + m)
        base, here = first + nothing, m * P + nothing
        n = part * SHARE + start + tl.arange(0, ROWS)
        inside = n < N
        mean = tl.zeros((ROWS,), tl.float32)
        rate = mean
        if NORM:
            mean, rate = statistics(x, n, inside, LDX, D, WIDE, EPSILON)
        # not known beforehand, so that the chunks' loops are not unrolled
        stop = D + nothing if D > WIDE else D
        logits = tl.zeros((ROWS, TALL), tl.float32)
        for c in range(0, stop, WIDE):
            h = normed(x, n, inside, c, mean, rate, scale + here, shift + here, LDX, D, WIDE, NORM)
            w = matrix(weight + here, 0, c, V, D, LDW, TALL, WIDE)
            logits += product(h, tl.trans(w), PRECISION)
        if BIAS:
            logits += vector(bias + here, 0, V, TALL)
        answer = answers(tokens + m * B * T, targets + m * B, n, inside, T, ALL)
        value, gradient = loss_rows(logits, column < V, answer, column)
        loss += tl.where(inside, value, 0.0) * EACH
        gradient = tl.where(inside[:, None], gradient * EACH, 0.0)
        if BIAS:
            add_sums(d_bias + base, gradient, 0, V, TALL)
        for c in range(0, stop, WIDE):
            h = normed(x, n, inside, c, mean, rate, scale + here, shift + here, LDX, D, WIDE, NORM)
            dw = product(tl.trans(gradient), h, PRECISION)
            add_matrix(d_weight + base, dw, 0, c, V, D, LDW, TALL, WIDE)
            w = matrix(weight + here, 0, c, V, D, LDW, TALL, WIDE)
            dh = product(gradient, w, PRECISION)
            put_rows(dx, dh, n, inside, c, False, LDX, D, WIDE)
        if NORM:
            tl.debug_barrier()
            norm_through(
                dx, x, n, inside, mean, rate, scale + here, d_scale + base, d_shift + base,
                LDX, D, WIDE,
            )  # fmt: skip
    tl.store(losses + m * PARTS + part, tl.sum(loss, axis=0))


def head(
    x: Rows,
    tokens: torch.Tensor,
    targets: torch.Tensor,
    params: dict[str, torch.Tensor | None],
    dx: Rows,
    gradients: dict[str, torch.Tensor | None],
    losses: torch.Tensor,
    live: torch.Tensor,
    *,
    vocabulary: int,
    ld: int,
    epsilon: float,
    precision: str,
) -> Launch:
    """params: views "weight", "bias", "scale", "shift" (None: not there); gradients likewise."""
    weight, d_weight = params["weight"], gradients["weight"]
    assert weight is not None
    assert d_weight is not None
    parts, rows = d_weight.shape[1], 16
    pointers = {"x": x.pointer, "tokens": tokens, "targets": targets, "dx": dx.pointer}
    for name in ("scale", "shift", "weight", "bias"):
        given, wanted = params[name], gradients[name]
        pointers[name] = weight if given is None else given
        pointers[f"d_{name}"] = d_weight if wanted is None else wanted
    constants = {
        "N": x.count,
        "B": tokens.shape[1],
        "T": tokens.shape[2],
        "D": x.width,
        "V": vocabulary,
        "P": weight.stride(0),
        "PARTS": parts,
        "SHARE": triton.cdiv(x.count, rows * parts) * rows,
        "LDX": x.ld,
        "LDW": ld,
        "EACH": 1.0 / x.count,
        "ALL": x.each > 1,
        "NORM": params["scale"] is not None,
        "BIAS": params["bias"] is not None,
        "EPSILON": epsilon,
        "PRECISION": LINEAR[precision],
        "ROWS": rows,
        "WIDE": min(16 if precision == "fp32" else 32, power(x.width)),
        "TALL": power(vocabulary),
    }
    pointers |= {"losses": losses, "live": live}
    return Launch(_head, (parts, len(live)), pointers, constants, roomy(8))
