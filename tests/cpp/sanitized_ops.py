"""Every single operation on tensors of exactly their size: a kernel that reads or writes past one
is found by AddressSanitizer. Run by sanitized_step.py.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
WIDTHS = (1, 5, 16, 31, 48)


def addresses(*arrays: Array | None) -> list[int]:
    return [0 if array is None else array.ctypes.data for array in arrays]


def normal(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def room(*shape: int) -> Array:
    return np.full(shape, np.nan, np.float32)


def whole(*arrays: Array) -> None:
    for array in arrays:
        assert np.isfinite(array).all()


def linear(native: Any, m: int, rows: int, d_in: int, d_out: int, bf16: bool) -> None:
    activation = d_in % 4
    x, w, b = normal(m, rows, d_in), normal(m, d_out, d_in), normal(m, d_out)
    y, slope = room(m, rows, d_out), room(m, rows, d_out) if activation else None
    sizes = (m, rows, d_in, d_out, activation, bf16, 2)
    native.linear_forward(*sizes, *addresses(x, w, b, y, slope))
    dx, dw, db = room(*x.shape), room(*w.shape), room(*b.shape)
    dy = normal(*y.shape)
    native.linear_backward(*sizes, *addresses(x, w, slope, dy, dx, dw, db))
    whole(y, dx, dw, db)


def norm(native: Any, m: int, rows: int, d: int) -> None:
    x, g, b = normal(m, rows, d), normal(m, d), normal(m, d)
    y, saved = room(m, rows, d), room(m, rows, 2)
    native.norm_forward(m, rows, d, 1e-5, 2, *addresses(x, g, b, y, saved))
    dx, dg, db, dy = room(m, rows, d), room(m, d), room(m, d), normal(m, rows, d)
    native.norm_backward(m, rows, d, 2, *addresses(x, g, dy, saved, dx, dg, db))
    whole(y, dx, dg, db)


def attention(native: Any, m: int, positions: int, heads: int, d_k: int, d_v: int) -> None:
    sizes = (m, 2, positions, heads, d_k, d_v, True, 2)
    q, k = normal(m, 2, positions, heads, d_k), normal(m, 2, positions, heads, d_k)
    v, o = normal(m, 2, positions, heads, d_v), room(m, 2, positions, heads, d_v)
    saved = room(m, 2, heads, positions, 16 if positions <= 16 else 2)
    native.attention_forward(*sizes, *addresses(q, k, v, o, saved))
    dq, dk, dv = room(*q.shape), room(*k.shape), room(*v.shape)
    d_o = normal(*o.shape)
    native.attention_backward(*sizes, *addresses(q, k, v, o, saved, d_o, dq, dk, dv))
    whole(o, dq, dk, dv)


def mixed(
    native: Any, m: int, queries: int, positions: int, heads: int, d_k: int, d_v: int
) -> None:
    q, k = normal(m, 2, queries, heads, d_k), normal(m, 2, positions, heads, d_k)
    v, o = normal(m, 2, positions, heads, d_v), room(m, 2, queries, heads, d_v)
    bias, keep = normal(m, heads, 2 * positions - 1), normal(m, queries, positions)
    deep, d_o = normal(m, heads, d_v, d_v), normal(*o.shape)
    for weights, path in itertools.product(range(3), range(4)):
        more = (bias, keep) if (weights + path) % 2 else (None, None)
        given = addresses(q, k, v, *more, deep if path == 3 else None)
        causal = bool(path % 2)
        options = (m, 2, queries, positions, heads, d_k, d_v, causal, weights, path, 1e-6, 2)
        native.mixed_forward(*options, *given, *addresses(o))
        found = [room(*x.shape) for x in (q, k, v, bias, deep)]
        native.mixed_backward(*options, *given, *addresses(d_o, *found))
        whole(o, *found[: 4 if more[0] is not None else 3], *found[4 if path == 3 else 5 :])


def rest(native: Any, m: int, rows: int, width: int) -> None:
    """Cross-entropy, activations, embedding and AdamW."""
    logits, targets = normal(m, rows, width), np.zeros((m, rows), np.int64)
    loss, d_logits = room(m), room(m, rows, width)
    native.cross_entropy(m, rows, width, 2, *addresses(logits, targets, loss, d_logits))
    whole(loss, d_logits)
    for kind in (1, 2, 3):
        y, slope = room(m, rows, width), room(m, rows, width)
        native.activation(m, rows * width, kind, 2, *addresses(logits, y, slope))
        whole(y, slope)
    tokens, table, positions = np.zeros((m, 2, rows), np.int64), normal(m, 3, width), logits
    x = room(m, 2, rows, width)
    sizes = (m, 2, rows, width, 3, rows, 2)
    native.embed_forward(*sizes, *addresses(tokens, table, positions, x))
    d_table, d_positions = room(m, 3, width), room(m, rows, width)
    native.embed_backward(*sizes, *addresses(tokens, x, d_table, d_positions))
    whole(x, d_table, d_positions)
    params, first, second = (np.abs(normal(m, rows, width)) for _ in range(3))
    settings = [np.full(m, value) for value in (1e-3, 0.1, 1.0)]
    step = np.ones(m, np.int64)
    native.adamw(
        m,
        rows * width,
        0.9,
        0.999,
        1e-8,
        2,
        *addresses(logits, params, first, second),
        *addresses(*settings, step),
    )
    native.sgd(m, rows * width, 0.9, True, 2, *addresses(logits, params, first, *settings))
    whole(params, first, second)


def exercise_ops(native: Any) -> None:
    """Every op over widths that are whole vectors and that are not."""
    for members, rows in ((1, 1), (3, 7)):
        for width in WIDTHS:
            for other in WIDTHS:
                linear(native, members, rows, width, other, bf16=False)
                linear(native, members, rows, width, other, bf16=True)
            norm(native, members, rows, width)
            rest(native, members, rows, width)
            for positions in (1, 9, 17):
                attention(native, members, positions, 2, width, 48 - width + 1)
                for queries in {1, min(4, positions), positions}:
                    mixed(native, members, queries, positions, 2, width, 17 - width % 17)
