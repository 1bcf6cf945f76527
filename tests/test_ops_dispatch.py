"""The single operations inside PyTorch: torch.library's own checks, and torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from op_cases import CASES, Case, Tensors, adamw_arguments, draw, sgd_arguments
from torch import Tensor

from compfast import ops

pytestmark = [
    pytest.mark.usefixtures("native_extension"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # inductor's own
]

OPCHECKED = [
    "linear",
    "linear_bf16_odd",
    "layer_norm_odd",
    "attention_odd",
    "embedding_odd",
    "gelu",
]


@pytest.mark.parametrize("name", OPCHECKED)
def test_opcheck_of_the_differentiable(name: str) -> None:
    inputs, _ = draw(CASES[name])
    leaves = {n: t.requires_grad_() for n, t in inputs.items()}
    tokens = torch.tensor([[[0, 6, 3, 3, 1]] * 3])
    calls: dict[str, tuple[str, tuple[Any, ...]]] = {
        "linear": ("linear", (*leaves.values(), "none", "fp32")),
        "linear_bf16_odd": ("linear", (*leaves.values(), "gelu", "bf16")),
        "layer_norm_odd": ("layer_norm", (*leaves.values(), 1e-5)),
        "attention_odd": ("attention", (*leaves.values(), True)),
        "embedding_odd": ("embedding", (tokens, *leaves.values())),
        "gelu": ("activation", (*leaves.values(), "gelu")),
    }
    op, arguments = calls[name]
    check(op, arguments)


def test_opcheck_of_the_loss() -> None:
    check("cross_entropy", (torch.randn(2, 3, 5).requires_grad_(), torch.tensor([[0, 4, 1]] * 2)))


def test_opcheck_of_the_others() -> None:
    check("adamw", (*adamw_arguments(2, 5).values(), 0.9, 0.999, 1e-8))
    check("sgd", (*sgd_arguments(2, 5).values(), 0.9, True))
    check("philox", (torch.tensor([1, 2]), 1, 2, 3, 4, 5))


def check(op: str, arguments: tuple[Any, ...]) -> None:
    torch.library.opcheck(getattr(torch.ops.compfast, op).default, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", ["linear_odd", "layer_norm", "attention", "embedding", "gelu"])
def test_compiled(name: str, backend: str) -> None:
    torch.compiler.reset()
    case = CASES[name]
    inputs, dy = draw(case)
    compiled = torch.compile(case.run, fullgraph=True, backend=backend)
    assert_same(case, inputs, dy, compiled)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_the_loss_and_the_undifferentiable_compiled(backend: str) -> None:
    torch.compiler.reset()
    given, targets = adamw_arguments(2, 5), torch.tensor([[0, 4, 1]] * 2)

    def step(logits: Tensor, **state: Tensor) -> Tensor:
        ops.adamw(**state)  # type: ignore[arg-type]
        moved = (state[name] for name in ("params", "grads", "exp_avg"))
        each = {"lr": state["lr"], "weight_decay": state["lr"], "clip_scale": state["weight_decay"]}
        ops.sgd(*moved, **each, momentum=0.9)  # type: ignore[arg-type]
        words = ops.philox(state["step"], 1, 2)
        return ops.cross_entropy(logits, targets) + words.sum()

    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    found = []
    for function in (step, torch.compile(step, fullgraph=True, backend=backend)):
        state = {name: value.clone() for name, value in given.items()}
        found.append((function(logits, **state), *state.values()))
    for eager, compiled in zip(*found, strict=True):
        assert torch.equal(eager, compiled)


@pytest.mark.slow
def test_compiled_into_one_graph() -> None:
    inputs, dy = draw(CASES["linear"])

    def block(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = ops.linear(x, weight, bias, "gelu")
        return ops.layer_norm(y, torch.ones_like(bias), bias)

    found = []
    for function in (block, torch.compile(block, fullgraph=True, backend="aot_eager")):
        leaves = {n: t.detach().clone().requires_grad_() for n, t in inputs.items()}
        out = function(**leaves)
        found.append((out, *torch.autograd.grad(out, list(leaves.values()), dy)))
    for compiled, eager in zip(*found, strict=True):
        assert torch.equal(compiled, eager)


X, WEIGHT = torch.ones(2, 3, 4), torch.ones(2, 5, 4)


def assert_same(case: Case, inputs: Tensors, dy: Tensor, compiled: Any) -> None:
    """Output and gradients of the compiled op are the op's own, bit for bit."""
    found = []
    for run in (case.run, compiled):
        leaves = {n: t.detach().clone().requires_grad_() for n, t in inputs.items()}
        out = run("native", **leaves)
        found.append((out, *torch.autograd.grad(out, list(leaves.values()), dy)))
    for eager, got in zip(*found, strict=True):
        assert torch.equal(eager, got)
