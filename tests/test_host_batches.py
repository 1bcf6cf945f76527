"""Batches from Python: the bits of the same batches drawn in C++, whatever goes on around them."""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from ensembles import group, mixed, same_bits, start
from host_tasks import HostTask

from compfast.config import MemberSpec
from compfast.engines import host_batches
from compfast.engines.base import ACTIVE, FROZEN
from compfast.errors import UsageError
from compfast.tasks import make_task

pytestmark = pytest.mark.usefixtures("native_extension")

STEPS = 12
SIZE, LENGTH = 13, 5  # of the group's batches
BATCH_BYTES = 4 * SIZE * (LENGTH + 1)
Make = Callable[..., tuple[Any, HostTask]]


@functools.cache
def specs() -> list[MemberSpec]:
    """Five members of four seeds, which differ in all that a group's members may differ in."""
    five = mixed(group("one_layer", (("seed", (3, 4, 5, 2**40, 7)),), steps=STEPS))
    return [*five[:4], dataclasses.replace(five[4], seed=3)]


@functools.cache
def whole() -> tuple[Any, Any]:
    """The members on the anchor stream of C++: state and what `advance` gave."""
    engine = start("native", specs())
    result = engine.advance(STEPS)
    return engine.state(), result


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    """An engine for members `rows` whose task draws in Python, with buffers of `room` bytes."""

    def made(
        rows: Sequence[int] = range(5), threads: int = 1, room: int = 2**25, before: Any = None
    ) -> tuple[Any, HostTask]:
        chosen = [specs()[row] for row in rows]
        task = HostTask(make_task(chosen[0].task), before)
        sized = functools.partial(host_batches.HostBatches, room=room)
        monkeypatch.setattr("compfast.engines.native.make_task", lambda _: task)
        monkeypatch.setattr("compfast.engines.native.HostBatches", sized)
        return start("native", chosen, threads), task

    return made


def same_as_the_anchor_stream(engine: Any, rows: Sequence[int] = range(5)) -> None:
    same_bits(engine.state(), whole()[0], range(len(rows)), rows)


@pytest.mark.parametrize("room", [1, 9 * BATCH_BYTES, 2**25])
@pytest.mark.parametrize("threads", [1, 2, 4, 11])
@pytest.mark.parametrize("rows", [[0], [4, 2], range(5)], ids=["solo", "two", "all"])
def test_the_bits_of_the_stream(make: Make, rows: Sequence[int], threads: int, room: int) -> None:
    engine, task = make(rows, threads, room)
    result = engine.advance(STEPS)
    same_as_the_anchor_stream(engine, rows)
    assert (result.base, result.stopped) == (0, False)
    for name in ("loss", "grad_norm"):
        want = getattr(whole()[1], name)[list(rows)]
        assert getattr(result, name).tobytes() == want.tobytes()
    assert threading.current_thread() not in task.threads


@pytest.mark.parametrize("stops", [range(1, STEPS + 1), (2, 5, STEPS)])
def test_calls_of_any_length(make: Make, stops: Sequence[int]) -> None:
    engine, _ = make(room=6 * BATCH_BYTES)
    for until in stops:
        engine.advance(until)
    same_as_the_anchor_stream(engine)


def test_a_batch_is_drawn_once_for_all_members_of_its_seed(make: Make) -> None:
    engine, task = make()
    engine.advance(STEPS)
    assert sorted(task.asked) == [(seed, t) for seed in (3, 4, 5, 2**40) for t in range(STEPS)]


def test_members_that_stand_apart(make: Make) -> None:
    """Each is brought to the same step; nothing is drawn that nobody trains on."""
    ends = {}
    for until in (0, 3, 7):
        engine = start("native", specs())
        engine.advance(until)
        ends[until] = engine.state()
    mixed_state = ends[0]
    for row, until in enumerate((0, 3, 7, 3, 7)):
        for part in ("params", "exp_avg", "exp_avg_sq"):
            for name, value in getattr(mixed_state, part).items():
                value[row] = getattr(ends[until], part)[name][row]
        mixed_state.step[row] = until
    mixed_state.status[1] = FROZEN
    engine, task = make(room=9 * BATCH_BYTES)
    engine.load(mixed_state)
    result = engine.advance(STEPS)
    rows = [0, 2, 3, 4]
    same_bits(engine.state(), whole()[0], rows, rows)
    assert np.isnan(result.loss).sum(1).tolist() == [0, STEPS, 7, 3, 7]
    first = {3: 0, 5: 7, 2**40: 3}
    assert sorted(task.asked) == [(s, t) for s, begin in first.items() for t in range(begin, STEPS)]


@pytest.mark.parametrize("room", [1, 2**25])
def test_what_batch_raises_comes_out_as_it_is(make: Make, room: int) -> None:
    error = LookupError("no such file")
    broken = True

    def fail(seed: int, step: int, size: int) -> None:
        if broken and (seed, step) == (5, 6):
            raise error

    engine, task = make(room=room, before=fail)
    with pytest.raises(LookupError) as caught:
        engine.advance(STEPS)
    assert caught.value is error
    assert max(engine.state().step) <= 6
    assert not any(thread.is_alive() for thread in task.threads)
    broken = False
    engine.advance(STEPS)
    same_as_the_anchor_stream(engine)


