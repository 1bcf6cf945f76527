"""Embedding of every member's tokens, X = token[id] + position[t], and both tables' gradients.

tokens [M, B, T] int32, X [M, B T, D], tables [M, V, LD] and [M, positions, LD]. A table's
gradient is a product with the one-hot matrix of its rows' numbers: sums of a fixed order in
PARTS partial sums, no atomics. Where the token table begins at token `first`, those before it have
no row and add nothing. There may be no position table: X = token[id].
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from compfast.engines.triton.common import ATTENTION, power, product, put
from compfast.engines.triton.launch import Launch, Rows, roomy
from compfast.engines.triton.linear import share


@triton.jit
def gather(
    tokens,  # [B T] of one member, and so are the tables and X
    token,
    position,
    x,
    n,  # [ROWS]
    inside,  # [ROWS]
    T: tl.constexpr,
    D: tl.constexpr,
    STEP: tl.constexpr,
    FIRST: tl.constexpr,
    LD: tl.constexpr,
    LDX: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Rows n of X."""
    d = tl.arange(0, WIDE)[None, :]
    whole = inside[:, None] & (d < D)
    source = n * STEP + FIRST
    ids = tl.load(tokens + source, mask=inside, other=0)
    a = tl.load(token + ids[:, None] * LD + d, mask=whole, other=0.0)
    b = tl.load(position + (source % T)[:, None] * LD + d, mask=whole, other=0.0)
    tl.store(x + n[:, None] * LDX + d, a + b, mask=whole)


@triton.jit
def gather_from(
    tokens, token, position, x, n, inside,
    T: tl.constexpr, D: tl.constexpr, STEP: tl.constexpr, FIRST: tl.constexpr,
    LD: tl.constexpr, LDX: tl.constexpr, WIDE: tl.constexpr, TOKEN: tl.constexpr,
):  # fmt: skip
    """`gather` from a token table whose first row is that of TOKEN."""
    d = tl.arange(0, WIDE)[None, :]
    whole = inside[:, None] & (d < D)
    source = n * STEP + FIRST
    ids = tl.load(tokens + source, mask=inside, other=0) - TOKEN
    known = whole & (ids >= 0)[:, None]
    a = tl.load(token + ids[:, None] * LD + d, mask=known, other=0.0)
    b = tl.load(position + (source % T)[:, None] * LD + d, mask=whole, other=0.0)
    tl.store(x + n[:, None] * LDX + d, a + b, mask=whole)


@triton.jit
def gather_tokens(
    tokens, token, x, n, inside,
    D: tl.constexpr, STEP: tl.constexpr, FIRST: tl.constexpr,
    LD: tl.constexpr, LDX: tl.constexpr, WIDE: tl.constexpr, TOKEN: tl.constexpr,
):  # fmt: skip
    """`gather_from` without a position table."""
    d = tl.arange(0, WIDE)[None, :]
    whole = inside[:, None] & (d < D)
    ids = tl.load(tokens + n * STEP + FIRST, mask=inside, other=0) - TOKEN
    known = whole & (ids >= 0)[:, None]
    a = tl.load(token + ids[:, None] * LD + d, mask=known, other=0.0)
    tl.store(x + n[:, None] * LDX + d, a, mask=whole)


