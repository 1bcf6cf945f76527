"""Single operations on torch tensors: right in float64's eyes, alone = among others.

The budget is that of tests/oracle.py: twice (the error of the same op in float32 PyTorch + eps x
the last sum of that tensor on absolute values).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from op_cases import (
    CASES,
    Case,
    Tensors,
    adamw_arguments,
    double,
    draw,
    evaluate,
    linear_case,
    sgd_arguments,
)
from oracle import EPS, assert_within_budget

from compfast import _native, ops
from compfast.errors import UsageError
from compfast.streams import philox as streams

pytestmark = pytest.mark.usefixtures("native_extension")


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(autouse=True)
def _nan_in_scratch() -> Iterator[None]:
    _native.poison_scratch(True)
    yield
    _native.poison_scratch(False)


def test_forward_and_every_gradient(case: Case) -> None:
    inputs, dy = draw(case)
    exact = evaluate(case, "torch", double(inputs), dy.double())
    eager = evaluate(case, "torch", inputs, dy)
    bands = case.bands(dy.double(), **double(inputs))
    assert bands.keys() == exact.keys()
    for name, got in evaluate(case, "native", inputs, dy).items():
        error = float((eager[name].double() - exact[name]).abs().max())
        band = torch.finfo(case.dtype).eps * bands[name].numpy()
        assert_within_budget(name, got.numpy(), exact[name].numpy(), error, band)


def test_a_member_alone_is_the_same_bits(case: Case) -> None:
    inputs, dy = draw(case)
    together = evaluate(case, "native", inputs, dy)
    first = {name: value[:1] for name, value in inputs.items()}
    for name, alone in evaluate(case, "native", first, dy[:1]).items():
        assert torch.equal(alone, together[name][:1]), name


def test_a_nan_stays_with_its_member(case: Case) -> None:
    inputs, dy = draw(case)
    if len(dy) == 1:
        pytest.skip("one member has no neighbour")
    clean = evaluate(case, "native", inputs, dy)
    for value in inputs.values():
        value[-1] = torch.nan
    for name, got in evaluate(case, "native", inputs, dy).items():
        assert torch.equal(got[:-1], clean[name][:-1]), name
    assert case.run("native", **inputs)[-1].isnan().all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_threads_do_not_change_bits(precision: str) -> None:
    case = linear_case(5, 130, 64, 48, "gelu", bias=True, precision=precision)
    inputs, dy = draw(case)
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(evaluate(case, "native", inputs, dy))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_bf16_rounds_the_operands_and_no_sum() -> None:
    """As near to PyTorch's rounded product as float32 allows, and far from the plain one."""
    case, plain = (linear_case(3, 33, 40, 24, "none", True, p) for p in ("bf16", "fp32"))
    inputs, dy = draw(case)
    rounded, exact = evaluate(case, "torch", inputs, dy), evaluate(plain, "torch", inputs, dy)
    bands = case.bands(dy, **inputs)
    for name, got in evaluate(case, "native", inputs, dy).items():
        assert (got - rounded[name]).abs().max() <= 4 * EPS * bands[name].max(), name
        if name != "bias":
            assert (got - exact[name]).abs().max() > 100 * EPS * bands[name].max(), name


def test_views_are_read_as_they_are() -> None:
    case = CASES["linear"]
    inputs, dy = draw(case)
    moved = {name: value.mT.contiguous().mT for name, value in inputs.items()}
    assert not moved["x"].is_contiguous()
    plain = evaluate(case, "native", inputs, dy)
    leaves = {name: value.requires_grad_() for name, value in moved.items()}
    out = case.run("native", **leaves)
    grads = torch.autograd.grad(out, list(leaves.values()), dy.mT.contiguous().mT)
    assert torch.equal(out, plain["out"])
    assert all(torch.equal(g, plain[n]) for n, g in zip(leaves, grads, strict=True))


def _adamw(**arguments: Any) -> None:
    ops.adamw(**arguments)


def _sgd(**changes: Any) -> None:
    ops.sgd(**{**sgd_arguments(2, 2), **changes})


def step_adamw(impl: str, arguments: Tensors, dtype: torch.dtype = torch.float32) -> Tensors:
    flat = ("params", "grads", "exp_avg", "exp_avg_sq")
    given: dict[str, Any] = {
        n: t.to(dtype, copy=True) if n in flat else t for n, t in arguments.items()
    }
    ops.adamw(**given, impl=impl)
    return {name: given[name] for name in flat}


