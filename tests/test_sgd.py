"""SGD with momentum beside AdamW: its buffer, its bits, and who has it.

Ten steps of it against float64 are cases of tests/test_engines.py.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ensembles import group, mixed, same_bits, start
from small_runs import assert_same_run, interrupted_at, resumed, small_config

import compfast
from compfast.config import Config, MemberSpec, OptimizerConfig
from compfast.engines.base import State
from compfast.ensembles.groups import groups, member_groups
from compfast.errors import UsageError
from compfast.tasks import make_task

FORMS: tuple[dict[str, Any], ...] = (
    {"momentum": 0.0},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
)


def _members(**optimizer: Any) -> list[MemberSpec]:
    return mixed(group("one_layer", optimizer={"kind": "sgd", **optimizer}))


@pytest.mark.parametrize("form", FORMS)
def test_the_first_step_is_the_clipped_gradient(engine: str, form: dict[str, Any]) -> None:
    """It is the buffer, where there is one, and the move; the second moment is nobody's."""
    specs = _members(**form, schedule="constant")
    made = start(engine, specs)
    before = made.state()
    batches = [make_task(s.task).batch(s.data_seed, 0, s.training.batch_size) for s in specs]
    grads = [made.gradients(*batch)[1] for batch in batches]
    norms = made.advance(1).grad_norm[:, 0]
    after = made.state()
    for i, spec in enumerate(specs):
        o = spec.optimizer
        factor = min(1.0, o.clip / (float(norms[i]) + 1e-6)) if o.clip else 1.0
        for name, start_value in before.params.items():
            clipped = factor * grads[i][name][i].astype(np.float64)
            buffer = clipped if o.momentum else 0.0 * clipped
            close = 1e-6 * float(np.abs(clipped).max())
            np.testing.assert_allclose(after.exp_avg[name][i], buffer, rtol=2e-6, atol=close)
            move = (1 + o.momentum) * clipped if o.nesterov else clipped
            wanted = (1 - o.lr * o.weight_decay) * start_value[i] - o.lr * move
            np.testing.assert_allclose(after.params[name][i], wanted, rtol=1e-6, atol=close)
            assert not after.exp_avg_sq[name][i].any()


def test_engines_hold_the_same_buffer() -> None:
    states: list[State] = []
    for engine in ("native", "eager"):
        made = start(engine, _members(momentum=0.9, nesterov=True))
        made.advance(6)
        states.append(made.state())
    for name, native in states[0].exp_avg.items():
        assert native.any() or name.endswith("key.bias")  # whose gradient is zero
        np.testing.assert_allclose(native, states[1].exp_avg[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_alone_and_in_parts_it_has_the_same_bits(engine: str, form: dict[str, Any]) -> None:
    specs = _members(**form)
    whole, first = start(engine, specs, threads=2), start(engine, specs)
    whole.advance(8)
    first.advance(3)
    rest, alone = start(engine, specs), start(engine, specs[1:2])
    rest.load(first.state())
    rest.advance(8)
    alone.advance(8)
    same_bits(whole.state(), rest.state(), range(3), range(3))
    same_bits(whole.state(), alone.state(), [1], [0])


def test_neither_form_is_another(engine: str) -> None:
    """Momentum, Nesterov, weight decay and AdamW each change the weights."""
    kinds = [*FORMS, {"kind": "adamw"}, {"weight_decay": 0.0}]
    found = set()
    for form in kinds:
        optimizer: dict[str, Any] = {"kind": "sgd", "weight_decay": 0.5, **form}
        made = start(engine, group("one_layer", (("seed", (3,)),), optimizer=optimizer))
        made.advance(3)
        found.add(made.state().params["head.weight"].tobytes())
    assert len(found) == len(kinds)


def _swept() -> Config:
    optimizer = OptimizerConfig(lr=0.05, momentum=0.9)
    sweep = (("optimizer.kind", ("sgd", "adamw")), ("seed", (0, 1)))
    return dataclasses.replace(small_config(sweep=sweep), optimizer=optimizer)


def test_members_may_differ_in_their_optimiser(tmp_path: Path) -> None:
    assert [len(specs) for specs in member_groups(_swept())] == [2, 2]
    run = compfast.train(_swept(), tmp_path / "run")
    assert run.members["optimizer"].to_list() == ["sgd", "sgd", "adamw", "adamw"]
    stopped = interrupted_at(tmp_path / "stopped", _swept(), 20)
    assert_same_run(run, resumed(stopped.path))


@pytest.mark.parametrize("change", [{"kind": "adamw"}, {"momentum": 0.5}, {"nesterov": True}])
def test_members_of_one_group_share_it(engine: str, change: dict[str, Any]) -> None:
    specs = _members(momentum=0.9)
    other = dataclasses.replace(specs[1].optimizer, **change)
    specs[1] = dataclasses.replace(specs[1], optimizer=other)
    assert len(groups(specs)) == 2
    with pytest.raises(UsageError, match="members 0 and 1 differ in optimizer"):
        start(engine, specs)


@pytest.mark.edge("a momentum of 1, Nesterov without momentum", "one sentence")
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "adam"}, "optimizer.kind is 'adam'; it must be one of adamw, sgd"),
        ({"momentum": 1.0}, r"optimizer.momentum is 1.0; it must be in \[0, 1\)"),
        ({"momentum": -0.1}, "optimizer.momentum is -0.1"),
        ({"nesterov": True}, "optimizer.nesterov is true; it needs an optimizer.momentum above 0"),
    ],
)
def test_settings_that_are_none(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        OptimizerConfig(**settings)
