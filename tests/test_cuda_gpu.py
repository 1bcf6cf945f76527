"""Engine cuda on a GPU: float64's budget, the protocol, the same bits whatever runs beside."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cuda_host
import fake_cuda
import numpy as np
import pytest
import torch
from cuda_members import TRAININGS, config, members, take_tiny, ten_steps
from ensembles import same_bits, start
from host_tasks import HostTask
from small_runs import assert_same_run, interrupted_at, resumed
from test_cuda_protocol import INDEPENDENCE, PROTOCOL, Check, named

import compfast
from compfast.config import MemberSpec
from compfast.engines.cuda.streams import HostStream
from compfast.engines.host_batches import HostBatches
from compfast.errors import UsageError
from compfast.tasks import make_task

_cuda = pytest.importorskip("compfast._cuda", reason="the build found no CUDA compiler")

STEPS = 40


def many(count: int, steps: int = STEPS) -> list[MemberSpec]:
    return members(count, steps, batch_size=37)


def check(case: Check, monkeypatch: pytest.MonkeyPatch, *first: Any) -> None:
    take_tiny(monkeypatch)
    function, arguments = case
    function(*first, *arguments)


@pytest.mark.gpu
@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", cuda_host.NETWORKS)
@pytest.mark.parametrize("form", TRAININGS)
def test_ten_steps(name: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ten_steps(name, form, monkeypatch)


@pytest.mark.gpu
@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("case", PROTOCOL, ids=named)
def test_protocol(case: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, monkeypatch, "cuda")


@pytest.mark.gpu
@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("case", INDEPENDENCE, ids=named)
def test_independence(case: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, monkeypatch, ("cuda", "one_layer"))


@pytest.mark.gpu
@pytest.mark.usefixtures("device")
def test_neighbours_chunks_and_repetition_change_no_bit() -> None:
    specs = many(300)  # more than a GPU has multiprocessors
    whole, again = start("cuda", specs), start("cuda", specs)
    first, second = whole.advance(STEPS), again.advance(STEPS)
    assert np.isfinite(first.loss).all()
    assert first.loss.tobytes() == second.loss.tobytes()
    same_bits(whole.state(), again.state(), range(300), range(300))
    order = [299, 2, 150]
    part = start("cuda", [specs[i] for i in order])
    for until in (1, 17, STEPS):
        part.advance(until)
    same_bits(part.state(), whole.state(), range(3), order)


@pytest.mark.gpu
@pytest.mark.usefixtures("device")
def test_turns_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = start("cuda", many(5)), start("cuda", many(5))
    whole.advance(STEPS)
    monkeypatch.setattr("compfast.engines.cuda.engine.MOST_SEQUENCES", 2 * 37)
    parts.advance(STEPS)
    same_bits(parts.state(), whole.state(), range(5), range(5))


@pytest.mark.gpu
@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("count", [1, 512])
def test_a_stop_is_heard(count: int) -> None:
    """Within 2 seconds, once launches have found their length."""
    made = start("cuda", many(count, steps=10**7))
    asked: list[float] = []

    def ask() -> None:
        asked.append(time.monotonic())
        made.request_stop()

    timer = threading.Timer(1.5, ask)
    timer.start()
    stopped = made.advance(100_000 if count == 512 else 10**6).stopped
    answered = time.monotonic()
    timer.join()
    assert stopped, "it was done before"
    assert answered - asked[0] < 2


@pytest.mark.gpu
@pytest.mark.usefixtures("device", "fast_disk")
def test_a_run_and_its_resumption(tmp_path: Path) -> None:
    whole = compfast.train(config(), tmp_path / "whole")
    assert whole.info["isa"].startswith("sm_")
    interrupted_at(tmp_path / "part", config(), 10)
    assert_same_run(resumed(tmp_path / "part"), whole)


def from_the_host(patch: pytest.MonkeyPatch, specs: list[MemberSpec]) -> Any:
    """An engine whose anchor task draws in Python, in buffers of a few steps."""
    task = HostTask(make_task(specs[0].task))
    sized = functools.partial(HostBatches, room=40_000)
    with patch.context() as inside:
        inside.setattr("compfast.engines.cuda.engine.make_task", lambda _: task)
        inside.setattr("compfast.engines.cuda.engine.HostBatches", sized)
        return start("cuda", specs)


@pytest.mark.gpu
@pytest.mark.usefixtures("device")
def test_batches_of_the_host_have_the_kernel_s_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, fed = start("cuda", many(5)), from_the_host(monkeypatch, many(5))
    assert fed.advance(STEPS).loss.tobytes() == drawn.advance(STEPS).loss.tobytes()
    same_bits(fed.state(), drawn.state(), range(5), range(5))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_launch_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, native_extension: None
) -> None:
    """The bindings take what the engine gives them, and get as far as asking for a device."""
    train: Callable[..., None] = _cuda.train
    fake_cuda.install(monkeypatch)
    assert _cuda.shapes() == fake_cuda.FakeDriver().shapes()
    monkeypatch.setattr(
        fake_cuda.FakeDriver, "train", lambda self, *arguments: train(*arguments, 0)
    )
    with pytest.raises(UsageError, match=r"^engine cuda cannot run here \(no CUDA device: "):
        start("cuda", members(2))
    with pytest.raises(UsageError, match=r"^engine cuda cannot run here \(no CUDA device: "):
        from_the_host(monkeypatch, members(2))
    right = HostStream.record
    for wrong, sentence in (
        ({"first": 1}, "steps 0 to 1 are asked for; the buffer holds 1 from 1 on"),
        ({"steps": 0}, "steps 0 to 1 are asked for; the buffer holds 0 from 0 on"),
        ({"kind": "table"}, "kind is 'table'; a stream is anchor or host"),
        ({"tokens": 0}, "tokens is no address"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(HostStream, "record", lambda own, wrong=wrong: {**right(own), **wrong})
            with pytest.raises(ValueError, match=sentence):
                from_the_host(monkeypatch, members(2))
