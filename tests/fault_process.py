"""Faults of a process: killed, interrupted, starved, or not alone. The runs are in tests/victim.py,
and each is taken up again by a fresh process."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import victim
from fault_tools import Missed, check, check_sentence

import compfast

HERE = Path(__file__).parent
LIMIT = 300.0  # seconds; only to end a test that hangs


def start(folder: Path, *flags: str) -> subprocess.Popen[str]:
    """A victim that has begun to train."""
    process = _launch(folder, *flags)
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != "started\n":
        _, stderr = process.communicate(timeout=LIMIT)
        raise AssertionError(f"the victim did not start: {line}{stderr}")
    return process


def _launch(folder: Path, *flags: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join((str(HERE), str(HERE.parent)))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "victim.py"), str(folder), *flags]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(folder: Path, *flags: str) -> tuple[int, str, str]:
    """Exit code and output of a victim that is left alone."""
    process = _launch(folder, *flags)
    stdout, stderr = process.communicate(timeout=LIMIT)
    return process.returncode, stdout, stderr


@functools.cache
def _usual() -> tuple[float, int]:
    """Seconds from the first step to the end, and operations inside saves."""
    with tempfile.TemporaryDirectory() as folder:
        process = start(Path(folder) / "run")
        begin = time.monotonic()
        stdout, _ = process.communicate(timeout=LIMIT)
        return time.monotonic() - begin, int(stdout)


def _resume(path: Path, *flags: str) -> None:
    code, _, stderr = finish(path, "--resume", *flags)
    assert code == 0, stderr
    check(victim.config(), compfast.load(path))


def kill_at_random(folder: Path, random: Random) -> None:
    path = folder / "run"
    process = start(path)
    time.sleep(random.random() * _usual()[0])
    process.kill()
    process.communicate()
    if process.returncode == 0:
        raise Missed
    _resume(path)


def kill_in_save(folder: Path, random: Random, least: float = 0.0, *flags: str) -> None:
    """`least`: the share of a run's saves that are over at the kill."""
    path, operations = folder / "run", _usual()[1]
    at = random.randint(1 + int(least * operations), operations)
    code, _, stderr = finish(path, "--die-at", str(at))
    assert code == -signal.SIGKILL, stderr
    _resume(path, *flags)


def kill_and_forget(folder: Path, random: Random) -> None:
    """The control: the process that resumes loses the second moments."""
    kill_in_save(folder, random, 0.3, "--forget-moments")


def interrupt_twice(folder: Path, random: Random) -> None:
    """The second SIGINT comes at any time after the first, also while the run is being saved."""
    path = folder / "run"
    process = start(path)
    time.sleep(random.random() * 0.8 * _usual()[0])
    process.send_signal(signal.SIGINT)
    time.sleep(random.random() * 0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=LIMIT)
    if process.returncode == 0:
        raise Missed
    assert process.returncode == 3, f"exit code {process.returncode}: {stderr}"
    check_sentence(stderr)
    _resume(path)


def second_process(folder: Path, random: Random) -> None:
    """Refused, whether it would resume or begin; the first does not notice."""
    path = folder / "run"
    process = start(path)
    resume = random.random() < 0.5
    # Held in the middle of its training, else it may be done before the second looks.
    process.send_signal(signal.SIGSTOP)
    try:
        code, _, stderr = finish(path, *(["--resume"] if resume else []))
    finally:
        process.send_signal(signal.SIGCONT)
    _, first = process.communicate(timeout=LIMIT)
    assert code == (4 if resume else 2), stderr
    check_sentence(stderr, "in use by another process" if resume else "is not empty")
    assert process.returncode == 0, first
    check(victim.config(), compfast.load(path))


def out_of_memory(folder: Path, random: Random) -> None:
    """An allocation fails somewhere: same bits with less memory, or a sentence and a resumption."""
    path = folder / "run"
    code, _, stderr = finish(path, "--large", "--memory", str(random.randrange(400 << 20)))
    if code:
        check_sentence(stderr, "memory")
        assert code == 2, f"exit code {code}: {stderr}"
    if (path / "config.json").exists():
        code, _, stderr = finish(path, "--resume")
    else:
        code, _, stderr = finish(path, "--large")
    assert code == 0, stderr
    check(victim.large_config(), compfast.load(path))