TOKENS, TARGETS = np.ones((SIZE, LENGTH), np.int32), np.ones(SIZE, np.int32)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (7, "it gave int; two NumPy arrays are needed"),
        ((TOKENS, TARGETS, TARGETS), "it gave ndarray, ndarray, ndarray; two"),
        ((TOKENS.tolist(), TARGETS), "it gave list, ndarray; two"),
        ((TOKENS[1:], TARGETS), r"tokens have shape \(12, 5\); \(13, 5\) is needed"),
        ((TOKENS[:, 1:], TARGETS), r"tokens have shape \(13, 4\); \(13, 5\) is needed"),
        ((TOKENS, TARGETS[1:]), r"targets have shape \(12,\) for 13 sequences"),
        ((TOKENS * 1.0, TARGETS), "tokens are float64; whole numbers are needed"),
        ((TOKENS, TARGETS > 0), "targets are bool; whole numbers are needed"),
        ((TOKENS * 112, TARGETS), "tokens reach from 112 to 112; they must be in 0..111"),
        ((TOKENS, TARGETS - np.int64(2**40)), "targets reach from -1099511627775"),
    ],
)
def test_what_is_no_batch_is_one_sentence(make: Make, given: Any, sentence: str) -> None:
    def wrong(seed: int, step: int, size: int) -> Any:
        return given if step == 3 else None

    engine, _ = make([1], before=wrong)
    with pytest.raises(UsageError, match=rf"^task anchor, batch\(4, 3, 13\): {sentence}"):
        engine.advance(STEPS)
    assert engine.state().step.tolist() == [3]


def test_whole_numbers_of_any_width_are_taken(make: Make) -> None:
    anchor = make_task(specs()[0].task)

    def wide(seed: int, step: int, size: int) -> Any:
        tokens, targets = anchor.batch(seed, step, size)
        return [np.asfortranarray(tokens.astype(np.int64)), targets.astype(np.uint8)]

    engine, _ = make(before=wide)
    engine.advance(STEPS)
    same_as_the_anchor_stream(engine)


def test_a_stop_while_a_batch_is_drawn(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes at once, and whoever asks next waits for the batch that is still being drawn."""
    monkeypatch.setattr(host_batches, "PATIENCE", 0.05)
    waiting, gate = threading.Event(), threading.Event()

    def slow(seed: int, step: int, size: int) -> None:
        if step >= 4:
            waiting.set()
            gate.wait(60)

    engine, task = make(before=slow)

    def ask_to_stop(done: int) -> None:
        if waiting.is_set() and not gate.is_set():
            engine.request_stop()

    begun = time.monotonic()
    for _ in range(2):  # the second finds the thread of the first still waiting
        assert engine.advance(STEPS, ask_to_stop).stopped
        assert engine.state().step.max() <= 4
        assert any(thread.is_alive() for thread in task.threads)
    assert time.monotonic() - begun < 20
    gate.set()
    assert not engine.advance(STEPS, ask_to_stop).stopped
    same_as_the_anchor_stream(engine)


def test_stops_while_members_train(make: Make) -> None:
    engine, _ = make(before=lambda seed, step, size: time.sleep(0.02))
    told: list[int] = []

    def stop(done: int) -> None:
        told.append(done)
        if len(told) < 4:
            engine.request_stop()

    while engine.advance(STEPS, stop).stopped:
        assert told
    assert len(told) >= 4
    same_as_the_anchor_stream(engine)


def test_progress_is_told_across_chunks(make: Make) -> None:
    engine, _ = make(room=1, before=lambda seed, step, size: time.sleep(0.01))
    told: list[int] = []
    engine.advance(STEPS, told.append)
    assert told == sorted(told)
    assert 0 < told[-1] <= 5 * STEPS


def test_an_exception_of_the_caller(make: Make) -> None:
    engine, task = make(before=lambda seed, step, size: time.sleep(0.02))

    def tick(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.advance(STEPS, tick)
    assert not any(thread.is_alive() for thread in task.threads)
    engine.advance(STEPS)
    same_as_the_anchor_stream(engine)


def test_a_member_that_diverges_leaves_the_others_alone(make: Make) -> None:
    engine, _ = make(room=8 * BATCH_BYTES)
    broken = engine.state()
    broken.params["head.bias"][1] = np.nan
    engine.load(broken)
    engine.advance(STEPS)
    rows = [0, 2, 3, 4]
    same_bits(engine.state(), whole()[0], rows, rows)
    assert engine.state().step[1] == 0


def test_nothing_to_do_draws_nothing(make: Make) -> None:
    engine, task = make()
    engine.freeze(np.full(5, True))
    assert engine.advance(STEPS).loss.shape == (5, 0)
    assert not task.asked


def test_a_profile_trains_a_copy_on_the_same_batches(make: Make) -> None:
    engine, task = make()
    engine.advance(4)
    profile = engine.profile(2, 5)
    assert profile.loss.tobytes() == whole()[1].loss[2, 4:9].tobytes()
    assert task.asked[-5:] == [(5, step) for step in range(4, 9)]
    engine.advance(STEPS)
    same_as_the_anchor_stream(engine)


def test_a_thread_that_is_not_granted(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = make()

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(MemoryError):
            engine.advance(STEPS)
    assert (engine.state().status == ACTIVE).all()
    engine.advance(STEPS)
    same_as_the_anchor_stream(engine)
