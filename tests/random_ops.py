"""Random calls of the single operations, and what must not change about one member of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from random_tasks import widths
from torch import Tensor

from compfast import ops

Tensors = dict[str, Tensor]
ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh")


@dataclass(frozen=True)
class Call:
    """An op bound to its options: `run` takes tensors [M, ...] and returns tensors [M, ...]."""

    name: str
    run: Callable[[Tensors], Tensors]
    inputs: Tensors
    probe: int
    order: tuple[int, ...]  # members beside the probed one in a second call, it among them
    threads: int


def check_call(call: Call) -> None:
    """Fails unless the probed member's output and gradients are those of a call with it alone."""
    single = _run(call, [call.probe])
    members = len(next(iter(call.inputs.values())))
    for rows in (list(range(members)), list(call.order)):
        place = rows.index(call.probe)
        for poisoned in (False, True):
            among = _run(call, rows, place if poisoned else None, call.threads)
            for name, value in single.items():
                mine = among[name][place : place + 1]
                assert torch.equal(mine, value), f"{call.name}: {name}"


def _run(call: Call, rows: list[int], spared: int | None = None, threads: int = 1) -> Tensors:
    inputs = {name: value[rows].clone() for name, value in call.inputs.items()}
    if spared is not None:
        for value in inputs.values():
            others = [i for i in range(len(rows)) if i != spared]
            if value.is_floating_point() and others:
                value[others] = torch.nan
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return call.run(inputs)
    finally:
        torch.set_num_threads(before)


def _differentiable(op: Callable[..., Tensor]) -> Callable[[Tensors], Tensors]:
    """Output and gradients; `dy` is the gradient that comes from above, [M, ...]."""

    def run(inputs: Tensors) -> Tensors:
        dy = inputs.pop("dy")
        leaves = {n: t.requires_grad_() for n, t in inputs.items() if t.is_floating_point()}
        out = op(**inputs)
        grads = torch.autograd.grad(out, list(leaves.values()), dy)
        return {"out": out.detach(), **dict(zip(leaves, grads, strict=True))}

    return run


def _adamw(inputs: Tensors) -> Tensors:
    ops.adamw(**inputs)  # type: ignore[arg-type]
    return inputs


def _sgd(momentum: float, nesterov: bool) -> Callable[[Tensors], Tensors]:
    def run(inputs: Tensors) -> Tensors:
        options: Any = {"momentum": momentum, "nesterov": nesterov}
        ops.sgd(**inputs, **options)  # type: ignore[arg-type]
        return inputs

    return run


def _mixed(
    draw: Any, normal: Callable[..., Tensor]
) -> tuple[Tensors, Callable[[Tensors], Tensors]]:
    b, t, h = draw(st.integers(1, 3)), draw(st.integers(1, 40)), draw(st.integers(1, 5))
    k, v, asking = draw(widths(1, 19)), draw(widths(1, 19)), draw(st.integers(1, t))
    inputs = {"q": normal(b, asking, h, k), "k": normal(b, t, h, k), "v": normal(b, t, h, v)}
    options: Any = {"causal": draw(st.booleans())}
    options["weights"] = draw(st.sampled_from(("softmax", "linear", "rms_head")))
    options["path"] = draw(st.sampled_from(("none", "linear", "relu", "deep")))
    if draw(st.booleans()):
        inputs["relative"] = normal(h, 2 * t - 1)
    if options["path"] == "deep":
        inputs["deep"] = normal(h, v, v)
    if draw(st.booleans()):
        inputs["keep"] = normal(asking, t) > -1  # no leaf: it takes no gradient
    inputs["dy"] = normal(b, asking, h, v)

    def op(keep: Tensor | None = None, **given: Any) -> Tensor:
        options["keep"] = None if keep is None else keep.float()
        return ops.mixed_attention(**given, **options)

    return inputs, _differentiable(op)


@st.composite
def calls(draw: Any) -> Call:
    size, width = st.integers(1, 19), st.integers(1, 70)
    m = draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(m, *shape, generator=generator)

    def indices(below: int, *shape: int) -> Tensor:
        return torch.randint(below, (m, *shape), generator=generator)

    name = draw(st.sampled_from(NAMES))
    n, d = draw(st.integers(1, 70)), draw(width)
    inputs: Tensors
    if name == "linear":
        out, kind = draw(width), draw(st.sampled_from(ACTIVATIONS))
        inputs = {"x": normal(n, d), "weight": normal(out, d), "dy": normal(n, out)}
        if draw(st.booleans()):
            inputs["bias"] = normal(out)
        precision = draw(st.sampled_from(("fp32", "bf16")))
        run = _differentiable(lambda **t: ops.linear(**t, activation=kind, precision=precision))
    elif name == "layer_norm":
        inputs = {"x": normal(n, d), "weight": normal(d), "bias": normal(d), "dy": normal(n, d)}
        run = _differentiable(ops.layer_norm)
    elif name == "activation":
        kind = draw(st.sampled_from(ACTIVATIONS[1:]))
        inputs = {"x": normal(n, d), "dy": normal(n, d)}
        run = _differentiable(lambda x: ops.activation(x, kind))
    elif name == "cross_entropy":
        inputs = {"logits": normal(n, d), "targets": indices(d, n), "dy": normal()}
        run = _differentiable(ops.cross_entropy)
    elif name == "attention":
        b, t, h = draw(st.integers(1, 4)), draw(st.integers(1, 40)), draw(st.integers(1, 3))
        k, v, causal = draw(widths(1, 19)), draw(widths(1, 19)), draw(st.booleans())
        inputs = {"q": normal(b, t, h, k), "k": normal(b, t, h, k), "v": normal(b, t, h, v)}
        inputs["dy"] = normal(b, t, h, v)
        run = _differentiable(lambda **t: ops.attention(**t, causal=causal))
    elif name == "mixed_attention":
        inputs, run = _mixed(draw, normal)
    elif name == "embedding":
        b, t, words = draw(size), draw(size), draw(size)
        inputs = {"tokens": indices(words, b, t), "token_table": normal(words, d)}
        inputs |= {"position_table": normal(t, d), "dy": normal(b, t, d)}
        run = _differentiable(ops.embedding)
    elif name == "sgd":
        inputs = {part: normal(d) for part in ("params", "grads", "momentum_buffer")}
        for part in ("lr", "weight_decay", "clip_scale"):
            inputs[part] = torch.rand(m, generator=generator).double()
        momentum = draw(st.sampled_from((0.0, 0.9)))
        run = _sgd(momentum, momentum > 0 and draw(st.booleans()))
    else:
        inputs = {part: normal(d) for part in ("params", "grads", "exp_avg")}
        inputs["exp_avg_sq"] = normal(d) ** 2
        for part in ("lr", "weight_decay", "clip_scale"):
            inputs[part] = torch.rand(m, generator=generator).double()
        inputs["step"] = indices(1000) + 1
        run = _adamw
    probe = draw(st.integers(0, m - 1))
    order = [i for i in draw(st.permutations(range(m))) if i == probe or draw(st.booleans())]
    return Call(name, run, inputs, probe, tuple(order), draw(st.integers(1, 3)))


NAMES = (
    "linear",
    "layer_norm",
    "activation",
    "cross_entropy",
    "attention",
    "mixed_attention",
    "embedding",
    "adamw",
    "sgd",
)
