"""What engine cuda launches, on the driver of fake_cuda.py, and that this one notices mistakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fake_cuda
import numpy as np
import pytest
from cuda_members import STEPS, members
from ensembles import same_bits, start
from fake_cuda import FakeDriver

from compfast.engines import make_engine
from compfast.engines.cuda import pace
from compfast.engines.cuda.pace import Pace
from compfast.ensembles.schedule import make_tables
from compfast.errors import UsageError

pytestmark = pytest.mark.usefixtures("native_extension")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[FakeDriver]:
    """Drivers as they are opened."""
    return fake_cuda.install(monkeypatch)


def test_launches_cover_every_step_once(
    fakes: list[FakeDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where members take turns; the bits are those of one launch."""
    specs = members(5)
    whole = start("cuda", specs)
    expected = whole.advance(STEPS)
    monkeypatch.setattr("compfast.engines.cuda.engine.MOST_SEQUENCES", 10)
    monkeypatch.setattr(pace, "LAUNCH", 100.0)  # as many steps as may be
    made = start("cuda", specs)
    found = made.advance(STEPS)
    same_bits(made.state(), whole.state(), range(5), range(5))
    assert found.loss.tobytes() == expected.loss.tobytes()
    assert found.grad_norm.tobytes() == expected.grad_norm.tobytes()
    launches = fakes[-1].launches[1:]  # the first is the trial
    counts = [(launch.count, launch.base, launch.until) for launch in launches]
    assert counts[:3] == [(2, 0, 1), (2, 1, 3), (2, 3, 6)]
    rows = [launch.members["status"] for launch in launches]
    first = min(rows)
    covered = np.zeros((5, STEPS), int)
    for row, (count, base, until) in zip(rows, counts, strict=True):
        covered[row - first : row - first + count, base:until] += 1
    assert (covered == 1).all()


def test_the_trial_launch_moves_nobody(fakes: list[FakeDriver]) -> None:
    made = make_engine("cuda", members(2), make_tables(members(2)))
    assert [launch.count for launch in fakes[-1].launches] == [1]
    state = made.state()
    assert not state.step.any()
    assert not state.status.any()


def test_a_gpu_that_cannot_run_it_is_refused(
    fakes: list[FakeDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: FakeDriver, *arguments: Any) -> None:
        raise RuntimeError("a thread block needs 200000 bytes of shared memory: invalid argument")

    monkeypatch.setattr(FakeDriver, "train", refuse)
    with pytest.raises(UsageError, match=r"^engine cuda cannot run here \(a thread block needs"):
        start("cuda", members(2))


# What the fake must notice: one argument of a launch, made wrong.
BROKEN: dict[str, Callable[[dict[str, Any]], None]] = {
    "is in no tensor": lambda at: at.update(params=at["params"] + 2**40),
    "lr is torch.float32": lambda at: at.update(lr=at["params"]),
    "is not aligned": lambda at: at.update(step=at["step"] + 4),
    "is too short": lambda at: at.update(loss=at["loss"] + 4),
    "overlap": lambda at: at.update(exp_avg=at["exp_avg_sq"]),
    "rows begin at different": lambda at: at.update(status=at["status"] + 1),
}


@pytest.mark.parametrize("complaint", BROKEN)
def test_the_fake_notices_a_wrong_argument(
    fakes: list[FakeDriver], monkeypatch: pytest.MonkeyPatch, complaint: str
) -> None:
    made, right = start("cuda", members(3)), FakeDriver.train
    monkeypatch.setattr("compfast.engines.cuda.engine.MOST_SEQUENCES", 10)  # two of three rows

    def wrong(self: FakeDriver, *arguments: Any) -> None:
        BROKEN[complaint](arguments[5])
        right(self, *arguments)

    monkeypatch.setattr(FakeDriver, "train", wrong)
    with pytest.raises(AssertionError, match=complaint):
        made.advance(1)


def test_the_fake_notices_freed_memory_and_unread_steps(fakes: list[FakeDriver]) -> None:
    made = start("cuda", members(1))
    made._launch(slice(0, 1), range(1))  # the window's loss is dropped
    with pytest.raises(AssertionError, match=r"has been freed|is in no tensor"):
        fakes[-1].synchronise()


def test_a_launch_waits_for_the_members_in_it() -> None:
    few = Pace()
    assert few.steps(1) == 1
    few.saw(1, 1, 0.001)
    assert few.steps(1) == 2
    few.saw(64, 64, 0.064)
    assert few.steps(1) == 100
    assert few.steps(10) == 10  # ten times the members: as if each took its own time
    few.saw(50, 500, 0.5)
    assert few.steps(1) == 10  # fewer members: as slow as before
    few.saw(1, 10, 9.0)
    assert few.steps(10) == 1
    few.saw(1024, 1024, 1e-9)
    assert few.steps(1) == pace.MOST_STEPS
