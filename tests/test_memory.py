"""Memory or threads run out: fewer workers with the same bits, or one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ensembles import group, same_bits, start
from small_runs import assert_same_run, numbers, small_config

import compfast
from compfast import _native, ensemble
from compfast.engines import native

pytestmark = pytest.mark.usefixtures("native_extension")

STEPS = 3


def test_workers_whose_workspaces_do_not_fit_are_done_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    specs = group("one_layer", steps=STEPS)
    whole = start("native", specs, threads=5)
    whole.advance(STEPS)
    asked: list[int] = []

    def narrow(*arguments: Any) -> Any:
        asked.append(arguments[-1])
        if arguments[-1] > 1:
            raise MemoryError
        return _native.Group(*arguments)

    class Narrow:
        Group = staticmethod(narrow)
        normals = staticmethod(_native.normals)

    monkeypatch.setattr(native, "_native", Narrow)
    few = start("native", specs, threads=5)
    few.advance(STEPS)
    assert asked == [5, 2, 1]
    same_bits(few.state(), whole.state(), range(3), range(3))


COUNTS = (3, 24)  # members: two workers share one each, or none does
STARVED = """
import resource, sys
import numpy as np
from ensembles import group, start
from victim import starve
seeds = [(("seed", tuple(range(int(count)))),) for count in sys.argv[2:]]
engines = [start("native", group("one_layer", axes, steps=3), threads=40) for axes in seeds]
for engine in engines:
    engine.advance(1)
starve(40 << 20)  # room for the stacks of a few threads
for engine in engines:
    engine.advance(3)
resource.setrlimit(resource.RLIMIT_AS, (-1, resource.getrlimit(resource.RLIMIT_AS)[1]))
np.savez(sys.argv[1], *(engine.state().params["head.weight"] for engine in engines))
"""


def run_starved(*argv: str) -> str:
    """What a Python program prints, in which threads are soon refused."""
    here = Path(__file__).parent
    paths = os.pathsep.join((str(here), str(here.parent)))
    environment = {**os.environ, "PYTHONPATH": paths, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", *argv], env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_threads_that_are_not_granted_are_done_without(tmp_path: Path) -> None:
    file = tmp_path / "heads.npz"
    run_starved(STARVED, str(file), *map(str, COUNTS))
    with np.load(file) as found:
        for count, head in zip(COUNTS, found.values(), strict=True):
            specs = group("one_layer", (("seed", tuple(range(count))),), steps=STEPS)
            whole = start("native", specs)
            whole.advance(STEPS)
            assert head.tobytes() == whole.state().params["head.weight"].tobytes()


PEAK = """
from victim import starve
from compfast import _native
starve(40 << 20)
try:
    print(_native.fma_peak(40))
except MemoryError:
    print("refused", _native.fma_peak(1) > 0)
"""


def test_a_peak_of_threads_that_are_not_granted_is_refused() -> None:
    assert run_starved(PEAK) == "refused True\n"


def test_what_does_not_fit_is_one_sentence_and_costs_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    whole = compfast.train(small_config(), tmp_path / "whole")
    state = native.NativeEngine.state

    def scarce(engine: native.NativeEngine) -> Any:
        if len(numbers(path)) == 2:
            raise MemoryError
        return state(engine)

    with monkeypatch.context() as patch:
        patch.setattr(native.NativeEngine, "state", scarce)
        with pytest.raises(compfast.UsageError, match=r"out of memory: .* --shard"):
            compfast.train(small_config(), path)
    assert len(numbers(path)) == 2
    assert_same_run(whole, compfast.train(None, path, resume=True))


def test_the_command_line_says_so_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(config: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(ensemble, "plan", scarce)
    assert ensemble.main(["--models", "4", "--gamma-range", "0.3:0.7", "--dry-run"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("compfast: out of memory: ")
