"""Every shipped task on the native engine: the oracle's losses, a member's own bits, resumption."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from compfast.config import MemberSpec, settings
from compfast.config.plugins import known_tasks
from compfast.engines import make_engine
from compfast.engines.base import Engine
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import make_tables
from compfast.tasks import start_of

pytestmark = pytest.mark.usefixtures("native_extension")

STEPS = 4
SHORT: dict[str, dict[str, Any]] = {
    "markov": {"seq_len": 12},
    "affine": {"total": 500},
    "fuzzy": {"samples": 6},
    "sraven": {"features": 2},
    "scan": {"grammar": "small"},
    "hyperteacher": {"samples": 6, "dim": 3, "hidden": 4},
}


def _specs(task: str) -> list[MemberSpec]:
    start = start_of(task)
    overlay: dict[str, Any] = {
        "task": SHORT.get(task, {}),
        "model": {"layers": 1, "d_model": 16, "heads": 2},
        "training": {"steps": STEPS, "batch_size": 8},
        "sweep": {"init.gamma": [0.4, 0.8], "seed": [3, 4]},
    }
    return member_specs(settings.from_dict(settings.apply(start, overlay)))


def _started(name: str, specs: list[MemberSpec]) -> Engine:
    engine = make_engine(name, specs, make_tables(specs), threads=2)
    engine.initialise()
    return engine


@pytest.mark.parametrize("task", known_tasks())
def test_losses_are_the_oracles(task: str) -> None:
    specs = _specs(task)
    native, eager = (_started(name, specs).advance(STEPS).loss for name in ("native", "eager"))
    np.testing.assert_allclose(native, eager, rtol=2e-5)
    assert (np.abs(native[0] - native[1]) > 1e-6).any()  # another seed, other data


@pytest.mark.parametrize("task", known_tasks())
def test_a_member_has_its_own_bits(task: str) -> None:
    """Alone or among others, in one go or loaded again after a step: the same losses."""
    specs = _specs(task)
    among = _started("native", specs).advance(STEPS).loss
    alone = _started("native", [dataclasses.replace(specs[2], member=0)])
    first = alone.advance(1).loss
    again = _started("native", [specs[2]])
    again.load(alone.state())
    rest = again.advance(STEPS).loss
    assert np.concatenate([first, rest], axis=1).tobytes() == among[2:3].tobytes()
