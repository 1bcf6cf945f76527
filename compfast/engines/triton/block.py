"""A whole transformer layer in one kernel forward and two backward, for narrow members.

X [M, B T, D] -> Y [M, N, D] with N = B T, or B where only each sequence's last row is asked.
    pre:  S = X + attention(norm1(X)),         Y = S + ffn(norm2(S))
    post: S = X + attention(X), U = norm1(S),  R = U + ffn(U), Y = norm2(R)
One program holds a group of whole sequences (as in attention.py) in registers and walks heads and
FFN columns. Forward leaves S (and R), from which backward computes the rest anew; see
block_backward.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from compfast.engines.layout import pad
from compfast.engines.triton.attention import group_of, sight, softmax_rows
from compfast.engines.triton.block_backward import attention_backward, ffn_backward
from compfast.engines.triton.common import ATTENTION, LINEAR, activated, power, product
from compfast.engines.triton.launch import Launch, Rows
from compfast.engines.triton.tiles import (
    matrix,
    put_rows,
    rows_of,
    scaled_normal,
    vector,
)

_OPTIONS = {"enable_fp_fusion": True, "num_warps": 8, "num_stages": 1}
# Rows of a tile. Backward holds about ten such tiles at once; with 32 rows it spills.
_ROWS, _BACK_ROWS = 32, 16
WIDEST = 32  # of D, d_k and d_v
LONGEST = _BACK_ROWS  # positions; a tile holds whole sequences


@triton.jit
def _forward(
    x,  # [M, B T, LDX]
    params,  # [M, P] from the layer's first tensor on
    s,  # [M, N, LDX]
    r,  # [M, N, LDX]; post-norm
    y,  # [M, N, LDX]
    live,  # [M]
    SEQUENCES: tl.constexpr, T: tl.constexpr, G: tl.constexpr, P: tl.constexpr,
    D: tl.constexpr, H: tl.constexpr, D_K: tl.constexpr, D_V: tl.constexpr, FF: tl.constexpr,
    LDX: tl.constexpr, LDD: tl.constexpr, LDO: tl.constexpr, LDF: tl.constexpr,
    SCALE1: tl.constexpr, SHIFT1: tl.constexpr, SCALE2: tl.constexpr, SHIFT2: tl.constexpr,
    WQ: tl.constexpr, WK: tl.constexpr, WV: tl.constexpr, WO: tl.constexpr,
    BQ: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BO: tl.constexpr,
    WU: tl.constexpr, WD: tl.constexpr, BU: tl.constexpr, BD: tl.constexpr,
    SOFTEN: tl.constexpr, EPSILON: tl.constexpr, PRE: tl.constexpr, LAST: tl.constexpr,
    CAUSAL: tl.constexpr, BIASES: tl.constexpr, FFN_BIASES: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, INNER_PRECISION: tl.constexpr,
    Q_ROWS: tl.constexpr, K_ROWS: tl.constexpr, WIDE: tl.constexpr, WIDE_K: tl.constexpr,
    WIDE_V: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    group = tl.program_id(0)
    i, j = tl.arange(0, Q_ROWS), tl.arange(0, K_ROWS)
    each: tl.constexpr = 1 if LAST else T
    q_at, k_at = group * G * each + i, group * G * T + j
    q_in = (i < G * each) & (q_at < SEQUENCES * each)
    k_in = (j < G * T) & (k_at < SEQUENCES * T)
    x += m * SEQUENCES * T * LDX
    params += m * P
    out = m * SEQUENCES * each * LDX

    keyed = rows_of(x, k_at, k_in, LDX, D, WIDE)
    asking = keyed
    if LAST:
        asking = rows_of(x, q_at * T + T - 1, q_in, LDX, D, WIDE)
    total = asking
    if PRE:
        keyed, _normal, _rate = scaled_normal(
            keyed, params + SCALE1, params + SHIFT1, D, WIDE, EPSILON
        )
        if LAST:
            asking, _normal, _rate = scaled_normal(
                asking, params + SCALE1, params + SHIFT1, D, WIDE, EPSILON
            )
        else:
            asking = keyed
    seen = sight(i[:, None], j[None, :], LAST, T, G, CAUSAL)
    if BIASES:
        total += vector(params + BO, D, WIDE)
    for head in range(H):
        row = params + head * D_K * LDD
        q = product(asking, tl.trans(matrix(row + WQ, D_K, D, LDD, WIDE_K, WIDE)), PRECISION)
        k = product(keyed, tl.trans(matrix(row + WK, D_K, D, LDD, WIDE_K, WIDE)), PRECISION)
        row = params + head * D_V * LDD
        v = product(keyed, tl.trans(matrix(row + WV, D_V, D, LDD, WIDE_V, WIDE)), PRECISION)
        if BIASES:
            q += vector(params + BQ + head * D_K, D_K, WIDE_K)
            k += vector(params + BK + head * D_K, D_K, WIDE_K)
            v += vector(params + BV + head * D_V, D_V, WIDE_V)
        weight = softmax_rows(product(q, tl.trans(k), INNER_PRECISION) * SOFTEN, seen)
        mixed = product(weight, v, INNER_PRECISION)
        w = matrix(params + WO + head * D_V, D, D_V, LDO, WIDE, WIDE_V)
        total += product(mixed, tl.trans(w), PRECISION)
    put_rows(s + out, total, q_at, q_in, LDX, D, WIDE, False)

    if PRE:
        h, _normal, _rate = scaled_normal(total, params + SCALE2, params + SHIFT2, D, WIDE, EPSILON)
    else:
        h, _normal, _rate = scaled_normal(total, params + SCALE1, params + SHIFT1, D, WIDE, EPSILON)
        total = h
    if FFN_BIASES:
        total += vector(params + BD, D, WIDE)
    for start in range(0, FF, COLUMNS):
        c = start + tl.arange(0, COLUMNS)
        d = tl.arange(0, WIDE)
        at = params + WU + c[:, None] * LDD + d[None, :]
        w = tl.load(at, mask=(c < FF)[:, None] & (d < D)[None, :], other=0.0)
        up = product(h, tl.trans(w), PRECISION)
        if FFN_BIASES:
            up += tl.load(params + BU + c, mask=c < FF, other=0.0)[None, :]
        up, _slope = activated(up, ACTIVATION)
        at = params + WD + d[:, None] * LDF + c[None, :]
        w = tl.load(at, mask=(d < D)[:, None] & (c < FF)[None, :], other=0.0)
        total += product(up, tl.trans(w), PRECISION)
    if not PRE:
        put_rows(r + out, total, q_at, q_in, LDX, D, WIDE, False)
        total, _normal, _rate = scaled_normal(
            total, params + SCALE2, params + SHIFT2, D, WIDE, EPSILON
        )
    put_rows(y + out, total, q_at, q_in, LDX, D, WIDE, False)


class Layer:
    """Sizes and places of one layer's tensors; `params` and `gradients` begin at its first one.

    `offsets`: tensor name without the layer's prefix -> offset from there.
    """

    def __init__(
        self,
        model: Any,
        offsets: dict[str, int],
        size: int,
        length: int,
        *,
        last: bool,
        precision: str,
    ) -> None:
        # the tensors of the FFN half, and its norms, lie behind those of the attention half
        self.size = size
        self.split = offsets["norm2.weight" if model.norm == "pre" else "norm1.weight"]
        self.length, self.last = length, last
        # fp32 products keep whole operands in registers, which more threads share
        self.back = {**_OPTIONS, "num_warps": 8 if precision == "fp32" else 4}
        heads, d_k, d_v, ff = model.heads, model.d_k, model.d_v, model.d_ff
        self.constants: dict[str, Any] = {
            "T": length,
            "D": model.d_model,
            "H": heads,
            "D_K": d_k,
            "D_V": d_v,
            "FF": ff,
            "LDX": pad(model.d_model),
            "LDD": pad(model.d_model),
            "LDO": pad(heads * d_v),
            "LDF": pad(ff),
            **{key: offsets.get(name, 0) for key, name in _PLACES.items()},
            "SOFTEN": 1.0 / math.sqrt(d_k),
            "EPSILON": model.norm_eps,
            "PRE": model.norm == "pre",
            "LAST": last,
            "CAUSAL": model.causal,
            "BIASES": model.attention_bias,
            "FFN_BIASES": model.ffn_bias,
            "ACTIVATION": model.activation,
            "PRECISION": LINEAR[precision],
            "INNER_PRECISION": ATTENTION[precision],
            "WIDE": power(model.d_model),
            "WIDE_K": power(d_k),
            "WIDE_V": power(d_v),
            "COLUMNS": min(32, power(ff)),
        }

    def _groups(self, rows: int) -> dict[str, int]:
        group, keys, queries = group_of(self.length, self.last, rows)
        return {"G": group, "K_ROWS": keys, "Q_ROWS": queries}

    def forward(
        self, x: Rows, params: torch.Tensor, s: Rows, r: Rows, y: Rows, live: torch.Tensor
    ) -> Launch:
        sequences = x.count // x.each
        pointers = {
            "x": x.pointer,
            "params": params,
            "s": s.pointer,
            "r": r.pointer,
            "y": y.pointer,
            "live": live,
        }
        groups = self._groups(_ROWS)
        constants = {**self.constants, **groups, "SEQUENCES": sequences, "P": params.stride(0)}
        grid = (triton.cdiv(sequences, groups["G"]), len(live))
        return _launch(_forward, grid, pointers, constants, _OPTIONS)

    def backward(
        self,
        x: Rows,
        params: torch.Tensor,
        s: Rows,
        r: Rows,
        dy: Rows,
        dx: Rows,
        gradients: torch.Tensor,
        live: torch.Tensor,
    ) -> tuple[Launch, Launch]:
        """In this order; d loss/dS takes the place of dY between them."""
        sequences, parts = x.count // x.each, gradients.shape[1]
        both = {"params": params, "grads": gradients, "live": live}
        constants = {**self.constants, "P": params.stride(0), "PARTS": parts, "SPLIT": self.split}
        above = {
            **constants,
            "N": s.count,
            "SIZE": self.size,
            "ROWS": _BACK_ROWS,
            "SHARE": triton.cdiv(s.count, _BACK_ROWS * parts) * _BACK_ROWS,
        }
        groups = self._groups(_BACK_ROWS)
        below = {
            **constants,
            **groups,
            "SEQUENCES": sequences,
            "SHARE": triton.cdiv(sequences, groups["G"] * parts),
        }
        return (
            _launch(
                ffn_backward,
                (parts, len(live)),
                {"s": s.pointer, "r": r.pointer, "dy": dy.pointer, **both},
                above,
                self.back,
            ),
            _launch(
                attention_backward,
                (parts, len(live)),
                {"x": x.pointer, "ds": dy.pointer, "dx": dx.pointer, **both},
                below,
                self.back,
            ),
        )


def _launch(
    kernel: Any,
    grid: tuple[int, ...],
    pointers: dict[str, torch.Tensor],
    constants: dict[str, Any],
    options: dict[str, Any],
) -> Launch:
    """With those of the layer's constants that the kernel takes."""
    wanted = {name: value for name, value in constants.items() if name in kernel.arg_names}
    return Launch(kernel, grid, pointers, wanted, options)


_PLACES = {
    "SCALE1": "norm1.weight",
    "SHIFT1": "norm1.bias",
    "SCALE2": "norm2.weight",
    "SHIFT2": "norm2.bias",
    "WQ": "attention.query.weight",
    "WK": "attention.key.weight",
    "WV": "attention.value.weight",
    "WO": "attention.output.weight",
    "BQ": "attention.query.bias",
    "BK": "attention.key.bias",
    "BV": "attention.value.bias",
    "BO": "attention.output.bias",
    "WU": "ffn.up.weight",
    "WD": "ffn.down.weight",
    "BU": "ffn.up.bias",
    "BD": "ffn.down.bias",
}