@pytest.mark.parametrize(("m", "count"), [(3, 53), (1, 64), (2, 5)])
def test_adamw(m: int, count: int) -> None:
    given = adamw_arguments(m, count)
    exact, eager = step_adamw("torch", given, torch.float64), step_adamw("torch", given)
    size = double(given)
    gradient = size["grads"].abs() * size["clip_scale"][:, None]
    moved = (size["params"] - exact["params"]).abs()
    bands = {
        "params": size["params"].abs() + moved,
        "grads": torch.zeros(1),
        "exp_avg": 0.9 * size["exp_avg"].abs() + 0.1 * gradient,
        "exp_avg_sq": exact["exp_avg_sq"],
    }
    for name, got in step_adamw("native", given).items():
        error = float((eager[name].double() - exact[name]).abs().max())
        band = EPS * bands[name].numpy()
        assert_within_budget(name, got.numpy(), exact[name].numpy(), error, band)
    first = {name: value[:1] for name, value in given.items()}
    given["grads"][1:] = torch.nan
    among = step_adamw("native", given)
    for name, alone in step_adamw("native", first).items():
        assert torch.equal(alone, among[name][:1]), name


SGD_FORMS = ((0.0, False), (0.9, False), (0.6, True))


def step_sgd(
    impl: str, arguments: Tensors, form: tuple[float, bool], dtype: torch.dtype = torch.float32
) -> Tensors:
    flat = ("params", "grads", "momentum_buffer")
    given: dict[str, Any] = {
        n: t.to(dtype, copy=True) if n in flat else t for n, t in arguments.items()
    }
    ops.sgd(**given, momentum=form[0], nesterov=form[1], impl=impl)
    return {name: given[name] for name in flat}


@pytest.mark.parametrize("form", SGD_FORMS)
@pytest.mark.parametrize(("m", "count"), [(3, 53), (1, 64), (2, 5)])
def test_sgd(m: int, count: int, form: tuple[float, bool]) -> None:
    given, momentum = sgd_arguments(m, count), form[0]
    exact = step_sgd("torch", given, form, torch.float64)
    eager = step_sgd("torch", given, form)
    size = {name: value.abs() for name, value in double(given).items()}
    buffer = momentum * size["momentum_buffer"] + size["grads"] * size["clip_scale"][:, None]
    bands = {
        "params": size["params"] + size["lr"][:, None] * 2 * buffer,
        "grads": torch.zeros(1),
        "momentum_buffer": buffer if momentum else torch.zeros(1),
    }
    for name, got in step_sgd("native", given, form).items():
        error = float((eager[name].double() - exact[name]).abs().max())
        band = EPS * bands[name].numpy()
        assert_within_budget(name, got.numpy(), exact[name].numpy(), error, band)
    first = {name: value[:1] for name, value in given.items()}
    given["grads"][1:] = torch.nan
    among = step_sgd("native", given, form)
    for name, alone in step_sgd("native", first, form).items():
        assert torch.equal(alone, among[name][:1]), name


@pytest.mark.parametrize("impl", ["native", "torch"])
@pytest.mark.parametrize("form", SGD_FORMS)
def test_sgd_is_the_optimiser_of_pytorch(form: tuple[float, bool], impl: str) -> None:
    """Three steps, from a buffer of zeros; PyTorch's own decay is none that is decoupled."""
    given = sgd_arguments(1, 40)
    given["weight_decay"], given["momentum_buffer"] = torch.zeros(1).double(), torch.zeros(1, 40)
    p = torch.nn.Parameter(given["params"][0].double())
    optimizer = torch.optim.SGD([p], lr=float(given["lr"]), momentum=form[0], nesterov=form[1])
    for step in range(3):
        p.grad = (step + 1) * given["grads"][0].double() * given["clip_scale"]
        optimizer.step()
        now = {**given, "grads": (step + 1) * given["grads"]}
        given |= {name: v for name, v in step_sgd(impl, now, form).items() if name != "grads"}
    assert float((given["params"][0].double() - p.detach()).abs().max()) < 1e-5


def test_the_decay_of_sgd_is_decoupled() -> None:
    given = sgd_arguments(2, 9)
    without = step_sgd("native", {**given, "weight_decay": torch.zeros(2).double()}, (0.9, True))
    gone = given["lr"] * given["weight_decay"]
    wanted = without["params"].double() - gone[:, None] * given["params"].double()
    got = step_sgd("native", given, (0.9, True))
    assert torch.equal(got["momentum_buffer"], without["momentum_buffer"])
    assert float((got["params"].double() - wanted).abs().max()) < 1e-6


