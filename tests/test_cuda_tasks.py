"""Engine cuda on tasks that its kernel does not draw, on the driver of fake_cuda.py."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_cuda
import numpy as np
import pytest
from cuda_members import STEPS, config, members
from ensembles import same_bits, start
from fake_cuda import FakeDriver
from host_tasks import HostTask
from small_runs import assert_same_run, interrupted_at, resumed

import compfast
from compfast.config import EvaluationConfig, MemberSpec, settings
from compfast.engines import host_batches
from compfast.engines.base import FROZEN
from compfast.engines.cuda.streams import HostStream
from compfast.ensembles.grid import member_specs
from compfast.errors import UsageError
from compfast.tasks import make_task

pytestmark = pytest.mark.usefixtures("native_extension")

BATCH = 4 * 5 * (9 + 1)  # bytes of one batch of `members`
FITS = {"seq_len": 9, "item_low": 8, "item_high": 48}  # chain_search in the network of the default


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[FakeDriver]:
    """Drivers as they are opened."""
    return fake_cuda.install(monkeypatch)


@functools.cache
def specs() -> list[MemberSpec]:
    """Four members of three seeds, which differ in all that a group's members may differ in."""
    chosen = members(4)
    return [*chosen[:3], dataclasses.replace(chosen[3], seed=chosen[1].seed)]


Make = Callable[..., tuple[Any, HostTask]]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    """An engine for members `rows` whose anchor task draws in Python."""

    def made(rows: Any = range(4), room: int = 2**25, before: Any = None) -> tuple[Any, HostTask]:
        chosen = [specs()[row] for row in rows]
        task = HostTask(make_task(chosen[0].task), before)
        sized = functools.partial(host_batches.HostBatches, room=room)
        with monkeypatch.context() as patch:
            patch.setattr("compfast.engines.cuda.engine.make_task", lambda _: task)
            patch.setattr("compfast.engines.cuda.engine.HostBatches", sized)
            return start("cuda", chosen), task

    return made


@functools.cache
def whole() -> tuple[Any, Any]:
    """The members on batches that the kernel draws: state and what `advance` gave."""
    engine = start("cuda", specs())
    result = engine.advance(STEPS)
    return engine.state(), result


@pytest.mark.parametrize("room", [1, 7 * BATCH, 2**25])
@pytest.mark.parametrize("rows", [[2], [3, 1], range(4)], ids=["solo", "two", "all"])
def test_the_bits_of_the_kernel_s_own_batches(
    make: Make, fakes: list[FakeDriver], rows: Any, room: int
) -> None:
    drawn = whole()
    engine, task = make(rows, room)
    result = engine.advance(STEPS)
    same_bits(engine.state(), drawn[0], range(len(rows)), list(rows))
    for name in ("loss", "grad_norm"):
        wanted = getattr(drawn[1], name)[list(rows)]
        assert getattr(result, name).tobytes() == wanted.tobytes()
    assert {launch.stream["kind"] for launch in fakes[-1].launches} == {"host"}
    seeds = {specs()[row].data_seed for row in rows}
    assert sorted(task.asked) == [(seed, step) for seed in sorted(seeds) for step in range(STEPS)]


