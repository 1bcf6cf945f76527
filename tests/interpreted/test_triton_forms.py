"""Forms that the anchor task's networks do not have, under the interpreter: no norm or no shifts,
no attention, one logit for binary sequences. All of them run one launch an op."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import architectures
import numpy as np
import pytest
import quick_interpreter  # noqa: F401
import test_binary_networks
import test_engines
import torch
import torch.nn.functional as F
from ensembles import group, random_state, same_bits, start
from op_cases import CASES, draw
from oracle import EPS, assert_within_budget, random_batch, random_params
from test_binary_networks import SINGLE, loaded
from torch import Tensor
from triton_op_cases import buffer, filled, flat, gradients, inside, live, run

from compfast.engines.triton import engine, fused, layer_norm, logistic, step
from compfast.models.families import model_plan
from compfast.models.plan import Plan

pytestmark = pytest.mark.filterwarnings(
    "ignore:TRITON_INTERPRET=1",
    "ignore::RuntimeWarning",  # NumPy's, where NaN is computed with
)

FORMS = ("no_norm", "no_norm_all_tied", "no_attention", "no_attention_post_all", "scales_alone")
SINGLES = [(name, size) for name in SINGLE for size in test_binary_networks.SIZES]


def cases(every: Sequence[Any], quick: Sequence[Any]) -> list[Any]:
    """All of them, slow but for the quick ones."""
    return [c if c in quick else pytest.param(c, marks=pytest.mark.slow) for c in every]


@pytest.mark.parametrize("name", cases(FORMS, FORMS[1:]))
def test_forward_and_every_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_engines, "SIZES", (5,))
    test_engines.test_forward_and_every_gradient("triton", name)


@pytest.mark.parametrize("case", cases(FORMS, ["no_norm_all_tied"]))
def test_ten_steps(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    members = test_engines._training
    monkeypatch.setitem(test_engines.TRAININGS, case, (case, 5, {}))
    monkeypatch.setattr(test_engines, "_training", lambda case: members(case)[:1])
    test_engines.test_ten_steps("triton", case)


@pytest.mark.parametrize("case", cases(SINGLES, [("single_tied", 3)]), ids=str)
def test_a_single_logit_is_two_of_which_one_is_zero(case: tuple[str, int]) -> None:
    test_binary_networks.test_a_single_logit_is_two_of_which_one_is_zero("triton", *case)


@pytest.fixture
def binary(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Three small members of a single logit, which are whole layers otherwise."""
    model = {"d_model": 6, "layers": 1, "logits": "single", "loss_positions": "all"}
    monkeypatch.setitem(architectures.BINARY, "small", (7, model))
    specs = test_binary_networks.specs_of("small")
    small = dataclasses.replace(specs[0].training, batch_size=4)
    return [dataclasses.replace(spec, training=small) for spec in specs]


def test_a_single_logit_trains_as_in_engine_native(binary: list[Any]) -> None:
    """Chains come from the host; the first losses part by rounding alone."""
    made, native = start("triton", binary), start("native", binary)
    loss, wanted = made.advance(2).loss, native.advance(2).loss
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    alone = start("triton", binary[1:2])
    alone.advance(1)
    alone.advance(2)
    same_bits(made.state(), alone.state(), [1], [0])


def test_answers_follow_the_sign_of_the_logit(binary: list[Any]) -> None:
    members = [random_params(binary[0].model, 100 + i) for i in range(3)]
    made = start("triton", binary)
    made.load(loaded(binary, members))
    tokens = random_batch(binary[0].model, 7, 6, seed=1)[0]
    logits = made.outputs(tokens, range(3))
    assert (logits.shape, logits[..., 0].any()) == ((3, 6, 2), False)
    np.testing.assert_array_equal(made.predict(tokens), logits[..., 1] > 0)
    assert len(np.unique(made.predict(tokens))) == 2


def test_a_logit_that_is_not_finite_ends_its_member_alone(binary: list[Any]) -> None:
    made = start("triton", binary)
    state = made.state()
    state.params["head.bias"][1] = np.nan
    made.load(state)
    loss = made.advance(1).loss
    assert made.state().status.tolist() == [0, 2, 0]
    assert np.isfinite(loss[[0, 2]]).all()


def logistic_run(z: Tensor, tokens: Tensor, targets: Tensor, each: int) -> tuple[Tensor, Tensor]:
    """(loss [M], gradient [M, N]) of logits [M, N]."""
    rows, d_rows = filled(z[..., None], each), buffer(len(z), z.shape[1], 1, each)
    losses = torch.full((len(z), logistic.programs(rows)), torch.nan)
    run(logistic.loss_and_gradient(rows, tokens, targets, d_rows, losses, live(len(z))))
    return losses.sum(1), inside(d_rows)[..., 0]


