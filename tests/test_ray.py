"""`--cluster ray` on a real cluster of two nodes: same bits, whatever is killed meanwhile."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import util
from pathlib import Path

import pytest
from small_runs import assert_same_run

import compfast
from compfast.ensemble import main

pytestmark = pytest.mark.skipif(
    util.find_spec("ray") is None, reason="ray is not installed: pip install -e '.[ray]'"
)
NODES = Path(__file__).parent / "ray_nodes.py"
LIMIT = 240.0  # seconds; only to end a test that hangs
ENSEMBLE = [
    "--models", "6", "--gamma-range", "0.3:0.9", "--seeds", "2", "--layers", "1", "--d-model", "8",
    "--batch-size", "4", "--engine", "native",
    "--set", "evaluation.seen_items=16", "--set", "evaluation.unseen_items=16",
]  # fmt: skip
SHORT = [*ENSEMBLE, "--steps", "60"]
LONG = [*ENSEMBLE, "--steps", "40000", "--log-every", "2000", "--eval-every", "10000"]


class Nodes:
    """The cluster, in processes of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(NODES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.address = self._read()

    def tell(self, what: str) -> bool:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return self._read() == "1"

    def close(self) -> None:
        self._process.communicate(timeout=60)
        assert self._process.returncode == 0

    def _read(self) -> str:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if ":" in line or line.strip() in "01":
                return line.strip()
        raise AssertionError("the cluster did not start")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    started = Nodes()
    yield started
    started.close()


def start(nodes: Nodes, *argv: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "compfast.ensemble", *argv]
    return subprocess.Popen(
        [*command, "--cluster", f"ray:{nodes.address}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def alone(path: Path, argv: list[str]) -> compfast.Run:
    assert main([*argv, "--threads", "2", "--quiet", "--out", str(path)]) == 0
    return compfast.load(path)


def test_two_nodes_give_the_bits_of_one_process(nodes: Nodes, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    process = start(nodes, *SHORT, "--out", str(out))
    said, complaints = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, complaints
    assert "part 6/6" in said
    assert "mean inferential" in said
    run = compfast.load(out)
    assert_same_run(alone(tmp_path / "whole", SHORT), run)
    assert run.info["cluster"]["parts"] == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sweep", "whole"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_workers_and_a_killed_node(nodes: Nodes, seed: int, tmp_path: Path) -> None:
    """Workers die at random moments, then a node with what runs there; one comes back."""
    moments = random.Random(seed)
    out = tmp_path / "sweep"
    process = start(nodes, *LONG, "--out", str(out))
    killed = 0
    while killed < 3 and process.poll() is None:
        time.sleep(moments.uniform(0.5, 2.0))
        killed += nodes.tell("kill-worker")
    assert killed == 3
    time.sleep(moments.uniform(0.5, 2.0))
    nodes.tell("kill-node")
    nodes.tell("add-node")
    said, complaints = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, complaints
    assert said.count("is tried again: its worker died") >= killed
    assert_same_run(alone(tmp_path / "whole", LONG), compfast.load(out))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sweep", "whole"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_or_killed_driver_goes_on(
    nodes: Nodes, number: signal.Signals, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    process = start(nodes, *LONG, "--out", str(out))
    assert process.stdout is not None
    while "part 1/6" not in (line := process.stdout.readline()):
        assert line, "it ended too early"
    time.sleep(0.7)
    process.send_signal(number)
    _, complaints = process.communicate(timeout=LIMIT)
    assert process.returncode == (3 if number == signal.SIGINT else -9)
    if number == signal.SIGINT:
        assert f"continue with --resume {out} --cluster ray" in complaints
    assert not compfast.load(out).finished
    process = start(nodes, "--resume", str(out))
    said, complaints = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, complaints
    assert "part 0/6" not in said
    assert_same_run(alone(tmp_path / "whole", LONG), compfast.load(out))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sweep", "whole"]
