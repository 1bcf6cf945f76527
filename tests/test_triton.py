"""The Triton kernels and engine: values under Triton's interpreter, in a process of their own.

Triton decides at import whether kernels are interpreted or compiled, so tests/interpreted is
collected only where TRITON_INTERPRET=1 is set before Python starts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ENGINE = "test_triton_engine.py"  # takes as long as all others
OTHERS = [p.name for p in (TESTS / "interpreted").glob("test_*.py") if p.name != ENGINE]


@pytest.mark.usefixtures("native_extension")
@pytest.mark.parametrize("names", [[ENGINE], sorted(OTHERS)], ids=["engine", "others"])
def test_under_the_interpreter(names: list[str]) -> None:
    _pytest(*(str(TESTS / "interpreted" / name) for name in names), "-m", "not slow")


@pytest.mark.slow
@pytest.mark.usefixtures("native_extension")
def test_the_rest_under_the_interpreter() -> None:
    _pytest(str(TESTS / "interpreted"), "-m", "slow")


def _pytest(*arguments: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command, env=environment, cwd=TESTS.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    assert " passed" in done.stdout, done.stdout
