"""Engine cuda on the driver of fake_cuda.py: states, answers, runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import fake_cuda
import numpy as np
import pytest
import torch
from cuda_members import STEPS, config, members
from ensembles import random_state, start
from fake_cuda import FakeDriver
from oracle import random_batch
from small_runs import assert_same_run, interrupted_at, resumed

import compfast
from compfast.cluster.part import here
from compfast.engines.base import FROZEN, State
from compfast.errors import UsageError
from compfast.tasks import make_task

pytestmark = pytest.mark.usefixtures("native_extension")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[FakeDriver]:
    """Drivers as they are opened."""
    return fake_cuda.install(monkeypatch)


def test_no_room_on_the_device_is_out_of_memory(
    fakes: list[FakeDriver], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(self: FakeDriver, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        raise MemoryError

    monkeypatch.setattr(FakeDriver, "zeros", full)
    with pytest.raises(UsageError, match="out of memory"):
        compfast.train(config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_answers_follow_the_weights(fakes: list[FakeDriver]) -> None:
    specs = members(2)
    made, native = start("cuda", specs), start("native", specs)
    tokens, _ = random_batch(specs[0].model, make_task(specs[0].task).length, 8, seed=0)
    changes: list[Callable[[], object]] = [
        lambda: made.load(random_state(specs)),
        lambda: made.advance(3),
        lambda: made.advance(5),
        made.initialise,
    ]
    for change in changes:
        made.outputs(tokens, [0])
        change()
        native.load(made.state())
        assert made.outputs(tokens, [1, 0]).tobytes() == native.outputs(tokens, [1, 0]).tobytes()
        assert made.predict(tokens).tobytes() == native.predict(tokens).tobytes()


def test_a_state_of_the_native_engine_goes_on(fakes: list[FakeDriver]) -> None:
    specs = members(3)
    native = start("native", specs)
    native.advance(3)
    native.freeze(np.array([False, True, False]))
    made = start("cuda", specs)
    made.load(native.state())
    result = made.advance(STEPS)
    assert result.base == 3
    state: State = made.state()
    assert state.step.tolist() == [STEPS, 3, STEPS]
    assert state.status.tolist() == [0, FROZEN, 0]
    native.advance(STEPS)
    np.testing.assert_allclose(
        state.params["head.weight"], native.state().params["head.weight"], atol=1e-4
    )


@pytest.mark.usefixtures("fakes", "fast_disk")
def test_a_run_and_its_resumption(tmp_path: Path) -> None:
    whole = compfast.train(config(), tmp_path / "whole")
    assert whole.info["engine"] == "cuda"
    assert whole.info["isa"].startswith("host_")
    interrupted_at(tmp_path / "part", config(), 10)
    assert_same_run(resumed(tmp_path / "part"), whole)


@pytest.mark.usefixtures("fakes", "fast_disk")
def test_another_gpu_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = interrupted_at(tmp_path / "run", config(), 10)
    monkeypatch.setattr(FakeDriver, "isa", "other")
    with pytest.raises(UsageError, match=rf"{run.info['isa']} .* other bits; go on where it began"):
        compfast.train(None, run.path, resume=True)


@pytest.mark.usefixtures("fakes")
def test_a_cluster_compares_the_same_isa() -> None:
    assert here(config()).isa == start("cuda", members(1)).isa
