"""The task's vectors as a network reads them that does not see one token: X with zeros there.

x and y [M, N, D], N = B T; token `blank`, counted back from the last, of each sequence is zero.
Where nothing is hidden the task's own tensor is the buffer and nothing is launched.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from compfast.engines.triton.launch import Launch, Rows

_SIZE = 1024


@triton.jit
def _forward(
    x,  # [M, N, LDX]
    y,  # [M, N, LDY]
    live,  # [M]
    COUNT: tl.constexpr,  # N D
    D: tl.constexpr,
    T: tl.constexpr,
    HIDDEN: tl.constexpr,
    SX: tl.constexpr,
    LDX: tl.constexpr,
    SY: tl.constexpr,
    LDY: tl.constexpr,
    SIZE: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    n, d = i // D, i % D
    shown = (i < COUNT) & (n % T != HIDDEN)
    value = tl.load(x + m * SX + n * LDX + d, mask=shown, other=0.0)
    tl.store(y + m * SY + n * LDY + d, value, mask=i < COUNT)


def forward(x: Rows, y: Rows, live: torch.Tensor, *, blank: int) -> Launch:
    count = y.count * y.width
    constants = {
        "COUNT": count,
        "D": y.width,
        "T": y.each,
        "HIDDEN": y.each - 1 - blank,
        "SX": x.stride,
        "LDX": x.ld,
        "SY": y.stride,
        "LDY": y.ld,
        "SIZE": _SIZE,
    }
    pointers = {"x": x.pointer, "y": y.pointer, "live": live}
    return Launch(_forward, (triton.cdiv(count, _SIZE), len(live)), pointers, constants)
