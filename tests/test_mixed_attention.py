"""Generalised attention: right in float64's eyes in every kind, alone = among others.

The budget is that of tests/oracle.py; the orders of float32 PyTorch are tests/mixed_cases.py's.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from mixed_cases import PATHS, WEIGHTS, Mixed, eager_errors, exactly
from op_cases import Tensors, double, draw, evaluate
from oracle import EPS, assert_within_budget
from test_isa import isas
from torch import Tensor

from compfast import _native, ops
from compfast.errors import UsageError

pytestmark = pytest.mark.usefixtures("native_extension")

KINDS = list(itertools.product(WEIGHTS, PATHS, (False, True), (False, True)))
SHAPES = list(itertools.product((1, 5, 17, 32, 37), (1, 8, 16), (2, 4, 16)))
FEW = [
    Mixed(t=17, heads=8, d_k=2, d_v=2),
    Mixed(t=9, heads=3, d_k=4, d_v=5, t_q=4, relative=False),
]
NAMED = {
    "fuzzy": Mixed(t=32),
    "sraven": Mixed(t=36, t_q=4, heads=16, d_k=4, d_v=4, dropout=True, path="deep", b=1),
    "odd": Mixed("softmax", "none", t=7, heads=3, d_k=5, d_v=3, causal=True),
    "last": Mixed("linear", "linear", t=19, t_q=1, heads=4, d_k=16, d_v=16, dropout=True),
}


@pytest.fixture(autouse=True)
def _nan_in_scratch() -> Iterator[None]:
    _native.poison_scratch(True)
    yield
    _native.poison_scratch(False)


def check(mixed: Mixed) -> None:
    """Output and every gradient within the budget."""
    case = mixed.case()
    inputs, dy = draw(case)
    exact = exactly(mixed, inputs, dy)
    errors = eager_errors(mixed, inputs, dy, exact)
    bands = case.bands(dy.double(), **double(inputs))
    assert bands.keys() == exact.keys()
    for name, got in evaluate(case, "native", inputs, dy).items():
        band = EPS * bands[name].numpy()
        what = f"{name} of {mixed}"
        assert_within_budget(what, got.numpy(), exact[name].numpy(), errors[name], band)


def of_kind(shape: Mixed, kind: tuple[str, str, bool, bool]) -> Mixed:
    weights, path, causal, dropout = kind
    return dataclasses.replace(shape, weights=weights, path=path, causal=causal, dropout=dropout)


def of_shape(shape: tuple[int, int, int]) -> Mixed:
    """One head over its own root is a sign: a small epsilon leaves a score near 0 to rounding."""
    t, heads, d = shape
    epsilon = 1e-3 if heads == 1 else 1e-6
    return Mixed(t=t, heads=heads, d_k=d, d_v=d, b=1 if t > 17 else 2, epsilon=epsilon)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_in_a_few_shapes(kind: tuple[str, str, bool, bool]) -> None:
    for shape in FEW:
        check(of_kind(shape, kind))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_in_a_few_kinds(shape: tuple[int, int, int]) -> None:
    """Two kinds of each, so that all come round; their step has no factor of their number."""
    at = SHAPES.index(shape)
    for turn in (2 * at, 2 * at + 1):
        check(of_kind(of_shape(shape), KINDS[turn * 7 % len(KINDS)]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[1] == "none"])
def test_heads_of_whole_vectors(kind: tuple[str, str, bool, bool]) -> None:
    """Products of another form: of more than a block of rows, of fewer rows than keys."""
    check(of_kind(Mixed(t=64, heads=4, d_k=16, d_v=16, b=1), kind))
    check(of_kind(Mixed(t=53, t_q=31, heads=3, d_k=32, d_v=16, b=2), kind))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_in_every_kind(shape: tuple[int, int, int]) -> None:
    for kind in KINDS:
        check(of_kind(of_shape(shape), kind))


@pytest.mark.parametrize("isa", isas("supported"))
@pytest.mark.parametrize("name", sorted(NAMED))
def test_every_instruction_set(isa: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPFAST_ISA", isa)
    check(NAMED[name])


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_member_alone_is_the_same_bits_and_a_nan_stays_with_its_member(name: str) -> None:
    case = NAMED[name].case()
    inputs, dy = draw(case)
    together = evaluate(case, "native", inputs, dy)
    first = {name: value[:1] for name, value in inputs.items()}
    for part, alone in evaluate(case, "native", first, dy[:1]).items():
        assert torch.equal(alone, together[part][:1]), part
    for value in inputs.values():
        value[-1] = torch.nan
    for part, got in evaluate(case, "native", inputs, dy).items():
        assert torch.equal(got[:-1], together[part][:-1]), part
    assert case.run("native", **inputs)[-1].isnan().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_stays_with_its_sequence(kind: tuple[str, str, bool, bool]) -> None:
    case = of_kind(Mixed(t=13, heads=2, b=3), kind).case()
    inputs, dy = draw(case)
    clean = evaluate(case, "native", inputs, dy)
    for name in ("q", "k", "v"):
        inputs[name][:, 1] = torch.nan
    dy[:, 1] = torch.nan
    got = evaluate(case, "native", inputs, dy)
    for name in ("out", "q", "k", "v"):
        assert torch.equal(got[name][:, ::2], clean[name][:, ::2]), name
    assert got["out"][:, 1].isnan().all()


def test_threads_do_not_change_bits() -> None:
    case = Mixed(t=33, heads=8, m=5, path="deep", dropout=True).case()
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
    case = NAMED["fuzzy"].case()
    inputs, dy = draw(case)
    plain = evaluate(case, "native", inputs, dy)
    leaves = {n: x.mT.contiguous().mT.requires_grad_() for n, x in inputs.items()}
    assert not leaves["q"].is_contiguous()
    out = case.run("native", **leaves)
    grads = torch.autograd.grad(out, list(leaves.values()), dy.mT.contiguous().mT)
    assert torch.equal(out, plain["out"])
    assert all(torch.equal(g, plain[n]) for n, g in zip(leaves, grads, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_the_equation_word_for_word(kind: tuple[str, str, bool, bool]) -> None:
    mixed = of_kind(Mixed(t=4, t_q=3, heads=2, d_k=3, d_v=2, m=1, b=1), kind)
    inputs, _ = draw(mixed.case())
    got = mixed.case().run("torch", **double(inputs))[0, 0]
    keep = mixed.keep(1)
    assert np.allclose(got.numpy(), by_hand(mixed, inputs, keep), rtol=1e-9)


def by_hand(mixed: Mixed, inputs: Tensors, keep: Tensor | None) -> np.ndarray[Any, Any]:
    """The equations of csrc/attention_mixed.h in loops, for one sequence [T_q, H, K_v]."""
    q, k, v = (inputs[name][0, 0].double().numpy() for name in ("q", "k", "v"))
    relative = inputs["relative"][0].double().numpy()
    heads, out = range(mixed.heads), np.zeros((mixed.t_q, mixed.heads, mixed.d_v))
    for i in range(mixed.t_q):
        at = i + mixed.t - mixed.t_q
        s = np.zeros((mixed.heads, mixed.t))
        for h, j in itertools.product(heads, range(mixed.t)):
            s[h, j] = q[i, h] @ k[j, h] / math.sqrt(mixed.d_k) + relative[h, j - at + mixed.t - 1]
        seen = np.arange(mixed.t) <= (at if mixed.causal else mixed.t)
        s[:, ~seen] = 0
        a = s
        if mixed.weights == "softmax":
            a = np.exp(s) * seen / (np.exp(s) * seen).sum(1, keepdims=True)
        if mixed.weights == "rms_head":
            a = s / np.sqrt((s**2).mean(0) + 1e-6)
        if keep is not None:
            a = a * keep[0, i].double().numpy()
        for j in range(mixed.t):
            u = sum(a[h, j] * v[j, h] for h in heads)
            w = u if mixed.path == "linear" else np.maximum(u, 0)
            if mixed.path == "deep":
                deep = inputs["deep"][0].double().numpy()
                w = np.maximum(sum(a[h, j] * deep[h] @ w for h in heads), 0)
            for h in heads:
                out[i, h] += a[h, j] * (v[j, h] if mixed.path == "none" else w)
    return out


def test_softmax_over_values_is_the_other_op() -> None:
    case = Mixed("softmax", "none", t=21, relative=False, causal=True).case()
    inputs, _ = draw(case)
    wanted = ops.attention(inputs["q"], inputs["k"], inputs["v"], causal=True)
    assert (case.run("native", **inputs) - wanted).abs().max() < 1e-5


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # inductor's own
@pytest.mark.parametrize("name", ["odd", "sraven"])
def test_opcheck(name: str) -> None:
    mixed = dataclasses.replace(NAMED[name], t=6, heads=2)
    inputs, _ = draw(mixed.case())
    leaves = {n: t.requires_grad_() for n, t in inputs.items()}
    options = mixed.weights, mixed.path, mixed.causal, 1e-6
    tensors = [leaves.get(n) for n in ("q", "k", "v", "relative")]
    arguments = (*tensors, mixed.keep(mixed.m), leaves.get("deep"), *options)
    torch.library.opcheck(torch.ops.compfast.mixed_attention.default, arguments)


Q, V = torch.ones(1, 2, 3, 2, 4), torch.ones(1, 2, 3, 2, 5)
DEEP = torch.ones(1, 2, 5, 5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weights": "relu"}, "weights is 'relu'; it must be one of softmax, linear, rms_head"),
        ({"path": "mlp"}, "path is 'mlp'; it must be one of none, linear, relu, deep"),
        ({"impl": "fast"}, "impl is 'fast'"),
        ({"epsilon": 0.0}, "epsilon is 0.0; it must be above 0 and finite"),
        ({"epsilon": math.nan}, "epsilon is nan"),
        ({"path": "deep"}, "deep is missing and path is 'deep'; they go together"),
        ({"deep": DEEP}, "deep is given and path is 'none'"),
        ({"deep": DEEP[:, :, :4], "path": "deep"}, "deep has shape .* with K_v = 5"),
        ({"deep": DEEP[..., :4], "path": "deep"}, "deep has shape .* with K_v' = 5"),
        ({"relative": torch.ones(1, 2, 6)}, "relative has shape .* with 2T-1 = 5"),
        ({"keep": torch.ones(1, 2, 3)}, "keep has shape .* with T_q = 3"),
        ({"q": torch.ones(1, 2, 4, 2, 4)}, "q has 4 positions; k has 3, and q must not have more"),
        ({"v": V[:, :1]}, "v has shape .* with B = 2"),
        ({"keep": torch.ones(1, 3, 3).double()}, "keep is float64 on cpu; .* needs float32"),
    ],
)
def test_refused_in_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    given: dict[str, Any] = {"q": Q, "k": Q, "v": V} | changes
    wrong: Callable[..., Tensor] = ops.mixed_attention
    with pytest.raises(UsageError, match=sentence) as refused:
        wrong(given.pop("q"), given.pop("k"), given.pop("v"), **given)
    assert "\n" not in str(refused.value)