@triton.jit
def _forward(
    tokens,  # [M, B T]
    token,  # [M, V, LD]
    position,  # [M, positions, LD]
    x,  # [M, N, LDX]: the rows n X_STEP + X_FIRST of B T
    live,  # [M]
    N: tl.constexpr,
    T: tl.constexpr,
    D: tl.constexpr,
    STEP: tl.constexpr,
    FIRST: tl.constexpr,
    S_TOKENS: tl.constexpr,
    SP: tl.constexpr,
    LD: tl.constexpr,
    SX: tl.constexpr,
    LDX: tl.constexpr,
    TOKEN: tl.constexpr,
    POSITION: tl.constexpr,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if not POSITION:
        gather_tokens(
            tokens + m * S_TOKENS, token + m * SP, x + m * SX,
            n, n < N, D, STEP, FIRST, LD, LDX, WIDE, TOKEN,
        )  # fmt: skip
    elif TOKEN == 0:
        gather(
            tokens + m * S_TOKENS, token + m * SP, position + m * SP, x + m * SX,
            n, n < N, T, D, STEP, FIRST, LD, LDX, WIDE,
        )  # fmt: skip
    else:
        gather_from(
            tokens + m * S_TOKENS, token + m * SP, position + m * SP, x + m * SX,
            n, n < N, T, D, STEP, FIRST, LD, LDX, WIDE, TOKEN,
        )  # fmt: skip


@triton.jit
def _backward(
    tokens,  # [M, B T]
    dx,  # [M, N, LDX]
    d_token,  # [M, PARTS, V, LD]
    d_position,  # [M, PARTS, positions, LD]
    live,
    N: tl.constexpr,
    SHARE: tl.constexpr,
    T: tl.constexpr,
    D: tl.constexpr,
    V: tl.constexpr,
    POSITIONS: tl.constexpr,
    STEP: tl.constexpr,
    FIRST: tl.constexpr,
    S_TOKENS: tl.constexpr,
    SG: tl.constexpr,
    SP: tl.constexpr,
    LD: tl.constexpr,
    SX: tl.constexpr,
    LDX: tl.constexpr,
    TOKEN: tl.constexpr,
    ADD: tl.constexpr,
    TILES_V: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    m = tl.program_id(2).to(tl.int64)
    if tl.load(live + m) == 0:
        return
    part = tl.program_id(1)
    # the first TILES_V tiles of rows are the token table's, the others the position table's
    columns: tl.constexpr = (LD + COLUMNS - 1) // COLUMNS
    tile, of_tokens = tl.program_id(0) // columns, tl.program_id(0) // columns < TILES_V
    r = tl.where(of_tokens, tile, tile - TILES_V) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(0) % columns * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, SHARE, INNER):
        n = part * SHARE + start + tl.arange(0, INNER)
        source = n * STEP + FIRST
        ids = tl.load(tokens + m * S_TOKENS + source, mask=n < N, other=-1)
        if TOKEN > 0:
            ids -= TOKEN
        ids = tl.where(of_tokens, ids, source % T)
        hot = tl.where(r[:, None] == ids[None, :], 1.0, 0.0)
        inside = (n < N)[:, None] & (d < D)
        g = tl.load(dx + m * SX + n[:, None] * LDX + d, mask=inside, other=0.0)
        total += product(hot, g, PRECISION)
    base = m * SG + part * SP
    at = r[:, None] * LD + d
    inside = (r < tl.where(of_tokens, V, 0))[:, None] & (d < LD)
    put(d_token + base + at, total, inside, ADD)
    inside = (r < tl.where(of_tokens, 0, POSITIONS))[:, None] & (d < LD)
    put(d_position + base + at, total, inside, False)


def forward(
    tokens: torch.Tensor,
    token: torch.Tensor,
    position: torch.Tensor | None,
    x: Rows,
    live: torch.Tensor,
    *,
    ld: int,
    first: int = 0,
) -> Launch:
    """token and position, of which there may be none: views into the flat vectors [M, P]."""
    length = tokens.shape[2]
    step = length // x.each
    wide = power(x.width)
    rows = max(4, min(64, 2048 // wide))
    constants = {
        "N": x.count,
        "T": length,
        "D": x.width,
        "STEP": step,
        "FIRST": step - 1,
        "S_TOKENS": tokens.stride(0),
        "SP": token.stride(0),
        "LD": ld,
        "SX": x.stride,
        "LDX": x.ld,
        "TOKEN": first,
        "POSITION": position is not None,
        "ROWS": rows,
        "WIDE": wide,
    }
    pointers = {
        "tokens": tokens,
        "token": token,
        "position": token if position is None else position,
        "x": x.pointer,
        "live": live,
    }
    return Launch(_forward, (triton.cdiv(x.count, rows), len(live)), pointers, constants)


def backward(
    tokens: torch.Tensor,
    dx: Rows,
    d_token: torch.Tensor,
    d_position: torch.Tensor | None,
    live: torch.Tensor,
    *,
    vocabulary: int,
    positions: int,
    ld: int,
    add: bool,
    precision: str,
    first: int = 0,
) -> Launch:
    """Into views of the partial gradients [M, PARTS, P]; `add`: a tied head came before.

    `positions`: rows of the position table, 0 where there is none.
    """
    length, parts = tokens.shape[2], d_token.shape[1]
    step = length // dx.each
    rows, columns = 64, min(64, power(dx.width))
    tiles = triton.cdiv(vocabulary, rows)
    constants = {
        "N": dx.count,
        "SHARE": share(dx.count, parts),
        "T": length,
        "D": dx.width,
        "V": vocabulary,
        "POSITIONS": positions,
        "STEP": step,
        "FIRST": step - 1,
        "S_TOKENS": tokens.stride(0),
        "SG": d_token.stride(0),
        "SP": d_token.stride(1),
        "LD": ld,
        "SX": dx.stride,
        "LDX": dx.ld,
        "TOKEN": first,
        "ADD": add,
        "TILES_V": tiles,
        "ROWS": rows,
        "COLUMNS": columns,
        "INNER": 32,
        "PRECISION": ATTENTION[precision],
    }
    pointers = {
        "tokens": tokens,
        "dx": dx.pointer,
        "d_token": d_token,
        "d_position": d_token if d_position is None else d_position,
        "live": live,
    }
    grid = (
        (tiles + triton.cdiv(positions, rows)) * triton.cdiv(ld, columns),
        parts,
        len(live),
    )
    return Launch(_backward, grid, pointers, constants, roomy(4))
