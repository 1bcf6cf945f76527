"""Networks of one logit for binary sequences: against float64 and among each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from architectures import BINARY, sections_of
from ensembles import same_bits, start
from oracle import (
    EPS,
    Array,
    Arrays,
    assert_within_budget,
    random_batch,
    random_params,
    reference,
)

from compfast.config import Config, MemberSpec, ModelConfig
from compfast.engines.base import ACTIVE, State
from compfast.ensembles.grid import member_specs
from compfast.errors import UsageError
from compfast.models.families import model_plan
from compfast.models.params import parameter_table
from compfast.tasks.markov import MarkovConfig

SINGLE = tuple(name for name in BINARY if name.startswith("single"))
CANONICAL = tuple(name for name in BINARY if name.startswith("canonical"))
LENGTH, SIZES = 23, (3, 22)  # sequences in a batch: less and more than a microbatch


def specs_of(name: str) -> list[MemberSpec]:
    config = Config(
        **sections_of(name),
        init={"std": 0.4},  # type: ignore[arg-type]
        sweep=(("seed", (3, 4, 5)),),
        training={"steps": 20, "batch_size": 13},  # type: ignore[arg-type]
    )
    return member_specs(config)


def loaded(specs: list[MemberSpec], members: list[Arrays]) -> State:
    params = {name: np.stack([each[name] for each in members]) for name in members[0]}
    first, second = ({n: np.zeros_like(v) for n, v in params.items()} for _ in range(2))
    count = len(specs)
    status = np.full(count, ACTIVE, np.uint8)
    return State(params, first, second, np.zeros(count, np.int64), status)


def widened(name: str, value: Array) -> Array:
    """A tensor of the single form as that of the network of two tokens, token 0 having zeros."""
    two = name in ("embed.token.weight", "head.weight", "head.bias")
    return np.concatenate([np.zeros_like(value), value]) if two else value


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SINGLE)
def test_a_single_logit_is_two_of_which_one_is_zero(engine: str, name: str, size: int) -> None:
    specs = specs_of(name)
    model: ModelConfig = specs[0].model
    members = [random_params(model, 100 + i) for i in range(len(specs))]
    made = start(engine, specs)
    made.load(loaded(specs, members))
    tokens, targets = random_batch(model, LENGTH, size, seed=size)
    pair = dataclasses.replace(model, logits="vocabulary", vocab_size=2)
    wide = [{n: widened(n, value) for n, value in each.items()} for each in members]
    wanted = reference(pair, wide, tokens, targets)
    loss, grads = made.gradients(tokens, targets)
    wanted.check("loss", loss)
    wanted.check("logits", made.outputs(tokens, range(len(specs))), np.s_[:, :, -1])
    for tensor, gradient in grads.items():
        own = np.s_[:, 1:] if gradient.shape[1] * 2 == wanted.exact.grads[tensor].shape[1] else ...
        wanted.check(tensor, gradient, own)


def canonical_pass(
    numbers: Sequence[float], tokens: Array, targets: Array, positions: str, dtype: torch.dtype
) -> Arrays:
    """Loss, logits [B, T] and gradients by autograd of the formula itself."""
    e, w, b = (torch.tensor(number, dtype=dtype, requires_grad=True) for number in numbers)
    x = torch.tensor(tokens).to(dtype)
    following = torch.tensor(np.concatenate([tokens[:, 1:], targets[:, None]], axis=1)).to(dtype)
    z = e**2 * (1 + 2 * w * w.abs()) * x + (b - e**2 / 2)
    terms = torch.nn.functional.softplus(z) - following * z
    loss = (terms if positions == "all" else terms[:, -1:]).mean()
    found = {"loss": loss, "logits": z}
    grads = zip("ewb", torch.autograd.grad(loss, (e, w, b)), strict=True)
    return {name: value.detach().numpy() for name, value in (*found.items(), *grads)}


def canonical_bands(numbers: Sequence[float], tokens: Array, positions: str) -> Arrays:
    """EPS x each one's last sum on absolute values, as tests/oracle.py has them."""
    e, w, b = np.abs(numbers)
    slope = abs(1 + 2 * numbers[1] * w)
    logits = e**2 * slope * tokens + b + e**2 / 2
    rows = slice(None) if positions == "all" else slice(-1, None)
    ones = tokens[:, rows].mean()  # a row's dz is at most 1
    bands = {
        "logits": logits,
        "loss": (2 * logits[:, rows] + np.log(2)).mean(),
        "e": e * (2 * slope * ones + 1),
        "w": 4 * w * e**2 * ones,
        "b": 1.0,
    }
    return {name: EPS * np.asarray(value) for name, value in bands.items()}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CANONICAL)
