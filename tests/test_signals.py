"""Signals and kill -9: what was done is saved, and goes on with the same bits."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import assert_same_run, long_config, numbers, resumed, small_config

import compfast
from compfast.runs import Run

pytestmark = pytest.mark.usefixtures("fast_disk")

SCRIPT = Path(__file__).parent / "small_runs.py"


@pytest.fixture(scope="module")
def long_whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return compfast.train(long_config(), tmp_path_factory.mktemp("long") / "run")


class SignalInTick(compfast.Callback):
    """Sends a signal to this process in the middle of an `advance`."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ticks = 0

    def on_tick(self, done: int, total: int) -> None:
        self.ticks += 1
        if self.ticks == 2:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_members_at_their_own_steps(number: signal.Signals, tmp_path: Path) -> None:
    config = small_config(steps=6000, log_every=6000, eval_every=6000, batch_size=8)
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, checkpoint_every=6000))
    whole = compfast.train(config, tmp_path / "whole")
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(compfast.Interrupted, match=r"stopped at step \d+; continue with --resume"):
        compfast.train(config, tmp_path / "run", [SignalInTick(number)])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    stopped = compfast.load(tmp_path / "run")
    steps = stopped.members["steps"].to_list()
    assert len(set(steps)) > 1
    assert max(steps) > 0
    assert min(steps) < 6000
    # A snapshot that some member has passed cannot be made any more.
    run = resumed(stopped.path, threads=2, checkpoint_every=3000, snapshots=(1,))
    assert run.snapshots == []
    assert_same_run(whole, run)


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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
