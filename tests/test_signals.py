"""Signals and kill -9: what was done is saved, and goes on with the same bits."""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import assert_same_run, long_config, numbers, resumed, small_config

import compfast
from compfast.runs.reading import Run
from compfast.training.interrupts import STOPPING

pytestmark = pytest.mark.usefixtures("fast_disk")

SCRIPT = Path(__file__).parent / "small_runs.py"


@pytest.fixture(scope="module")
def long_whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return compfast.train(long_config(), tmp_path_factory.mktemp("long") / "run")


ENDS = pytest.mark.edge(
    "SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 or SIGXCPU while training",
    "the step is finished and saved, exit code 3, the resumed run has the same bits",
)


class SignalInTick(compfast.Callback):
    """Sends a signal to this process in the middle of an `advance`."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ticks = 0

    def on_tick(self, done: int, total: int) -> None:
        self.ticks += 1
        if self.ticks == 2:
            os.kill(os.getpid(), self.number)


UNEVENTFUL = small_config(
    steps=6000, log_every=6000, eval_every=6000, batch_size=8, run={"checkpoint_every": 6000}
)


@pytest.fixture(scope="module")
def uneventful_whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return compfast.train(UNEVENTFUL, tmp_path_factory.mktemp("uneventful") / "run")


@ENDS
@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_saves_members_at_their_own_steps(
    number: signal.Signals, uneventful_whole: Run, tmp_path: Path
) -> None:
    handlers = _handlers()
    with pytest.raises(compfast.Interrupted, match=r"stopped at step \d+; continue with --resume"):
        compfast.train(UNEVENTFUL, tmp_path / "run", [SignalInTick(number)])
    assert _handlers() == handlers
    stopped = compfast.load(tmp_path / "run")
    steps = stopped.members["steps"].to_list()
    assert len(set(steps)) > 1
    assert max(steps) > 0
    assert min(steps) < 6000
    # A snapshot that some member has passed cannot be made any more.
    run = resumed(stopped.path, threads=2, checkpoint_every=3000, snapshots=(1,))
    assert run.snapshots == []
    assert_same_run(uneventful_whole, run)


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in STOPPING}


@pytest.fixture
def own_handlers() -> Iterator[None]:
    """A test may install any handler; the old ones come back."""
    before = _handlers()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.edge(
    "a signal that the process ignores (SIGHUP under nohup, SIGINT in the background)",
    "it stays ignored",
)
@pytest.mark.parametrize("number", STOPPING)
def test_an_ignored_signal_stays_ignored(
    number: signal.Signals, own_handlers: None, tmp_path: Path
) -> None:
    signal.signal(number, signal.SIG_IGN)
    sender = SignalInTick(number)
    assert compfast.train(long_config(), tmp_path / "run", [sender]).finished
    assert sender.ticks >= 2
    assert signal.getsignal(number) == signal.SIG_IGN


@pytest.mark.edge("signal handlers of the user's own", "they come back after training")
def test_handlers_of_the_user_come_back(own_handlers: None, tmp_path: Path) -> None:
    called: list[int] = []
    own = {number: lambda n, frame: called.append(n) for number in STOPPING}
    for number, handler in own.items():
        signal.signal(number, handler)
    with pytest.raises(compfast.Interrupted):
        compfast.train(long_config(), tmp_path / "run", [SignalInTick(signal.SIGUSR1)])
    assert called == []
    assert _handlers() == own


@pytest.mark.edge("faulthandler.register(SIGUSR1)", "it answers as before, during training too")
def test_a_handler_outside_of_python_stays(tmp_path: Path) -> None:
    with open(tmp_path / "stacks", "w+") as stacks:
        faulthandler.register(signal.SIGUSR1, stacks)
        try:
            run = compfast.train(long_config(), tmp_path / "run", [SignalInTick(signal.SIGUSR1)])
            os.kill(os.getpid(), signal.SIGUSR1)
        finally:
            faulthandler.unregister(signal.SIGUSR1)
        assert run.finished
        stacks.seek(0)
        assert stacks.read().count("most recent call first") >= 2


def start(path: Path, *flags: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(path), *flags]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)


def test_kill_9_at_random_moments(long_whole: Run, tmp_path: Path) -> None:
    path, moments = tmp_path / "run", random.Random(5)
    kills = 0
    flags: tuple[str, ...] = ()
    while kills < 4:
        process = start(path, *flags)
        # The members table is rewritten when the loop begins.
        before = numbers(path)
        wait_for(path / "members.parquet", process)
        if before:
            limit = time.monotonic() + 60
            while numbers(path) == before and process.poll() is None and time.monotonic() < limit:
                time.sleep(0.001)
        time.sleep(moments.random() * 0.08)
        process.kill()
        process.communicate()
        if process.returncode == 0:
            break
        kills += 1
        flags = ("--resume",)
    assert kills >= 2
    assert_same_run(long_whole, compfast.train(None, path, resume=True))


@ENDS
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_from_outside(number: signal.Signals, long_whole: Run, tmp_path: Path) -> None:
    path = tmp_path / "run"
    process = start(path)
    wait_for(path / "checkpoints" / "000001", process)
    sent = time.monotonic()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - sent < 5
    assert process.returncode == 3, stderr
    assert f"continue with --resume {path}" in stderr
    assert_same_run(long_whole, compfast.train(None, path, resume=True))


def test_a_second_interrupt_leaves_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time, compfast, small_runs\n"
        "class Busy(compfast.Callback):\n"
        "    def on_start(self, run, outline):\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        f"compfast.train(small_runs.small_config(), {str(tmp_path / 'run')!r}, [Busy()])\n"
    )
    paths = os.pathsep.join((str(SCRIPT.parent), str(SCRIPT.parent.parent)))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 3
    assert "stopped at once; the last checkpoint stands" in stderr
