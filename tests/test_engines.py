"""Every engine against float64, inside the error budget of tests/oracle.py."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import torch
from architectures import NAMES
from ensembles import group, member, mixed, random_state, start
from oracle import Array, Reference, random_batch, reference
from oracle_training import TrainingBudget, Trajectory, train, training_budget

from compfast.config import WEIGHT_DECAYS, MemberSpec
from compfast.engines import make_engine
from compfast.ensembles.schedule import make_tables
from compfast.errors import UsageError
from compfast.tasks import make_task

SIZES = (5, 37)  # neither a multiple of any microbatch


@pytest.mark.parametrize("name", NAMES)
def test_forward_and_every_gradient(engine: str, name: str) -> None:
    specs = group(name)
    made, state = start(engine, specs), random_state(specs)
    made.load(state)
    for size in SIZES:
        tokens, targets = random_batch(
            specs[0].model, make_task(specs[0].task).length, size, seed=size
        )
        loss, grads = made.gradients(tokens, targets)
        logits = made.outputs(tokens, range(len(specs)))
        found = _reference(name, size)
        assert grads.keys() == found.exact.grads.keys()
        for tensor, gradient in grads.items():
            found.check(tensor, gradient)
        found.check("loss", loss)
        found.check("logits", logits, np.s_[:, :, -1])


@functools.cache
def _reference(name: str, size: int) -> Reference:
    specs = group(name)
    batch = random_batch(specs[0].model, make_task(specs[0].task).length, size, seed=size)
    state = random_state(specs)
    members = [member(state.params, i) for i in range(len(specs))]
    return reference(specs[0].model, members, *batch)


DECAYS: dict[str, Any] = dict(zip(WEIGHT_DECAYS, (0.0, 0.3, 0.6, 1.2, 2.4), strict=True))
# architecture, batch size, optimiser; see ensembles.OPTIONS for what members differ in
TRAININGS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "default": ("default", 37, {}),
    "decay_matrices": ("default", 16, {"decay": "matrices", "schedule": "constant"}),
    "large_eps_and_betas": ("four_heads", 13, {"eps": 1e-3, "beta1": 0.5, "beta2": 0.9}),
    "paper": ("paper_form", 50, {"schedule": "paper", "warmup": 0.25, "base_lr": 1e-4}),
    "decay_windows": ("one_layer_post", 13, {"decay_windows": ((0.1, 0.25), (0.4, 0.45))}),
    "decay_windows_matrices": (
        "default",
        13,
        {"decay_windows": ((0.0, 0.2),), "decay": "matrices", "schedule": "constant"},
    ),
    "sgd": ("default", 13, {"kind": "sgd"}),
    "sgd_momentum": (
        "one_layer_post",
        13,
        {"kind": "sgd", "momentum": 0.9, "decay_windows": ((0.1, 0.25),)},
    ),
    "sgd_nesterov": (
        "own_head_sizes",
        7,
        {"kind": "sgd", "momentum": 0.7, "nesterov": True, "decay": "matrices"},
    ),
    "group_decays": ("one_layer_post", 13, {**DECAYS, "decay_windows": ((0.1, 0.25),)}),
    "group_decays_matrices": ("own_head_sizes", 13, {**DECAYS, "decay": "matrices"}),
    "group_decays_tied": ("tied", 13, DECAYS),
    "group_decays_sgd": (
        "one_layer_post",
        13,
        {**DECAYS, "kind": "sgd", "momentum": 0.9, "decay_windows": ((0.1, 0.25),)},
    ),
    "own_head_sizes": ("own_head_sizes", 13, {"warmup": 0.0}),
    "tied": ("tied", 13, {"decay": "matrices"}),
    "tied_all_post": ("tied_all_post", 7, {}),
    "one_layer_post": ("one_layer_post", 13, {}),
    "four_layers": ("four_layers", 13, {}),
    "four_layers_post": ("four_layers_post", 13, {"decay": "matrices"}),
    "long_heads_all": ("long_heads_all", 13, {}),
    "one_sequence": ("spare_positions", 1, {}),
}
STEPS = 10


@pytest.mark.parametrize("case", TRAININGS)
def test_ten_steps(engine: str, case: str) -> None:
    specs = _training(case)
    made = start(engine, specs)
    before = made.state()
    result = made.advance(STEPS)
    assert (result.base, result.loss.shape, result.stopped) == (0, (len(specs), STEPS), False)
    after = made.state()
    assert (after.step == STEPS).all()
    for i in range(len(specs)):
        exact, allowed = _trained(case, i)
        for name, value in member(before.params, i).items():
            assert value.tobytes() == exact.start[name].tobytes(), f"{name}: other initial bits"
        for name, bound in allowed.params.items():
            _assert_close(name, after.params[name][i], exact.params[name], bound)
        _assert_close(
            "loss", result.loss[i], np.array(exact.losses), np.full(STEPS, allowed.losses)
        )
        _assert_close("norm", result.grad_norm[i], np.array(exact.norms), allowed.norms)


def _assert_close(name: str, got: Array, wanted: Array, allowed: Array) -> None:
    error = np.abs(got.astype(np.float64) - wanted)
    worst = np.unravel_index(np.argmax(error - allowed), error.shape)
    assert (error <= allowed).all(), (
        f"{name}{list(map(int, worst))}: {got[worst]:.9g} is {error[worst]:.3g} from float64,"
        f" {allowed[worst]:.3g} are allowed"
    )


def _training(case: str) -> list[MemberSpec]:
    name, size, optimizer = TRAININGS[case]
    specs = mixed(group(name, (("seed", (3, 4)),), batch_size=size, optimizer=optimizer))
    if DECAYS.items() <= optimizer.items():  # the members' differ, in another order of groups
        turned: dict[str, Any] = dict(zip(DECAYS, (2.0, 0.0, 1.0, 0.5, 0.25), strict=True))
        specs[1] = dataclasses.replace(
            specs[1], optimizer=dataclasses.replace(specs[1].optimizer, **turned)
        )
    if optimizer.get("kind") != "sgd":
        return specs
    faster = [dataclasses.replace(s.optimizer, lr=30 * s.optimizer.lr) for s in specs]
    return [dataclasses.replace(s, optimizer=o) for s, o in zip(specs, faster, strict=True)]


@functools.cache
def _trained(case: str, i: int) -> tuple[Trajectory, TrainingBudget]:
    spec = _training(case)[i]
    exact = train(spec, STEPS)
    return exact, training_budget(exact, train(spec, STEPS, torch.float32), spec.optimizer)


def test_a_sequence_longer_than_the_positions_is_refused() -> None:
    specs = [
        dataclasses.replace(spec, model=dataclasses.replace(spec.model, max_positions=4))
        for spec in group("one_layer")
    ]
    with pytest.raises(UsageError, match="5 positions; this model has 4"):
        make_engine("native", specs, make_tables(specs))
