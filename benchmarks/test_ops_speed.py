"""Time of one op, forward and backward, against eager PyTorch over stacked members, in one run.

    python -m pytest benchmarks/test_ops_speed.py -m benchmark

The two take turns; a time is the median of the rounds, in the same process on the same number of
threads (the default of torch). The test fails only where the two disagree: speed is a figure here,
not a limit. `extra_info` of the JSON output holds M, threads and the ratio.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from compfast import ops

ROUNDS = 7
MEMBERS = (1, 8, 64, 512)
LENGTH = 9

pytestmark = pytest.mark.benchmark

Op = Callable[..., Tensor]
Case = tuple[Op, list[Tensor]]


def linear(m: int, d: int) -> Case:
    inputs = [torch.randn(m, 8 * LENGTH, d), torch.randn(m, 2 * d, d), torch.randn(m, 2 * d)]
    return lambda *t, impl: ops.linear(*t, activation="gelu", impl=impl), inputs


def layer_norm(m: int, d: int) -> Case:
    return ops.layer_norm, [torch.randn(m, 8 * LENGTH, d), torch.randn(m, d), torch.randn(m, d)]


def attention(m: int, d: int) -> Case:
    return ops.attention, [torch.randn(m, 8, LENGTH, 1, d) for _ in range(3)]


def cross_entropy(m: int, d: int) -> Case:
    targets = torch.randint(4 * d, (m, 8))
    return lambda z, impl: ops.cross_entropy(z, targets, impl=impl), [torch.randn(m, 8, 4 * d)]


def activation(m: int, d: int) -> Case:
    return lambda x, impl: ops.activation(x, "gelu", impl=impl), [torch.randn(m, 72, d)]


def embedding(m: int, d: int) -> Case:
    tokens = torch.randint(101, (m, 8, LENGTH))
    tables = [torch.randn(m, 101, d), torch.randn(m, LENGTH, d)]
    return lambda *t, impl: ops.embedding(tokens, *t, impl=impl), tables


OPS = (linear, layer_norm, attention, cross_entropy, activation, embedding)


@pytest.mark.parametrize("members", MEMBERS)
@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("make", OPS)
def test_forward_and_backward(
    benchmark: BenchmarkFixture, make: Callable[[int, int], Case], width: int, members: int
) -> None:
    torch.manual_seed(0)
    op, inputs = make(members, width)
    leaves = [t.requires_grad_() for t in inputs]
    dy = torch.randn_like(op(*leaves, impl="torch"))

    def once(impl: str) -> tuple[Tensor, ...]:
        return torch.autograd.grad(op(*leaves, impl=impl), leaves, dy)

    for got, wanted in zip(once("native"), once("torch"), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
    _alternate(benchmark, f"{make.__name__} d={width}", members, once, once)


@pytest.mark.parametrize("members", MEMBERS)
@pytest.mark.parametrize("size", [16_384, 65_536])  # parameters of a member of d 32, d 64
def test_adamw(benchmark: BenchmarkFixture, size: int, members: int) -> None:
    """Against torch's fused AdamW, which gives all members one learning rate and step."""
    torch.manual_seed(0)
    params, grads = torch.randn(members, size), torch.randn(members, size)
    peer = torch.nn.Parameter(params.clone())
    peer.grad = grads.clone()
    optimizer = torch.optim.AdamW([peer], lr=1e-3, weight_decay=0.1, fused=True)
    state = {"params": params, "grads": grads}
    state |= {"exp_avg": torch.zeros_like(params), "exp_avg_sq": torch.zeros_like(params)}
    step = torch.zeros(members, dtype=torch.int64)
    each = {
        name: torch.full((members,), value, dtype=torch.float64)
        for name, value in {"lr": 1e-3, "weight_decay": 0.1, "clip_scale": 1.0}.items()
    }

    def native(_: str) -> None:
        step.add_(1)
        ops.adamw(**state, **each, step=step)

    def eager(_: str) -> None:
        optimizer.step()

    native("")
    eager("")
    torch.testing.assert_close(params, peer.detach(), rtol=1e-4, atol=1e-6)
    _alternate(benchmark, f"adamw P={size}", members, native, eager)


@pytest.mark.parametrize("members", MEMBERS)
@pytest.mark.parametrize("size", [16_384, 65_536])
def test_sgd(benchmark: BenchmarkFixture, size: int, members: int) -> None:
    """Against torch's fused SGD, which gives all members one learning rate."""
    torch.manual_seed(0)
    params, grads = torch.randn(members, size), torch.randn(members, size)
    peer = torch.nn.Parameter(params.clone())
    peer.grad = grads.clone()
    optimizer = torch.optim.SGD([peer], lr=1e-3, momentum=0.9, nesterov=True, fused=True)
    state = {"params": params, "grads": grads, "momentum_buffer": torch.zeros_like(params)}
    each = {
        name: torch.full((members,), value, dtype=torch.float64)
        for name, value in {"lr": 1e-3, "weight_decay": 0.0, "clip_scale": 1.0}.items()
    }

    def native(_: str) -> None:
        ops.sgd(**state, **each, momentum=0.9, nesterov=True)

    def eager(_: str) -> None:
        optimizer.step()

    native("")
    eager("")
    torch.testing.assert_close(params, peer.detach(), rtol=1e-4, atol=1e-6)
    _alternate(benchmark, f"sgd P={size}", members, native, eager)


@pytest.mark.parametrize("members", MEMBERS)
def test_philox(benchmark: BenchmarkFixture, members: int) -> None:
    """The words of one step's 256 sequences of 9 tokens."""
    seeds = torch.arange(members)

    def once(impl: str) -> Tensor:
        return ops.philox(seeds, 1, 2, count=256 * 12, impl=impl)

    assert torch.equal(once("native"), once("torch"))
    _alternate(benchmark, "philox", members, once, once)


def _alternate(
    benchmark: BenchmarkFixture,
    what: str,
    members: int,
    native: Callable[[str], object],
    peer: Callable[[str], object],
) -> None:
    eager: list[float] = []

    def turn_of_eager() -> None:
        start = time.perf_counter()
        peer("torch")
        eager.append(time.perf_counter() - start)

    benchmark.pedantic(native, ("native",), setup=turn_of_eager, rounds=ROUNDS, warmup_rounds=1)
    ratio = statistics.median(eager) / benchmark.stats.stats.median
    benchmark.extra_info.update(
        members=members, threads=torch.get_num_threads(), eager_over_native=round(ratio, 2)
    )
    print(f"\n{what} M={members}: eager / native = {ratio:.2f}")
