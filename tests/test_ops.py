"""Single operations on torch tensors: right in float64's eyes, alone = among others, compilable.

The budget is that of tests/oracle.py: twice (the error of the same op in float32 PyTorch + eps x
the last sum of that tensor on absolute values).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from oracle import EPS, assert_within_budget
from torch import Tensor

from compfast import _native, ops
from compfast import philox as streams
from compfast.errors import UsageError

pytestmark = pytest.mark.usefixtures("native_extension")

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """An op bound to its options; `bands` takes the inputs and dy in float64."""

    run: Callable[..., Tensor]  # (**inputs, impl=) -> [M, ...]
    inputs: Callable[[torch.Generator], Tensors]
    bands: Callable[..., Tensors]  # by input, and "out"


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def linear_case(m: int, n: int, d_in: int, d_out: int, activation: str, bias: bool) -> Case:
    def inputs(g: torch.Generator) -> Tensors:
        made = {"x": normal(g, m, n, d_in), "weight": normal(g, m, d_out, d_in) * d_in**-0.5}
        return {**made, "bias": normal(g, m, d_out)} if bias else made

    def run(impl: str, **t: Tensor) -> Tensor:
        return ops.linear(**t, activation=activation, impl=impl)

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

    return Case(run, inputs, bands)


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
    "layer_norm": norm_case(3, 11, 32),
    "layer_norm_odd": norm_case(2, 5, 19),
    "layer_norm_one_member": norm_case(1, 1, 130),
    "attention": attention_case(2, 3, 9, 1, 32, 32, causal=True),
    "attention_odd": attention_case(2, 2, 7, 3, 5, 6, causal=True),
    "attention_all_seen": attention_case(1, 2, 19, 2, 16, 3, causal=False),
    "attention_36": attention_case(1, 2, 36, 2, 5, 16, causal=True),
    "attention_128": attention_case(1, 1, 128, 1, 32, 32, causal=False),
    "attention_1024": attention_case(1, 1, 1024, 1, 8, 8, causal=True),
    "attention_one_position": attention_case(1, 1, 1, 1, 4, 4, causal=True),
    "cross_entropy": loss_case(3, 13, 101),
    "cross_entropy_whole_vectors": loss_case(1, 4, 32),
    "relu": activation_case("relu", 3, 7, 5),
    "gelu": activation_case("gelu", 1, 333),
    "gelu_tanh": activation_case("gelu_tanh", 2, 64),
    "embedding": embedding_case(3, 4, 9, 21, 9, 32),
    "embedding_odd": embedding_case(1, 3, 5, 7, 6, 13),
}


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(autouse=True)
def _nan_in_scratch() -> Iterator[None]:
    _native.poison_scratch(True)
    yield
    _native.poison_scratch(False)


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


def test_forward_and_every_gradient(case: Case) -> None:
    inputs, dy = draw(case)
    exact = evaluate(case, "torch", double(inputs), dy.double())
    eager = evaluate(case, "torch", inputs, dy)
    bands = case.bands(dy.double(), **double(inputs))
    assert bands.keys() == exact.keys()
    for name, got in evaluate(case, "native", inputs, dy).items():
        error = float((eager[name].double() - exact[name]).abs().max())
        band = EPS * bands[name].numpy()
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


def test_threads_do_not_change_bits() -> None:
    case = linear_case(5, 130, 64, 48, "gelu", bias=True)
    inputs, dy = draw(case)
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(evaluate(case, "native", inputs, dy))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


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


def _adamw(**arguments: Any) -> None:
    ops.adamw(**arguments)


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


OPCHECKED = ["linear", "linear_odd", "layer_norm_odd", "attention_odd", "embedding_odd", "gelu"]


@pytest.mark.parametrize("name", OPCHECKED)
def test_opcheck_of_the_differentiable(name: str) -> None:
    inputs, _ = draw(CASES[name])
    leaves = {n: t.requires_grad_() for n, t in inputs.items()}
    tokens = torch.tensor([[[0, 6, 3, 3, 1]] * 3])
    calls: dict[str, tuple[str, tuple[Any, ...]]] = {
        "linear": ("linear", (*leaves.values(), "none")),
        "linear_odd": ("linear", (*leaves.values(), "gelu")),
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
    check("philox", (torch.tensor([1, 2]), 1, 2, 3, 4, 5))


def check(op: str, arguments: tuple[Any, ...]) -> None:
    torch.library.opcheck(getattr(torch.ops.compfast, op).default, arguments)


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


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: ops.linear(X, WEIGHT, impl="fast"), "impl is 'fast'; it must be"),
        (lambda: ops.linear(X, WEIGHT, activation="tanh"), "activation is 'tanh'"),
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
    ],
)
def test_refused_in_one_sentence(wrong: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as refused:
        wrong()
    assert "\n" not in str(refused.value)