@pytest.mark.parametrize("positions", ["last", "all"])
def test_the_logistic_loss(positions: str) -> None:
    """Against float64, where exp overflows too; more rows than one program has."""
    generator = torch.Generator().manual_seed(0)
    b, t = (20, 7) if positions == "all" else (140, 1)
    tokens = torch.randint(2, (2, b, t + 1), generator=generator).int()
    tokens, targets = tokens[..., :-1].contiguous(), tokens[..., -1].contiguous()
    answer = torch.cat([tokens[..., 1:], targets[..., None]], -1).reshape(2, b * t)
    z = 2 * torch.randn((2, b * t), generator=generator)
    z[0, :8] = torch.tensor([0.0, -0.0, 100.0, -100.0, 1e-20, -1e-4, 17.0, -17.0])
    loss, gradient = logistic_run(z, tokens, targets, t)
    found = {}
    for kind in (torch.float64, torch.float32):
        x = z.to(kind, copy=True).requires_grad_()
        mean = F.binary_cross_entropy_with_logits(x, answer.to(kind), reduction="none").mean(1)
        mean.sum().backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        found[kind] = mean.detach().numpy(), x.grad.numpy()
    wide = z.double()
    terms = wide.abs() * (1 + answer) + F.softplus(-wide.abs())
    bands = terms.mean(1), (wide.sigmoid() + answer) / (b * t)
    for i, (name, got) in enumerate((("loss", loss), ("gradient", gradient))):
        exact, eager = found[torch.float64][i], found[torch.float32][i]
        error = float(np.abs(eager - exact).max())
        assert_within_budget(name, got.numpy(), exact, error, EPS * bands[i].numpy())


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("answer", [0, 1])
def test_a_loss_is_finite_only_where_every_logit_is(wrong: float, answer: int) -> None:
    """Also where the answer is the token that such a logit is sure of."""
    z = torch.zeros((2, 5))
    tokens, targets = torch.zeros((2, 5, 1), dtype=torch.int32), torch.full((2, 5), answer)
    before, _ = logistic_run(z, tokens, targets.int(), 1)
    z[1, 3] = wrong
    after, _ = logistic_run(z, tokens, targets.int(), 1)
    assert before[0] == after[0]
    assert not after[1].isfinite()


def test_a_norm_without_shift_is_that_of_shift_zero_and_writes_none() -> None:
    inputs, dy = draw(CASES["layer_norm_odd"])
    scale = inputs["weight"]
    whole, views, _ = flat(scale, torch.zeros_like(scale))
    x, y, on = filled(inputs["x"]), [buffer(*dy.shape) for _ in range(2)], live(len(dy))
    dx, partials = [buffer(*dy.shape) for _ in range(2)], []
    for i in range(2):
        partial, (d_scale, d_shift) = gradients(whole, views)
        shift = views[1] if i == 0 else None
        down = d_shift if i == 0 else None
        run(
            layer_norm.forward(x, views[0], shift, y[i], on, epsilon=1e-5),
            layer_norm.backward(
                filled(dy), x, views[0], dx[i], d_scale, down, on, epsilon=1e-5, add=False
            ),
        )
        partials.append(partial)
    assert torch.equal(inside(y[0]), inside(y[1]))
    assert torch.equal(inside(dx[0]), inside(dx[1]))
    width = scale.shape[1]
    assert torch.equal(partials[0][..., :width], partials[1][..., :width])
    assert not partials[0].isnan().any()
    assert partials[1][..., width:].isnan().all()


def test_a_drawn_batch_is_embedded_from_the_first_token_that_has_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No shipped network has such a table for a batch that the kernel draws; a user's may."""
    first = 50

    def later(model: Any, *, absorb: bool) -> Plan:
        embed, *rest = model_plan(model, absorb=absorb).ops
        embed = dataclasses.replace(embed, attributes={"first": first})
        return Plan(model_plan(model, absorb=absorb).buffers, (embed, *rest))

    for module in (engine, step):
        monkeypatch.setattr(module, "model_plan", later)
    monkeypatch.setattr(fused, "fits", lambda *shape: False)
    specs = group("one_layer", (("seed", (3, 4)),), batch_size=4)
    made, state = start("triton", specs), random_state(specs)
    made.load(state)
    begun = made._step_of(range(2))
    begun.open_window(0, 1)
    run(*begun.launches[:2])
    program = begun.program
    ids = program.tokens.numpy()
    assert ids.min() < first < ids.max()
    table, places = state.params["embed.token.weight"], state.params["embed.position.weight"]
    for i in range(2):
        rows = np.where(ids[i, ..., None] < first, 0.0, table[i][np.maximum(ids[i] - first, 0)])
        wanted = (rows + places[i]).reshape(-1, table.shape[-1])
        got = program.values["embed"].tensor[i, :, : table.shape[-1]].numpy()
        np.testing.assert_array_equal(got, wanted.astype(np.float32))
