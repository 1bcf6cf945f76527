"""Members of the networks that engine cuda is compiled for: of `tiny` where nothing is said."""

from __future__ import annotations

from typing import Any

import pytest
import test_engine_protocol as protocol
import test_engines
import test_independence as independence
from ensembles import Axes, group, mixed

from compfast.config import (
    Config,
    EvaluationConfig,
    InitConfig,
    MemberSpec,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
)
from compfast.ensembles.grid import member_specs

STEPS = 6
TRAININGS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "sgd": {"kind": "sgd"},
    "nesterov": {"kind": "sgd", "momentum": 0.9, "nesterov": True, "decay": "matrices"},
    "group_decays": {**test_engines.DECAYS, "kind": "sgd", "momentum": 0.9},
}


def network(
    name: str,
    axes: Axes = (("seed", (3, 4, 5)),),
    *,
    batch_size: int = 13,
    steps: int = 20,
    init: dict[str, Any] | None = None,
    optimizer: dict[str, Any] | None = None,
) -> list[MemberSpec]:
    """As ensembles.group: `tiny` is compfast.Config()'s network, `narrow` ModelConfig()'s."""
    if name == "narrow":
        return group(
            "default", axes, batch_size=batch_size, steps=steps, init=init, optimizer=optimizer
        )
    assert name == "tiny"
    config = Config(
        init=InitConfig(**(init or {})),
        optimizer=OptimizerConfig(**(optimizer or {})),
        training=TrainingConfig(steps=steps, batch_size=batch_size),
        sweep=axes,
    )
    return member_specs(config)


def members(count: int, steps: int = STEPS, batch_size: int = 5) -> list[MemberSpec]:
    axes = (("seed", tuple(range(count))),)
    return mixed(network("tiny", axes, batch_size=batch_size, steps=steps))


def config(run: dict[str, Any] | None = None, **training: Any) -> Config:
    """Three members; every cadence differs."""
    chosen: dict[str, Any] = {"steps": 23, "batch_size": 4, "log_every": 5, "eval_every": 8}
    return Config(
        training=TrainingConfig(**{**chosen, **training}),
        evaluation=EvaluationConfig(seen_items=24, unseen_items=24),
        run=RunConfig(**{"engine": "cuda", "threads": 1, "checkpoint_every": 7, **(run or {})}),
        sweep=(("seed", (0, 1, 2)),),
    )


def take_tiny(patch: pytest.MonkeyPatch) -> None:
    """Tests written for any network get the kernel's, and little work."""

    def own(name: str, *axes: Any, **how: Any) -> list[MemberSpec]:
        return network("tiny", *axes, **{**how, "batch_size": min(how.get("batch_size", 5), 5)})

    for module in (protocol, independence):
        patch.setattr(module, "group", own)


def ten_steps(name: str, form: str, patch: pytest.MonkeyPatch) -> None:
    """Engine cuda against float64: tests/test_engines.py on one of its networks."""
    patch.setattr(test_engines, "group", network)
    case = f"cuda-{name}-{form}"
    patch.setitem(test_engines.TRAININGS, case, (name, 37, TRAININGS[form]))
    test_engines.test_ten_steps("cuda", case)
