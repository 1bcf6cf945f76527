"""Family bottleneck on engine triton, under the interpreter: what tests/test_bottleneck.py asks of
the other engines, and its two kernels alone, on buffers that arrive full of NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import quick_interpreter  # noqa: F401
import test_bottleneck
import torch
import vector_checks as networks
from architectures import BOTTLENECKS
from ensembles import same_bits, start
from oracle import EPS, assert_within_budget
from test_triton_vectors import cases, fewer
from torch import Tensor
from triton_op_cases import buffer, filled, inside, live

from compfast.engines.triton import generated, vectors

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_INTERPRET=1", "ignore::RuntimeWarning")

# hidden units, columns, positions, the query's place counted back from the last
SHAPES = {"odd": (5, 3, 4, 0), "two_chunks": (3, 70, 2, 1), "one": (1, 1, 1, 0)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What the other engines' tests are given, fewer of it, until the test is over."""

    def given(**how: Any) -> None:
        monkeypatch.setattr(networks, "specs_of", lambda name, **model: fewer(name, **how, **model))
        networks._reference.cache_clear()

    return given


@pytest.mark.parametrize("name", cases(list(BOTTLENECKS), ["one_unit"]))
def test_forward_and_every_gradient(name: str, small: Callable[..., None]) -> None:
    small()
    networks.check_forward_and_gradients("triton", name, 3)
    networks._reference.cache_clear()


@pytest.mark.parametrize("name", cases(["sees_query", "empty_token"], []))
def test_ten_steps(name: str, small: Callable[..., None]) -> None:
    small(members=1)
    networks.check_ten_steps("triton", name)


def test_members_train_as_on_engine_native() -> None:
    """Batches from the host, a hidden query, steps and moments."""
    specs = fewer("one_unit", members=1, batch=2)
    found, wanted = (start(engine, specs).advance(2).loss for engine in ("triton", "native"))
    np.testing.assert_allclose(found, wanted, rtol=2e-5)


@pytest.mark.slow
def test_a_member_is_the_same_alone() -> None:
    """As beside one of NaN; and what is in memory before a step does not matter."""
    specs = fewer("empty_token")
    beside, alone = start("triton", specs), start("triton", specs[1:])
    state = beside.state()
    state.params["generator.weight"][0] = np.nan
    beside.load(state)
    for tensor in beside._step_of(range(2)).program.workspace():
        tensor.fill_(float("nan"))
    for engine in (beside, alone):
        engine.advance(2)
    same_bits(alone.state(), beside.state(), [0], [1])
    assert beside.state().status.tolist() == [2, 0]


@pytest.mark.slow
def test_what_the_code_depends_on() -> None:
    for name in ("usual", "empty_token_sees_query"):
        test_bottleneck.test_what_the_code_depends_on("triton", name)


def _run(w: Tensor, x: Tensor, dz: Tensor, query: int, activation: str) -> tuple[Tensor, ...]:
    """(Y, slope, dW) of W [M, N, H, C], x [M, N, T, wide] and dZ [M, N, H]."""
    m, n, hidden, columns = w.shape
    given = filled(w.flatten(2), column=3)
    seen = filled(x.flatten(1, 2), x.shape[2], column=1)
    y, slope = (buffer(m, n, hidden, column=2) for _ in range(2))
    dw, on = buffer(m, n, hidden * columns, column=3), live(m)
    how: Any = {"columns": columns, "query": query}
    made = None if activation == "none" else slope
    generated.forward(given, seen, y, made, on, activation=activation, **how).run()
    generated.backward(filled(dz, column=5), seen, dw, on, **how).run()
    return inside(y), inside(slope), inside(dw).reshape(w.shape)


@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_layer_alone(name: str, activation: str) -> None:
    """Within the budget of a sum; a member's bits are the same alone and beside one of NaN."""
    hidden, columns, length, query = SHAPES[name]
    g = torch.Generator().manual_seed(5)
    w = torch.randn(2, 7, hidden, columns, generator=g)
    x = torch.randn(2, 7, length, columns + 2, generator=g)
    dz = torch.randn(2, 7, hidden, generator=g)
    y, slope, dw = _run(w, x, dz, query, activation)
    own = x[:, :, length - 1 - query, :columns]
    z = torch.einsum("mnhc,mnc->mnh", w.double(), own.double()).requires_grad_()
    single = torch.einsum("mnhc,mnc->mnh", w, own)
    band = EPS * torch.einsum("mnhc,mnc->mnh", w.double().abs(), own.double().abs())
    if activation == "gelu":
        wanted = torch.nn.functional.gelu(z)
        (steep,) = torch.autograd.grad(wanted.sum(), z)
        eager = torch.nn.functional.gelu(single)
        error = float((eager - wanted).abs().max().detach())
        # |gelu'| is at most 1.13, |gelu''| below 1
        assert_within_budget("slope", slope.numpy(), steep.numpy(), error, band.numpy() + EPS)
    else:
        wanted, error = z, float((single - z).abs().max().detach())
        assert slope.isnan().all()
    exact = wanted.detach().numpy()
    assert_within_budget("out", y.numpy(), exact, error, band.numpy())
    outer = dz.double()[..., None] * own.double()[:, :, None]
    assert_within_budget("w", dw.numpy(), outer.numpy(), 0.0, EPS * outer.abs().numpy())
    alone = _run(w[:1], x[:1], dz[:1], query, activation)
    for value in (w, x, dz):
        value[1:] = torch.nan
    beside = _run(w, x, dz, query, activation)
    for each, lone, among in zip((y, slope, dw), alone, beside, strict=True):
        assert torch.equal(lone.nan_to_num(7), each[:1].nan_to_num(7))
        assert torch.equal(among[:1].nan_to_num(7), each[:1].nan_to_num(7))


@pytest.mark.parametrize("blank", [0, 2])
def test_a_token_that_is_not_seen_reads_as_zeros(blank: int) -> None:
    x = torch.randn(2, 3 * 4, 5, generator=torch.Generator().manual_seed(1))
    y = buffer(2, 12, 5, 4, column=1)
    vectors.forward(filled(x, 4, column=2), y, live(2), blank=blank).run()
    wanted = x.view(2, 3, 4, 5).clone()
    wanted[:, :, 3 - blank] = 0
    assert torch.equal(inside(y), wanted.flatten(1, 2))
    assert y.tensor[:, :, [0, 6]].isnan().all()
