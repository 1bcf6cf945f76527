"""The Triton kernels as the ops of tests/op_cases.py: launches on padded buffers, more cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import op_cases
import quick_interpreter  # noqa: F401
import torch
from op_cases import Case, Tensors
from torch import Tensor

from compfast.engines.triton import (
    attention,
    attention_bias,
    attention_tiled,
    cross_entropy,
    embedding,
    layer_norm,
    linear,
)
from compfast.engines.triton.launch import Launch, Rows

Run = Callable[[Tensors, Tensor], Tensors]

PARTS = 3


@dataclass(frozen=True)
class Kernel:
    case: Case
    run: Run  # (inputs, dy) -> the output and every gradient


def buffer(m: int, rows: int, width: int, each: int = 1, *, column: int = 0) -> Rows:
    """NaN everywhere, with room on both sides."""
    return Rows(torch.full((m, rows, column + width + 3), torch.nan), width, each, column)


def filled(value: Tensor, each: int = 1, *, column: int = 0) -> Rows:
    """[M, N, D] in a buffer of NaN."""
    rows = buffer(*value.shape, each, column=column)  # type: ignore[misc]
    inside(rows)[:] = value
    return rows


def inside(rows: Rows) -> Tensor:
    return rows.tensor[:, :, rows.column : rows.column + rows.width]


def flat(*tensors: Tensor) -> tuple[Tensor, list[Tensor], int]:
    """([M, P], views where each [M, ...] tensor begins, ld): rows padded to 16 with zeros."""
    members, ld, pieces = len(tensors[0]), -(-tensors[0].shape[-1] // 16) * 16, []
    for tensor in tensors:
        if tensor.ndim == 3:
            tensor = torch.nn.functional.pad(tensor, (0, ld - tensor.shape[-1]))
        pieces.append(tensor.reshape(members, -1))
    whole = torch.cat(pieces, 1).contiguous()
    starts = [sum(p.shape[1] for p in pieces[:i]) for i in range(len(pieces))]
    return whole, [whole[:, start:] for start in starts], ld


def gradients(whole: Tensor, views: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """NaN partial sums [M, PARTS, P] for a flat vector and its views."""
    partial = torch.full((whole.shape[0], PARTS, whole.shape[1]), torch.nan)
    starts = [view.storage_offset() for view in views]
    return partial, [partial[:, :, start:] for start in starts]


def taken(partial: Tensor, start: Tensor, shape: torch.Size, ld: int) -> Tensor:
    """A tensor's gradient: the parts' sum, without the padding, which must be zero."""
    offset = start.storage_offset()
    if len(shape) == 2:
        return partial[:, :, offset : offset + shape[1]].sum(1)
    rows = partial[:, :, offset : offset + shape[1] * ld].sum(1).reshape(*shape[:2], ld)
    assert not rows[..., shape[2] :].nan_to_num().any()
    return rows[..., : shape[2]]


def live(m: int) -> Tensor:
    return torch.ones(m, dtype=torch.int32)


def run(*launches: Launch) -> None:
    for launch in launches:
        launch.run()


def linear_kernel(activation: str, residual: bool = False, precision: str = "fp32") -> Run:
    def kernel(t: Tensors, dy: Tensor) -> Tensors:
        x, weight, bias = t["x"], t["weight"], t.get("bias")
        m, n, _ = x.shape
        d_out = weight.shape[1]
        given = [weight] if bias is None else [weight, bias]
        whole, (w, *b), ld = flat(*given)
        partial, (dw, *db) = gradients(whole, [w, *b])
        xs, y = filled(x, column=5), buffer(m, n, d_out, column=2)
        slope = None if activation == "none" else buffer(m, n, d_out, column=2)
        extra = filled(torch.full((m, n, d_out), 0.5)) if residual else None
        on = live(m)
        how: Any = {"ld": ld, "precision": precision}
        first = linear.forward(
            xs, w, b[0] if b else None, extra, y, slope, on, activation=activation, **how
        )
        run(first)
        dz = filled(dy if slope is None else dy * inside(slope), column=1)
        dx = buffer(m, n, x.shape[2], column=5)
        run(
            linear.weight_gradient(dz, xs, dw, db[0] if db else None, on, add=False, **how),
            linear.input_gradient(dz, w, dx, None, on, add=False, **how),
        )
        found = {"out": inside(y), "x": inside(dx), "weight": taken(partial, w, weight.shape, ld)}
        if bias is not None:
            found["bias"] = taken(partial, b[0], bias.shape, ld)
        return found

    return kernel


def norm_kernel(t: Tensors, dy: Tensor) -> Tensors:
    whole, (scale, shift), _ = flat(t["weight"], t["bias"])
    partial, (d_scale, d_shift) = gradients(whole, [scale, shift])
    x, y, on = filled(t["x"], column=2), buffer(*dy.shape), live(len(dy))
    dx = buffer(*dy.shape, column=2)
    run(
        layer_norm.forward(x, scale, shift, y, on, epsilon=1e-5),
        layer_norm.backward(
            filled(dy), x, scale, dx, d_scale, d_shift, on, epsilon=1e-5, add=False
        ),
    )
    shape = t["weight"].shape
    return {
        "out": inside(y),
        "x": inside(dx),
        "weight": taken(partial, scale, shape, 0),
        "bias": taken(partial, shift, shape, 0),
    }


def attention_kernel(causal: bool, last: bool = False, *, tiled: bool = False) -> Run:
    """With a bias of relative positions where the case has one."""

    def kernel(t: Tensors, dy: Tensor) -> Tensors:
        m, b, length, heads, _ = t["k"].shape
        each = 1 if last else length

        def rows(value: Tensor, each: int, column: int) -> Rows:
            return filled(value.reshape(m, b * each, -1), each, column=column)

        q, k, v = rows(t["q"], each, 3), rows(t["k"], length, 0), rows(t["v"], length, 7)
        o, do = buffer(m, b * each, v.width, each), rows(dy, each, 1)
        dq, dk, dv = (buffer(m, x.count, x.width, x.each, column=x.column) for x in (q, k, v))
        how: Any = {"heads": heads, "causal": causal, "precision": "fp32"}
        found = {}
        if tiled:
            sums = buffer(m, b * each, heads, each)
            run(
                attention_tiled.forward(q, k, v, o, sums, live(m), **how),
                *attention_tiled.backward(do, o, sums, q, k, v, dq, dk, dv, live(m), **how),
            )
        else:
            bias = None
            if "bias" in t:
                bias = t["bias"].reshape(m, -1).contiguous()
                d_bias = torch.full((m, PARTS, bias.shape[1]), torch.nan)
                run(
                    attention_bias.bias_gradient(do, q, k, v, bias, d_bias, live(m), **how),
                )
                found["bias"] = d_bias.sum(1).reshape(t["bias"].shape)
            run(
                attention.forward(q, k, v, o, live(m), bias=bias, **how),
                attention.backward(do, q, k, v, dq, dk, dv, live(m), bias=bias, **how),
            )
        found["out"] = inside(o).reshape(dy.shape)
        for name, rows_ in (("q", dq), ("k", dk), ("v", dv)):
            found[name] = inside(rows_).reshape(t[name].shape)
        return found

    return kernel


def embedding_kernel(t: Tensors, dy: Tensor) -> Tensors:
    m, b, length, d = dy.shape
    tokens = embedding_tokens(t, dy)
    whole, (token, position), ld = flat(t["token"], t["position"])
    partial, (d_token, d_position) = gradients(whole, [token, position])
    x, on = buffer(m, b * length, d, length, column=1), live(m)
    run(
        embedding.forward(tokens, token, position, x, on, ld=ld),
        embedding.backward(
            tokens,
            filled(dy.reshape(m, -1, d), length),
            d_token,
            d_position,
            on,
            vocabulary=t["token"].shape[1],
            positions=t["position"].shape[1],
            ld=ld,
            add=False,
            precision="fp32",
        ),
    )
    return {
        "out": inside(x).reshape(dy.shape),
        "token": taken(partial, token, t["token"].shape, ld),
        "position": taken(partial, position, t["position"].shape, ld),
    }


def embedding_tokens(t: Tensors, dy: Tensor) -> Tensor:
    """The tokens that test_ops draws for its case of these sizes."""
    shape, vocabulary = EMBEDDINGS[dy.shape[1:]], t["token"].shape[1]
    drawn = torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(2))
    return drawn[: len(dy)].int().contiguous()


def loss_kernel(t: Tensors, dy: Tensor) -> Tensors:
    logits = t["logits"]
    m, n, vocabulary = logits.shape
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(vocabulary, (LOSSES[n, vocabulary], n), generator=generator)[:m].int()
    rows, d_rows = filled(logits), buffer(m, n, vocabulary)
    losses = torch.full((m, cross_entropy.programs(rows)), torch.nan)
    tokens = torch.zeros((m, n, 1), dtype=torch.int32)
    run(
        cross_entropy.loss_and_gradient(rows, tokens, targets.contiguous(), d_rows, losses, live(m))
    )
    return {"out": losses.sum(1), "logits": inside(d_rows) * dy[:, None, None]}


EMBEDDINGS = {torch.Size([4, 9, 32]): (3, 4, 9), torch.Size([3, 5, 13]): (1, 3, 5)}


LOSSES = {(13, 101): 3, (4, 32): 1}


def last_query_case(m: int, b: int, t: int, h: int, k: int, k_v: int) -> Case:
    """The attention case with one query a sequence, which sees every key."""
    whole = op_cases.attention_case(m, b, t, h, k, k_v, causal=False)

    def inputs(g: torch.Generator) -> Tensors:
        made = whole.inputs(g)
        return {**made, "q": made["q"][:, :, :1].contiguous()}

    def run(impl: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return whole.run(impl, q=q.expand(-1, -1, t, -1, -1), k=k, v=v)[:, :, :1]

    def bands(dy: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensors:
        # the first of t equal queries, which alone has a gradient
        only = torch.zeros(m, b, t, h, k_v, dtype=dy.dtype)
        only[:, :, :1] = dy
        found = whole.bands(only, q.expand(-1, -1, t, -1, -1), k, v)
        return {**found, "out": found["out"][:, :, :1], "q": found["q"][:, :, :1]}

    return Case(run, inputs, bands)


def bias_case(m: int, b: int, t: int, h: int, k: int, k_v: int, *, last: bool = False) -> Case:
    """Causal attention with a bias [m, h, 2 t - 1] of relative positions, or its last query's."""
    each, i = (1, torch.tensor([t - 1])) if last else (t, torch.arange(t))
    apart = torch.arange(t)[None, :] - i[:, None] + t - 1  # [each, t]

    def inputs(g: torch.Generator) -> Tensors:
        return {
            "q": op_cases.normal(g, m, b, each, h, k),
            "k": op_cases.normal(g, m, b, t, h, k),
            "v": op_cases.normal(g, m, b, t, h, k_v),
            "bias": op_cases.normal(g, m, h, 2 * t - 1),
        }

    def weights(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
        scores = q.transpose(2, 3) @ k.transpose(2, 3).mT * q.shape[-1] ** -0.5
        scores = scores + bias[:, None, :, apart]  # [M, B, H, each, T]
        hidden: Tensor = scores.masked_fill(apart > t - 1, -torch.inf)
        return hidden.softmax(-1)

    def run(impl: str, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return (weights(q, k, bias) @ v.transpose(2, 3)).transpose(2, 3)

    def bands(dy: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensors:
        p = weights(q, k, bias)
        q, k, v, dy = (x.abs().transpose(2, 3) for x in (q, k, v, dy))
        dp = dy @ v.mT
        ds = p * (dp + (p * dp).sum(-1, keepdim=True))
        scaled = ds * q.shape[-1] ** -0.5
        found = {"out": p @ v, "q": scaled @ k, "k": scaled.mT @ q, "v": p.mT @ dy}
        summed = torch.zeros_like(bias)
        flat_ds = ds.sum(1).flatten(2)  # [M, H, each T]
        summed.index_add_(2, apart.flatten(), flat_ds)
        return {**{name: value.transpose(2, 3) for name, value in found.items()}, "bias": summed}

    return Case(run, inputs, bands)


def long_case() -> Case:
    return op_cases.attention_case(1, 1, 100, 1, 8, 8, causal=True)


CASES = op_cases.CASES


KERNELS = {
    "linear": Kernel(CASES["linear"], linear_kernel("none")),
    "linear_odd": Kernel(CASES["linear_odd"], linear_kernel("gelu")),
    "linear_one_member": Kernel(CASES["linear_one_member"], linear_kernel("gelu_tanh")),
    "linear_relu_one_column": Kernel(CASES["linear_relu_one_column"], linear_kernel("relu")),
    "linear_many_tiles": Kernel(
        op_cases.linear_case(2, 200, 70, 72, "none", bias=True), linear_kernel("none")
    ),
    "layer_norm": Kernel(CASES["layer_norm"], norm_kernel),
    "layer_norm_odd": Kernel(CASES["layer_norm_odd"], norm_kernel),
    "layer_norm_one_member": Kernel(CASES["layer_norm_one_member"], norm_kernel),
    "layer_norm_many_rows": Kernel(op_cases.norm_case(2, 300, 24), norm_kernel),
    "attention": Kernel(CASES["attention"], attention_kernel(True)),
    "attention_odd": Kernel(CASES["attention_odd"], attention_kernel(True)),
    "attention_all_seen": Kernel(CASES["attention_all_seen"], attention_kernel(False)),
    "attention_one_position": Kernel(CASES["attention_one_position"], attention_kernel(True)),
    "attention_long": Kernel(long_case(), attention_kernel(True)),
    "attention_last_query": Kernel(
        last_query_case(3, 9, 9, 2, 40, 7), attention_kernel(True, True)
    ),
    "attention_bias": Kernel(bias_case(2, 9, 9, 2, 5, 6), attention_kernel(True)),
    "attention_bias_last_query": Kernel(
        bias_case(2, 9, 9, 2, 5, 6, last=True), attention_kernel(True, True)
    ),
    "attention_bias_query_tiles": Kernel(bias_case(1, 2, 70, 2, 5, 6), attention_kernel(True)),
    "attention_tiled": Kernel(
        op_cases.attention_case(1, 2, 131, 2, 5, 70, causal=True),
        attention_kernel(True, tiled=True),
    ),
    "attention_tiled_all_seen": Kernel(
        op_cases.attention_case(2, 1, 70, 1, 40, 3, causal=False),
        attention_kernel(False, tiled=True),
    ),
    "attention_tiled_last_query": Kernel(
        last_query_case(2, 3, 140, 2, 6, 7), attention_kernel(True, True, tiled=True)
    ),
    "cross_entropy": Kernel(CASES["cross_entropy"], loss_kernel),
    "cross_entropy_whole_vectors": Kernel(CASES["cross_entropy_whole_vectors"], loss_kernel),
    "embedding": Kernel(CASES["embedding"], embedding_kernel),
    "embedding_odd": Kernel(CASES["embedding_odd"], embedding_kernel),
}