def test_chunks_turns_and_members_that_stand_apart(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compfast.engines.cuda.engine.MOST_SEQUENCES", 10)  # two members a turn
    engine, _ = make(room=6 * BATCH)
    ends = {}
    for until in (0, 2, 5):
        engine.advance(until)
        ends[until] = engine.state()
    apart = engine.state()
    for row, until in enumerate((5, 0, 2, 5)):
        for part in ("params", "exp_avg", "exp_avg_sq"):
            for name, value in getattr(apart, part).items():
                value[row] = getattr(ends[until], part)[name][row]
        apart.step[row] = until
    apart.status[3] = FROZEN
    engine.load(apart)
    result = engine.advance(STEPS)
    assert result.base == 0
    assert np.isnan(result.loss).sum(axis=1).tolist() == [5, 0, 2, STEPS]
    same_bits(engine.state(), whole()[0], range(3), range(3))


def test_a_stop_between_launches_and_one_before(make: Make) -> None:
    engine, _ = make()
    engine.request_stop()
    assert engine.advance(STEPS).stopped
    assert not engine.state().step.any()

    once: list[int] = []

    def stop(seed: int, step: int, size: int) -> None:
        if step == 3 and not once:
            once.append(step)
            engine.request_stop()

    engine, _ = make(room=1, before=stop)
    assert engine.advance(STEPS).stopped
    assert 0 < engine.state().step.max() <= 4
    assert not engine.advance(STEPS).stopped
    same_bits(engine.state(), whole()[0], range(4), range(4))


def test_what_is_no_batch_is_one_sentence(make: Make) -> None:
    def wrong(seed: int, step: int, size: int) -> Any:
        return (np.full((5, 9), 48), np.zeros(5, int)) if step == 3 else None

    engine, _ = make([1], before=wrong)
    sentence = r"^task anchor, batch\(1, 3, 5\): tokens reach from 48 to 48; they must be in 0..47"
    with pytest.raises(UsageError, match=sentence):
        engine.advance(STEPS)
    assert engine.state().step.tolist() == [3]


def test_the_fake_notices_steps_beside_the_buffer(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = HostStream.record
    for wrong, complaint in (({"steps": 0}, "ends after"), ({"first": 1}, "begins before")):
        engine, _ = make([0])
        with monkeypatch.context() as patch:
            patch.setattr(HostStream, "record", lambda own, wrong=wrong: {**right(own), **wrong})
            with pytest.raises(AssertionError, match=complaint):
                engine.advance(1)


def other(task: dict[str, Any], model: dict[str, Any] | None = None) -> list[MemberSpec]:
    """Two members of another task on the default network."""
    given: dict[str, Any] = {
        "task": task,
        "model": model or {},
        "training": {"steps": STEPS, "batch_size": 5},
        "sweep": {"seed": [3, 4]},
    }
    return member_specs(settings.from_dict(given))


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ({"name": "chain_search", **FITS}, {}),
        ({"name": "identity", "item_high": 48, "total": 40}, {}),  # a table
        ({"name": "affine", "total": 400, "modulus": 31}, {"vocab_size": 48}),
    ],
)
def test_other_tasks_train_as_in_the_native_engine(
    task: dict[str, Any], model: dict[str, Any]
) -> None:
    chosen = other(task, model)
    cuda, native = (start(name, chosen) for name in ("cuda", "native"))
    np.testing.assert_allclose(cuda.advance(STEPS).loss, native.advance(STEPS).loss, rtol=1e-4)
    exam = make_task(chosen[0].task).exam(EvaluationConfig(seen_items=10, unseen_items=10))
    native.load(cuda.state())
    assert np.array_equal(cuda.predict(exam.inputs), native.predict(exam.inputs))


NEAREST = "2 layers, d_model 48, 2 heads, d_ff 96, vocab_size 48, seq_len 9"


@pytest.mark.parametrize(
    ("task", "model", "sentence"),
    [
        (
            {"name": "chain_search", **FITS, "seq_len": 5, "order": 1},
            {"max_positions": 9},
            f"the length of the task's sequences is 5; the nearest network that engine cuda is"
            f" compiled for has 9 ({NEAREST}), and engines native, eager and triton take 5",
        ),
        (
            {"name": "chain_search", **FITS, "item_high": 60},
            {},
            "model.vocab_size is 64; the nearest network that engine cuda is compiled for has 48"
            f" ({NEAREST}), and engines native, eager and triton take 64",
        ),
        (
            {"name": "sraven", "features": 1},
            {"position": "none"},
            "model.input_width is 8; engine cuda is compiled for 0 alone, and engines native,"
            " eager and triton take 8",
        ),
    ],
)
def test_a_task_that_does_not_fit_is_refused(
    task: dict[str, Any], model: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        start("cuda", other(task, model))


@pytest.mark.usefixtures("fast_disk")
def test_a_run_of_another_task_and_its_resumption(tmp_path: Path) -> None:
    task = settings.from_dict({"task": {"name": "chain_search", **FITS}}).task
    chosen = dataclasses.replace(config(), task=task)
    whole = compfast.train(chosen, tmp_path / "whole")
    assert whole.info["engine"] == "cuda"
    interrupted_at(tmp_path / "part", chosen, 10)
    assert_same_run(resumed(tmp_path / "part"), whole)