def test_adamw_is_the_optimiser_of_pytorch() -> None:
    given = adamw_arguments(1, 40)
    given["clip_scale"] = torch.ones(1).double()
    given["exp_avg"], given["exp_avg_sq"] = torch.zeros(1, 40), torch.zeros(1, 40)
    p = torch.nn.Parameter(given["params"][0].double())
    lr, decay = float(given["lr"]), float(given["weight_decay"])
    optimizer = torch.optim.AdamW([p], lr=lr, weight_decay=decay)
    p.grad = given["grads"][0].double()
    optimizer.step()
    got = step_adamw("native", given)["params"][0].double()
    assert float((got - p.detach()).abs().max()) < 1e-6


@pytest.mark.parametrize(("start", "count"), [(0, 4), (3, 10), (5, 1), ((4 << 32) - 3, 3)])
@pytest.mark.parametrize("impl", ["native", "torch"])
def test_philox_words(impl: str, start: int, count: int) -> None:
    seeds = [0, 7, 2**63 - 1, 2**64 - 5]
    bits = torch.from_numpy(np.array(seeds, np.uint64).view(np.int64))
    got = ops.philox(bits, streams.AUX, 2**32 - 1, 3, start, count, impl=impl)
    wanted = [streams.words(seed, streams.AUX, 2**32 - 1, 3, start, count) for seed in seeds]
    assert got.tolist() == np.stack(wanted).tolist()


X, WEIGHT = torch.ones(2, 3, 4), torch.ones(2, 5, 4)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: ops.linear(X, WEIGHT, impl="fast"), "impl is 'fast'; it must be"),
        (lambda: ops.linear(X, WEIGHT, activation="tanh"), "activation is 'tanh'"),
        (lambda: ops.linear(X, WEIGHT, precision="fp16"), "precision is 'fp16'; it must be fp32"),
        (lambda: ops.linear(X[0], WEIGHT), r"x has shape \[3, 4\]; it must be \[M, N, D_in\]"),
        (lambda: ops.linear(X, WEIGHT[:1]), "weight has shape .* with M = 2"),
        (lambda: ops.linear(X[:, :0], WEIGHT), "axis N must not be empty"),
        (lambda: ops.linear(X.double(), WEIGHT), "x is float64 on cpu; .* needs float32 on cpu"),
        (lambda: ops.linear(X, WEIGHT.to("meta")), "weight is float32 on meta"),
        (lambda: ops.layer_norm(X, X[:, 0].half(), X[:, 0]), "weight is float16 on cpu"),
        (lambda: ops.attention(X, X, X), "q has shape"),
        (lambda: ops.activation(X, "none"), "activation is 'none'"),
        (lambda: ops.activation(X[:0], "relu"), "not empty"),
        (lambda: ops.cross_entropy(X, torch.zeros(2, 3)), "targets is float32; it must be int32"),
        (
            lambda: ops.cross_entropy(X, torch.full((2, 3), 4)),
            "a target is 4; it must be at least 0 and below 4",
        ),
        (
            lambda: ops.embedding(torch.full((2, 1, 3), -1), X, X),
            "a token is -1; it must be at least 0 and below 3",
        ),
        (lambda: ops.embedding(torch.zeros(2, 1, 4).int(), X, X), "tokens have 4 positions"),
        (lambda: ops.philox(torch.tensor([1]), 1, -1), "step is -1"),
        (lambda: ops.philox(torch.tensor([1]), 1, 1, count=0), "count is 0"),
        (
            lambda: _adamw(**{**adamw_arguments(2, 4), "lr": torch.ones(2)}),
            "lr is float32 on cpu; impl='native' needs float64",
        ),
        (
            lambda: _adamw(**{**adamw_arguments(2, 2), "exp_avg": torch.ones(2, 2).mT[:, :2]}),
            "exp_avg is not contiguous",
        ),
        (lambda: _sgd(momentum=1.0), r"sgd: momentum is 1.0; it must be in \[0, 1\)"),
        (lambda: _sgd(nesterov=True), "sgd: nesterov is True; it needs a momentum above 0"),
        (lambda: _sgd(lr=torch.ones(2)), "lr is float32 on cpu; impl='native' needs float64"),
        (lambda: _sgd(params=torch.ones(2, 2).mT), "params is not contiguous"),
        (lambda: _sgd(momentum_buffer=torch.ones(2, 3)), "momentum_buffer has shape .* with P = 2"),
    ],
)
def test_refused_in_one_sentence(wrong: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as refused:
        wrong()
    assert "\n" not in str(refused.value)
