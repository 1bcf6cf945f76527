"""The optimiser's launches alone: what each group's weight decay leaves of a parameter."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import quick_interpreter  # noqa: F401
import torch
from ensembles import group, start

from compfast.config import WEIGHT_DECAYS, MemberSpec

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_INTERPRET=1")

KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"decay": "matrices"},
    {"kind": "sgd"},
    {"kind": "sgd", "momentum": 0.9, "nesterov": True},
)
FIVE: dict[str, Any] = dict(zip(WEIGHT_DECAYS, (0.0, 20.0, 30.0, 40.0, 50.0), strict=True))


def _members(kind: dict[str, Any]) -> list[MemberSpec]:
    """Each group its own; none; each the member's own; one seed for all."""
    (spec,) = group("one_layer", (("seed", (3,)),), optimizer={**kind, "weight_decay": 10.0})
    each: tuple[dict[str, Any], ...] = (FIVE, {}, dict.fromkeys(WEIGHT_DECAYS, 10.0))
    optimizers = [dataclasses.replace(spec.optimizer, **own) for own in each]
    return [dataclasses.replace(spec, member=i, optimizer=o) for i, o in enumerate(optimizers)]


def _optimised(specs: list[MemberSpec], gradient: float) -> tuple[Any, Any]:
    """States before and after one step on a gradient that is the same for all members."""
    made = start("triton", specs)
    before = made.state()
    step = made._step_of(range(len(specs)))
    step.open_window(0, 1)
    parts = step.program.gradients
    drawn = torch.randn(parts.shape[1:], generator=torch.Generator().manual_seed(0))
    parts.copy_(gradient * drawn)
    step.program.losses.zero_()
    for launch in step.launches[-3:]:
        launch.run()
    return before, made.state()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_of_a_parameter(kind: dict[str, Any]) -> None:
    """To the bit, where no gradient moves it."""
    specs = _members(kind)
    before, after = _optimised(specs, 0.0)
    assert (after.step == 1).all()
    lr = float(np.float32(specs[0].optimizer.lr))  # the warm-up is one step long
    for i, spec in enumerate(specs):
        for name, value in before.params.items():
            decay = spec.optimizer.weight_decay_of(_group_of(name))
            if kind.get("decay") == "matrices" and value.ndim == 2:
                decay = 0.0
            kept = np.float32(1.0 - lr * decay)
            assert after.params[name][i].tobytes() == (value[i] * kept).tobytes(), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_member_s_own_decay_for_each_group_has_the_bits_of_none(kind: dict[str, Any]) -> None:
    _, after = _optimised(_members(kind), 1.0)
    for name, value in after.params.items():
        assert value[1].tobytes() == value[2].tobytes(), name
    assert after.params["head.weight"][0].tobytes() != after.params["head.weight"][1].tobytes()


def _group_of(name: str) -> str:
    if not name.endswith("weight") or "norm" in name:
        return ""
    groups = {"embed": "embedding", "query": "qk", "key": "qk", "value": "vo", "output": "vo"}
    groups |= {"ffn": "ffn", "head": "head"}
    return next(group for part, group in groups.items() if part in name)
