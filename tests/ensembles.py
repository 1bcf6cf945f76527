"""Small groups of members, and engines and states for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from architectures import ARCHITECTURES
from oracle import Arrays, random_params

from compfast.config import (
    Config,
    InitConfig,
    MemberSpec,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
)
from compfast.engines import make_engine
from compfast.engines.base import ACTIVE, State
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import make_tables
from compfast.tasks.anchor import AnchorConfig

Axes = tuple[tuple[str, tuple[Any, ...]], ...]


def group(
    name: str,
    axes: Axes = (("seed", (3, 4, 5)),),
    *,
    batch_size: int = 13,
    steps: int = 20,
    init: dict[str, Any] | None = None,
    optimizer: dict[str, Any] | None = None,
) -> list[MemberSpec]:
    """Members of the architecture `name` over a sweep."""
    length, changes = ARCHITECTURES[name]
    config = Config(
        task=AnchorConfig(seq_len=length),
        model=ModelConfig(**changes),
        init=InitConfig(**(init or {})),
        optimizer=OptimizerConfig(**(optimizer or {})),
        training=TrainingConfig(steps=steps, batch_size=batch_size),
        sweep=axes,
    )
    return member_specs(config)


# lr, weight decay, clip, gamma: what members of one group may differ in, beside the seed
OPTIONS = ((3e-3, 0.5, 0.7, 0.4), (1e-3, 0.05, 0.0, 0.8), (5e-3, 0.0, 0.1, 0.6))


def mixed(specs: Sequence[MemberSpec]) -> list[MemberSpec]:
    """The same members, each with its own learning rate, weight decay, clip and gamma."""
    result = []
    for i, spec in enumerate(specs):
        lr, decay, clip, gamma = OPTIONS[i % len(OPTIONS)]
        optimizer = dataclasses.replace(spec.optimizer, lr=lr, weight_decay=decay, clip=clip)
        init = dataclasses.replace(spec.init, gamma=gamma)
        result.append(dataclasses.replace(spec, optimizer=optimizer, init=init))
    return result


def start(engine: str, specs: Sequence[MemberSpec], threads: int | None = 1) -> Any:
    """An initialised engine."""
    made = make_engine(engine, specs, make_tables(specs), threads=threads)
    made.initialise()
    return made


def random_state(specs: Sequence[MemberSpec]) -> State:
    """Step 0 with networks in which every tensor matters, one seed a member."""
    drawn = [random_params(spec.model, 100 + i) for i, spec in enumerate(specs)]
    params = {name: np.stack([draw[name] for draw in drawn]) for name in drawn[0]}
    return State(
        params=params,
        exp_avg={name: np.zeros_like(value) for name, value in params.items()},
        exp_avg_sq={name: np.zeros_like(value) for name, value in params.items()},
        step=np.zeros(len(specs), np.int64),
        status=np.full(len(specs), ACTIVE, np.uint8),
    )


def member(named: Arrays, i: int) -> Arrays:
    """Row i of every tensor."""
    return {name: value[i] for name, value in named.items()}


def same_bits(a: State, b: State, rows: Sequence[int], others: Sequence[int]) -> None:
    """Fail unless members `rows` of `a` are members `others` of `b`, bit for bit."""
    left, right = list(rows), list(others)
    for part in ("params", "exp_avg", "exp_avg_sq"):
        first, second = getattr(a, part), getattr(b, part)
        assert first.keys() == second.keys()
        for name in first:
            x, y = first[name][left], second[name][right]
            assert x.tobytes() == y.tobytes(), f"{part} {name} differs"
    np.testing.assert_array_equal(a.step[left], b.step[right])
    np.testing.assert_array_equal(a.status[left], b.status[right])
