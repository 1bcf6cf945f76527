"""The bf16 mode against float64, inside the budget of tests/oracle.py at bfloat16's precision."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from ensembles import group, member, mixed, random_state, same_bits, start
from oracle import EPS, Array, Arrays, assert_within_budget, evaluate, random_batch

from compfast.config import MemberSpec
from compfast.models.precision import products
from compfast.tasks import make_task

EPS_BF16 = float(torch.finfo(torch.bfloat16).eps)
ARCHITECTURES = ("default", "own_head_sizes", "paper_form", "tied_all_post", "long_heads_all")


def _bf16(specs: list[MemberSpec]) -> list[MemberSpec]:
    training = dataclasses.replace(specs[0].training, precision="bf16")
    return [dataclasses.replace(spec, training=training) for spec in specs]


def _values(specs: list[MemberSpec], params: Arrays, batch: tuple[Array, Array]) -> Arrays:
    """Gradients by name, and the loss, of PyTorch at the same precision."""
    with products("bf16"):
        found = evaluate(specs[0].model, params, *batch, torch.float32)
    return {**found.grads, "loss": found.loss}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_loss_and_every_gradient(engine: str, name: str) -> None:
    specs = _bf16(group(name))
    made, state = start(engine, specs), random_state(specs)
    made.load(state)
    batch = random_batch(specs[0].model, make_task(specs[0].task).length, 21, seed=2)
    loss, grads = made.gradients(*batch)
    for i in range(len(specs)):
        params = member(state.params, i)
        exact = evaluate(specs[0].model, params, *batch)
        wanted = {**exact.grads, "loss": exact.loss}
        eager = _values(specs, params, batch)
        for tensor, value in {**member(grads, i), "loss": loss[i]}.items():
            error = float(np.abs(eager[tensor] - wanted[tensor]).max())
            band = exact.bands[tensor] * (EPS_BF16 / EPS)
            assert_within_budget(tensor, value, wanted[tensor], error, band)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_engines_round_the_same_operands(native_extension: None, name: str) -> None:
    """Far closer to the rounded oracle than to float32: it is this mode that was computed."""
    specs = _bf16(group(name))
    native, state = start("native", specs), random_state(specs)
    native.load(state)
    batch = random_batch(specs[0].model, make_task(specs[0].task).length, 21, seed=2)
    _, grads = native.gradients(*batch)
    for i in range(len(specs)):
        params = member(state.params, i)
        rounded = _values(specs, params, batch)
        plain = evaluate(specs[0].model, params, *batch, torch.float32).grads
        near = far = 0.0
        for tensor, value in member(grads, i).items():
            near += float(((value - rounded[tensor]) ** 2).sum())
            far += float(((value - plain[tensor]) ** 2).sum())
        assert near < far / 16


def test_product_rounds_operands_and_nothing_else() -> None:
    x, w = torch.tensor([[1.0 + 2.0**-9, 3.0]]), torch.tensor([[1.0, 2.0**-12]])
    x.requires_grad_()
    w.requires_grad_()
    with products("bf16"):
        y = torch.nn.functional.linear(x, w, torch.tensor([2.0**-20]))
    y.backward(torch.tensor([[1.0 + 2.0**-9]]))  # type: ignore[no-untyped-call]
    assert y.item() == np.float32(1.0 + 3.0 * 2.0**-12 + 2.0**-20)  # 1 + 2^-9 became 1
    assert x.grad is not None
    assert x.grad.tolist() == [[1.0, 2.0**-12]]
    assert w.grad is not None
    assert w.grad.tolist() == [[1.0, 3.0]]


def test_a_member_does_not_know_its_neighbours(native_extension: None) -> None:
    specs = _bf16(mixed(group("own_head_sizes", batch_size=21)))
    together = start("native", specs, threads=2)
    together.advance(5)
    for i, spec in enumerate(specs):
        alone = start("native", [spec], threads=2)
        alone.advance(2)
        alone.advance(5)
        same_bits(alone.state(), together.state(), [0], [i])