def test_the_canonical_model(engine: str, name: str, size: int) -> None:
    """Within the error budget of tests/oracle.py."""
    specs, positions = specs_of(name), name.removeprefix("canonical_")
    made = start(engine, specs)
    made.initialise()
    params = made.state().params
    tokens, targets = random_batch(specs[0].model, LENGTH, size, seed=size)
    loss, grads = made.gradients(tokens, targets)
    logits = made.outputs(tokens, range(len(specs)))
    assert not logits[:, :, 0].any()
    for i in range(len(specs)):
        numbers = [float(params[n][i, 0]) for n in "ewb"]
        exact, single = (
            canonical_pass(numbers, tokens, targets, positions, dtype)
            for dtype in (torch.float64, torch.float32)
        )
        bands = canonical_bands(numbers, tokens, positions)
        got = {n: grads[n][i, 0] for n in "ewb"} | {"loss": loss[i], "logits": logits[i, :, 1]}
        exact["logits"], single["logits"] = exact["logits"][:, -1], single["logits"][:, -1]
        for which, value in got.items():
            error = float(np.abs(single[which] - exact[which]).max())
            assert_within_budget(which, np.asarray(value), exact[which], error, bands[which])


@pytest.mark.parametrize("name", BINARY)
def test_alone_and_among_others_trained_bits_are_the_same(engine: str, name: str) -> None:
    specs = specs_of(name)
    together, alone = start(engine, specs, threads=2), start(engine, specs[1:2])
    together.advance(7)
    together.advance(20)
    alone.advance(20)
    same_bits(together.state(), alone.state(), [1], [0])


def test_predictions_follow_the_sign_of_the_logit(engine: str) -> None:
    made = start(engine, specs_of("canonical_all"))
    tokens = random_batch(specs_of("canonical_all")[0].model, LENGTH, 9, seed=1)[0]
    logits = made.outputs(tokens, range(3))
    np.testing.assert_array_equal(made.predict(tokens), logits[:, :, 1] > 0)
    assert len(np.unique(made.predict(tokens))) == 2


def test_a_logit_that_is_not_finite_ends_its_member_alone(engine: str) -> None:
    specs = specs_of("canonical_all")
    made = start(engine, specs)
    state = made.state()
    state.params["b"][1] = np.nan
    made.load(state)
    advanced = made.advance(3)
    assert list(made.state().status) == [0, 2, 0]
    assert np.isfinite(advanced.loss[[0, 2]]).all()


@pytest.mark.parametrize(
    "model",
    [{"family": "canonical"}, {"logits": "single"}, {"family": "canonical", "vocab_size": 4}],
    ids=str,
)
def test_other_tasks_are_refused(model: dict[str, Any]) -> None:
    task = MarkovConfig(chain="switching", states=3, p=0.5, seq_len=9)
    with pytest.raises(UsageError, match="for tokens 0 and 1; this task has 3"):
        member_specs(Config(task=task, model=model))


def test_engine_triton_refuses_by_name_what_it_has_no_kernel_for() -> None:
    refusals = pytest.importorskip("compfast.engines.triton.refusals")
    absorbed = model_plan(specs_of("one_layer")[0].model, absorb=True)
    shared = dataclasses.replace(
        absorbed, ops=tuple(op for op in absorbed.ops if op.kind != "head_linear")
    )
    for plan, name in (
        (model_plan(specs_of("canonical_all")[0].model), "op canonical (model.family = canonical)"),
        (absorbed, "op head_linear"),
        (shared, "op attention whose heads share keys and values"),
    ):
        with pytest.raises(UsageError) as refused:
            refusals.check_plan(plan, LENGTH)
        assert (
            str(refused.value) == f"engine triton has no {name}; engines native and eager have it"
        )
    for taken in (specs_of("single_tied"), specs_of("scales_alone")):
        refusals.check_plan(model_plan(taken[0].model, absorb=False), LENGTH)


def test_the_table_of_the_canonical_model_is_three_numbers() -> None:
    assert [(t.name, t.shape) for t in parameter_table(specs_of("canonical_all")[0].model)] == [
        ("e", (1,)),
        ("w", (1,)),
        ("b", (1,)),
    ]
