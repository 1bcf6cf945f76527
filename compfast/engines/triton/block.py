"""A whole transformer layer in one kernel forward and two backward, for narrow members.

X [M, B T, D] -> Y [M, N, D] with N = B T, or B where only each sequence's last row is asked.
    pre:  S = X + attention(norm1(X)),         Y = S + ffn(norm2(S))
    post: S = X + attention(X), U = norm1(S),  R = U + ffn(U), Y = norm2(R)
One program has a group of whole sequences (as in attention.py) and walks heads, columns of the FFN
and, for wide members, chunks of columns of X with the weights that belong to them. Forward
(block_forward.py) leaves S (and R), from which backward (block_backward.py) computes the rest anew.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton

from compfast.engines.flat import pad
from compfast.engines.triton.attention import group_of
from compfast.engines.triton.block_backward import attention_backward, ffn_backward
from compfast.engines.triton.block_forward import layer_forward
from compfast.engines.triton.common import ATTENTION, LINEAR, power
from compfast.engines.triton.launch import Launch, Rows, roomy

# Rows of a tile. Backward holds about ten such tiles at once.
_ROWS, _BACK_ROWS = 32, 16
_CHUNK = 32  # columns of X held at a time
WIDEST = 128  # of D
WIDEST_HEAD = 64  # of d_k and d_v
LONGEST = _BACK_ROWS  # positions; a tile holds whole sequences


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
        # fp32 products keep whole operands in registers: more threads share them, and chunks are
        # half as wide in attention's backward, which has most of them
        exact = precision == "fp32"
        self.back = roomy(8 if exact else 4)
        # where a head is padded, the ceiling of `roomy` makes ptxas spill what it keeps without it
        padded = any(size != triton.next_power_of_2(size) for size in (model.d_k, model.d_v))
        free = {name: value for name, value in self.back.items() if name != "maxnreg"}
        self.below = free if exact and padded else self.back
        self.narrower = {"WIDE": 16} if exact and model.d_model > _CHUNK else {}
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
            "WIDE": min(_CHUNK, power(model.d_model)),
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
            "weights": params,
            "s": s.pointer,
            "r": r.pointer,
            "y": y.pointer,
            "live": live,
        }
        groups = self._groups(_ROWS)
        constants = {**self.constants, **groups, "SEQUENCES": sequences, "P": params.stride(0)}
        grid = (triton.cdiv(sequences, groups["G"]), len(live))
        return _launch(layer_forward, grid, pointers, constants, roomy(8))

    def backward(
        self,
        x: Rows,
        params: torch.Tensor,
        s: Rows,
        r: Rows,
        dy: Rows,
        dx: Rows,
        scratch: Rows,
        gradients: torch.Tensor,
        live: torch.Tensor,
    ) -> tuple[Launch, Launch]:
        """In this order; d loss/dS takes the place of dY between them."""
        sequences, parts = x.count // x.each, gradients.shape[1]
        both = {"weights": params, "grads": gradients, "live": live}
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
            **self.narrower,
            **groups,
            "SEQUENCES": sequences,
            "SHARE": triton.cdiv(sequences, groups["G"] * parts),
        }
        return (
            _launch(
                ffn_backward,
                (parts, len(live)),
                {"s": s.pointer, "r": r.pointer, "dy": dy.pointer, "dh": scratch.pointer, **both},
                above,
                self.back,
            ),
            _launch(
                attention_backward,
                (parts, len(live)),
                {"x": x.pointer, "ds": dy.pointer, "dx": dx.pointer, **both},
                below,
                self.below,
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
