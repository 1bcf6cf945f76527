"""Learning-rate tables against their formulas, written out."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from compfast.config import Config, OptimizerConfig, TrainingConfig, settings
from compfast.config.sections import SCHEDULES
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import make_tables, schedule_tables
from compfast.errors import UsageError
from compfast.models.init import initial_std
from compfast.tasks import preset


def test_constant() -> None:
    scale, offset, _, _ = schedule_tables(OptimizerConfig(schedule="constant"), 7)
    assert scale.tolist() == [1.0] * 7
    assert offset.tolist() == [0.0] * 7


def test_cosine_with_warmup_and_floor() -> None:
    scale, offset, _, _ = schedule_tables(OptimizerConfig(warmup=0.05, floor=0.05), 1000)
    assert (offset == 0).all()
    assert scale[0] == 1 / 50
    assert scale[49] == 1.0
    assert scale[:50] == pytest.approx(np.arange(1, 51) / 50, rel=1e-15)
    for t in range(49, 1000):
        cosine = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (t - 49) / 950))
        assert scale[t] == pytest.approx(cosine, rel=1e-13)
    assert scale[-1] == 0.05
    assert (np.diff(scale[49:]) < 0).all()


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_very_short_runs_are_finite(steps: int, warmup: float, schedule: Any) -> None:
    points = ((0.0, 0.5), (0.6, 1.0)) if schedule == "points" else ()
    optimizer = OptimizerConfig(schedule=schedule, warmup=warmup, points=points)
    for table in schedule_tables(optimizer, steps):
        assert table.shape == (steps,)
        assert np.isfinite(table).all()
        assert ((table >= 0) & (table <= 1)).all()


def test_cosine_without_warmup_starts_at_the_peak() -> None:
    scale = schedule_tables(OptimizerConfig(warmup=0.0), 11)[0]
    assert scale[0] == 1.0
    assert scale[-1] == 0.05


def test_the_papers_schedule() -> None:
    config = settings.from_dict(preset("paper"))
    optimizer, steps = config.optimizer, config.training.steps
    scale, offset, _, _ = schedule_tables(optimizer, steps)
    rate = optimizer.lr * scale + offset
    assert rate[0] == pytest.approx(1e-5, rel=1e-15)
    assert rate[3700] == pytest.approx(2.5e-4, rel=1e-15)
    assert rate[1850] == pytest.approx(1e-5 + 2.4e-4 / 2, rel=1e-14)
    for t in range(3700, 77_700, 997):
        cosine = 1e-5 + 2.4e-4 * 0.5 * (1 + math.cos(math.pi * (t - 3700) / 74_000))
        assert rate[t] == pytest.approx(cosine, rel=1e-13)
    assert rate[-1] == pytest.approx(1e-5, rel=1e-6)
    assert rate.argmax() == 3700
    smaller = 1e-4 * scale + offset  # another member's peak, the same ends
    assert (smaller[0], smaller.max()) == pytest.approx((1e-5, 1e-4), rel=1e-15)


def test_bias_corrections() -> None:
    _, _, one, two = schedule_tables(OptimizerConfig(beta1=0.9, beta2=0.999), 5000)
    t = np.arange(1, 5001)
    np.testing.assert_allclose(one, 1 - 0.9**t, rtol=0, atol=2.3e-16)
    np.testing.assert_allclose(two, 1 - 0.999**t, rtol=0, atol=2.3e-16)
    assert schedule_tables(OptimizerConfig(beta1=0.0), 3)[2].tolist() == [1.0, 1.0, 1.0]


def test_tables_of_a_group() -> None:
    config = Config(
        training=TrainingConfig(steps=40),
        sweep=(("init.gamma", (0.3, 0.9)), ("optimizer.lr", (1e-3, 1e-2)), ("seed", (0, 1))),
    )
    specs = member_specs(config)
    tables = make_tables(specs)
    assert tables.std.shape[0] == 8
    for i, spec in enumerate(specs):
        assert tables.std[i].tolist() == initial_std(spec).tolist()
    assert tables.scale.shape == tables.bias_correction2.shape == (40,)
    assert tables.scale.tolist() == schedule_tables(config.optimizer, 40)[0].tolist()
    other = dataclasses.replace(specs[0], optimizer=OptimizerConfig(warmup=0.5))
    with pytest.raises(UsageError, match="one schedule"):
        make_tables([*specs, other])


def test_linear() -> None:
    scale = schedule_tables(OptimizerConfig(schedule="linear", warmup=0.1, floor=0.2), 101)[0]
    assert scale[:10] == pytest.approx(np.arange(1, 11) / 10, rel=1e-15)
    assert scale[9:] == pytest.approx(1 - 0.8 * np.arange(92) / 91, rel=1e-14)


@pytest.mark.parametrize("steps", [100, 333, 1000])
def test_one_cycle_is_pytorchs(steps: int) -> None:
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=1.0)
    peak = {"max_lr": 1.0, "total_steps": steps, "pct_start": 0.02, "cycle_momentum": False}
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, **peak, div_factor=100, final_div_factor=0.05, anneal_strategy="cos"
    )
    own = OptimizerConfig(schedule="one_cycle", warmup=0.02, start=0.01, floor=0.2)
    scale = schedule_tables(own, steps)[0]
    for t in range(steps):
        assert scale[t] == pytest.approx(cycle.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        if t < steps - 1:
            cycle.step()


def test_points_are_joined_by_lines() -> None:
    points = ((0.25, 0.0), (0.5, 2.0), (0.75, 1.0))
    scale = schedule_tables(OptimizerConfig(schedule="points", points=points), 8)[0]
    assert scale.tolist() == [0.0, 0.0, 0.0, 1.0, 2.0, 1.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schedule": "points"}, "needs at least one"),
        ({"points": ((0.0, 1.0),)}, "the others none"),
        ({"schedule": "points", "points": ((0.5, 1.0), (0.2, 1.0))}, "must rise"),
        ({"schedule": "points", "points": ((0.0, -1.0),)}, "at least 0"),
    ],
)
def test_points_that_are_no_schedule_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        OptimizerConfig(**fields)
