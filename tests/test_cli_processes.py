"""The command line as a process of its own: exit codes, signals, a full standard output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest
from command_lines import RANGE, SMALL, TRAIN_TIME_LIMIT

import compfast


def _environment() -> dict[str, str]:
    root = Path(__file__).resolve().parent.parent
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}


def _process(*argv: str, stdout: IO[str] | int = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "compfast.ensemble", *argv]
    return subprocess.Popen(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=_environment()
    )


@pytest.mark.parametrize(
    "argv", [["--models", "4", "--gamma-range", "x"], [*RANGE, "--lrr", "1"], []]
)
def test_a_process_leaves_with_code_2(argv: list[str]) -> None:
    process = _process(*argv)
    out, error = process.communicate(timeout=TRAIN_TIME_LIMIT)
    assert process.returncode == 2
    assert out == ""
    assert error.startswith("compfast: ")
    assert error.count("\n") == 1


def test_a_full_standard_output_does_not_end_the_run(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        process = _process(*SMALL, "--out", str(tmp_path / "run"), stdout=full)
        _, error = process.communicate(timeout=TRAIN_TIME_LIMIT)
    assert process.returncode == 0, error
    assert error.count("\n") == 1
    assert "standard output cannot be written" in error
    assert compfast.load(tmp_path / "run").finished


def test_sigint_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    long = [*SMALL, "--steps", "100000", "--log-every", "1000", "--checkpoint-every", "100000"]
    process = _process(*long, "--out", str(out))
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step "):
            break
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=TRAIN_TIME_LIMIT)
    assert process.returncode == 3, error
    assert time.monotonic() - start < 30
    assert f"continue with --resume {out}" in error
    assert error.count("\n") == 1
    assert not compfast.load(out).finished
    assert json.loads((out / "config.json").read_text())["command"][1:] == [
        *long,
        "--out",
        str(out),
    ]


def test_the_native_path_starts_without_torch_matplotlib_and_rich() -> None:
    code = (
        "import sys, compfast.report, compfast.ensemble as e\n"
        f"assert e.main({[*SMALL, '--engine', 'native', '--dry-run']!r}) == 0\n"
        "print({'torch', 'matplotlib', 'rich'} & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=_environment(),
    )
    assert answer.stdout.splitlines()[-1] == "set()"
