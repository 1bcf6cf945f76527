"""Inputs for the single operations: what an op is called with, and its error bands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compfast import ops

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """An op bound to its options; `bands` takes the inputs and dy in float64."""

    run: Callable[..., Tensor]  # (**inputs, impl=) -> [M, ...]
    inputs: Callable[[torch.Generator], Tensors]
    bands: Callable[..., Tensors]  # by input, and "out"
    dtype: torch.dtype = torch.float32  # in whose eps the bands count


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def linear_case(
    m: int, n: int, d_in: int, d_out: int, activation: str, bias: bool, precision: str = "fp32"
) -> Case:
    def inputs(g: torch.Generator) -> Tensors:
        made = {"x": normal(g, m, n, d_in), "weight": normal(g, m, d_out, d_in) * d_in**-0.5}
        return {**made, "bias": normal(g, m, d_out)} if bias else made

    def run(impl: str, **t: Tensor) -> Tensor:
        exact = t["x"].dtype == torch.float64
        own = "fp32" if exact else precision
        return ops.linear(**t, activation=activation, precision=own, impl=impl)

    def bands(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensors:
        z = ops.linear(x, weight, bias, impl="torch").requires_grad_()
        if activation == "none":
            slope = torch.ones_like(z)
        else:
            (slope,) = torch.autograd.grad(ops.activation(z, activation, impl="torch").sum(), z)
        dz = (dy * slope).abs()
        found = {
            "out": ops.linear(
                x.abs(), weight.abs(), None if bias is None else bias.abs(), impl="torch"
            ),
            "x": dz @ weight.abs(),
            "weight": dz.mT @ x.abs(),
        }
        return found if bias is None else {**found, "bias": dz.sum(1)}

    return Case(run, inputs, bands, torch.bfloat16 if precision == "bf16" else torch.float32)


def norm_case(m: int, n: int, d: int) -> Case:
    def inputs(g: torch.Generator) -> Tensors:
        x = normal(g, m, n, d) * 2 + 1
        return {"x": x, "weight": normal(g, m, d), "bias": normal(g, m, d)}

    def run(impl: str, **t: Tensor) -> Tensor:
        return ops.layer_norm(**t, eps=1e-5, impl=impl)

    def bands(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensors:
        rstd = (x.var(-1, keepdim=True, correction=0) + 1e-5).rsqrt()
        xhat = ((x - x.mean(-1, keepdim=True)) * rstd).abs()
        scaled = (dy * weight[:, None]).abs()
        means = scaled.mean(-1, keepdim=True), (scaled * xhat).mean(-1, keepdim=True)
        return {
            "out": xhat * weight.abs()[:, None] + bias.abs()[:, None],
            "x": rstd * (scaled + means[0] + xhat * means[1]),
            "weight": (dy.abs() * xhat).sum(1),
            "bias": dy.abs().sum(1),
        }

    return Case(run, inputs, bands)


def attention_case(m: int, b: int, t: int, h: int, k: int, k_v: int, causal: bool) -> Case:
    def inputs(g: torch.Generator) -> Tensors:
        return {
            "q": normal(g, m, b, t, h, k),
            "k": normal(g, m, b, t, h, k),
            "v": normal(g, m, b, t, h, k_v),
        }

    def run(impl: str, **t: Tensor) -> Tensor:
        return ops.attention(**t, causal=causal, impl=impl)

    def bands(dy: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensors:
        eye = torch.eye(t, dtype=q.dtype).reshape(1, 1, t, 1, t).expand(m, b, t, h, t)
        p = ops.attention(q, k, eye, causal, impl="torch").transpose(2, 3)  # [M, B, H, T, T]
        q, k, v, dy = (x.abs().transpose(2, 3) for x in (q, k, v, dy))
        dp = dy @ v.mT
        ds = p * (dp + (p * dp).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5
        found = {"out": p @ v, "q": ds @ k, "k": ds.mT @ q, "v": p.mT @ dy}
        return {name: value.transpose(2, 3) for name, value in found.items()}

    return Case(run, inputs, bands)


def loss_case(m: int, n: int, vocabulary: int) -> Case:
    targets = torch.randint(vocabulary, (m, n), generator=torch.Generator().manual_seed(1))

    def run(impl: str, logits: Tensor) -> Tensor:
        return ops.cross_entropy(logits, targets[: len(logits)], impl=impl)

    def bands(dy: Tensor, logits: Tensor) -> Tensors:
        chosen = torch.nn.functional.one_hot(targets, vocabulary)
        terms = (logits * chosen).sum(-1).abs() + logits.logsumexp(-1).abs()
        return {
            "out": terms.mean(-1),
            "logits": (logits.softmax(-1) + chosen) / n * dy.abs()[:, None, None],
        }

    return Case(run, lambda g: {"logits": 3 * normal(g, m, n, vocabulary)}, bands)


def activation_case(kind: str, *shape: int) -> Case:
    def run(impl: str, x: Tensor) -> Tensor:
        return ops.activation(x, kind, impl=impl)

    def bands(dy: Tensor, x: Tensor) -> Tensors:
        return {"out": x.abs(), "x": dy.abs()}

    return Case(run, lambda g: {"x": 2 * normal(g, *shape)}, bands)


def embedding_case(m: int, b: int, t: int, vocabulary: int, positions: int, d: int) -> Case:
    tokens = torch.randint(vocabulary, (m, b, t), generator=torch.Generator().manual_seed(2))

    def run(impl: str, token: Tensor, position: Tensor) -> Tensor:
        return ops.embedding(tokens[: len(token)], token, position, impl=impl)

    def bands(dy: Tensor, token: Tensor, position: Tensor) -> Tensors:
        tables = [torch.zeros_like(table, requires_grad=True) for table in (token, position)]
        grads = torch.autograd.grad((run("torch", *tables) * dy.abs()).sum(), tables)
        out = run("torch", token.abs(), position.abs())
        return {"out": out, "token": grads[0], "position": grads[1]}

    def inputs(g: torch.Generator) -> Tensors:
        return {"token": normal(g, m, vocabulary, d), "position": normal(g, m, positions, d)}

    return Case(run, inputs, bands)


CASES = {
    "linear": linear_case(3, 37, 24, 40, "none", bias=True),
    "linear_odd": linear_case(2, 5, 7, 9, "gelu", bias=True),
    "linear_one_member": linear_case(1, 33, 32, 64, "gelu_tanh", bias=False),
    "linear_relu_one_column": linear_case(2, 3, 1, 1, "relu", bias=True),
    "linear_bf16": linear_case(3, 37, 24, 40, "none", bias=True, precision="bf16"),
    "linear_bf16_odd": linear_case(2, 5, 7, 19, "gelu", bias=True, precision="bf16"),
    "linear_bf16_one_member": linear_case(1, 33, 32, 64, "relu", bias=False, precision="bf16"),
    "linear_bf16_one_column": linear_case(2, 1, 1, 1, "relu", bias=True, precision="bf16"),
    "layer_norm": norm_case(3, 11, 32),
    "layer_norm_odd": norm_case(2, 5, 19),
    "layer_norm_one_member": norm_case(1, 1, 130),
    "attention": attention_case(2, 3, 9, 1, 32, 32, causal=True),
    "attention_odd": attention_case(2, 2, 7, 3, 5, 6, causal=True),
    "attention_all_seen": attention_case(1, 2, 19, 2, 16, 3, causal=False),
    "attention_36": attention_case(1, 2, 36, 2, 5, 16, causal=True),
    "attention_128": attention_case(1, 1, 128, 1, 32, 32, causal=False),
    "attention_1024": attention_case(1, 1, 1024, 1, 8, 8, causal=True),
    "attention_narrow_45": attention_case(2, 2, 45, 3, 5, 3, causal=True),
    "attention_narrow_all_seen": attention_case(1, 2, 70, 2, 8, 4, causal=False),
    "attention_narrow_300": attention_case(1, 1, 300, 2, 4, 16, causal=True),
    "attention_narrow_1024": attention_case(1, 1, 1024, 1, 16, 4, causal=True),
    "attention_one_position": attention_case(1, 1, 1, 1, 4, 4, causal=True),
    "cross_entropy": loss_case(3, 13, 101),
    "cross_entropy_whole_vectors": loss_case(1, 4, 32),
    "relu": activation_case("relu", 3, 7, 5),
    "gelu": activation_case("gelu", 1, 333),
    "gelu_tanh": activation_case("gelu_tanh", 2, 64),
    "embedding": embedding_case(3, 4, 9, 21, 9, 32),
    "embedding_odd": embedding_case(1, 3, 5, 7, 6, 13),
}


def draw(case: Case, seed: int = 0) -> tuple[Tensors, Tensor]:
    """The inputs, and a gradient for the output."""
    generator = torch.Generator().manual_seed(seed)
    inputs = case.inputs(generator)
    return inputs, normal(generator, *case.run("torch", **inputs).shape)


def evaluate(case: Case, impl: str, inputs: Tensors, dy: Tensor) -> Tensors:
    """The output and every gradient, by name."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in inputs.items()}
    out = case.run(impl, **leaves)
    grads = torch.autograd.grad(out, list(leaves.values()), dy)
    return {"out": out.detach(), **dict(zip(leaves, grads, strict=True))}


def double(tensors: Tensors) -> Tensors:
    return {name: value.double() for name, value in tensors.items()}


def sgd_arguments(m: int, count: int, seed: int = 0) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    flat = {name: normal(g, m, count) for name in ("params", "grads", "momentum_buffer")}
    each = ("lr", "weight_decay", "clip_scale")
    return {**flat, **{name: torch.rand(m, generator=g).double() for name in each}}


def adamw_arguments(m: int, count: int, seed: int = 0) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    flat = {name: normal(g, m, count) for name in ("params", "grads", "exp_avg")}
    each = {
        "lr": torch.rand(m, generator=g).double() * 0.01,
        "weight_decay": torch.rand(m, generator=g).double(),
        "clip_scale": torch.rand(m, generator=g).double(),
        "step": torch.arange(1, m + 1),
    }
    return {**flat, "exp_avg_sq": normal(g, m, count) ** 2, **each}
