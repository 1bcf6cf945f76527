"""`--cluster ray` on a real cluster of two nodes: same bits, whatever is killed meanwhile."""

from __future__ import annotations

import contextlib
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


@pytest.fixture
def generic_node(nodes: Nodes) -> Iterator[None]:
    """A third node, with instructions of its own, for one test."""
    nodes.tell("add-generic")
    yield
    nodes.tell("remove-generic")


@contextlib.contextmanager
def started(nodes: Nodes, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """A driver; it does not outlive the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "compfast.ensemble", *argv, "--cluster", f"ray:{nodes.address}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def alone(path: Path, argv: list[str]) -> compfast.Run:
    assert main([*argv, "--threads", "2", "--quiet", "--out", str(path)]) == 0
    return compfast.load(path)


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """What a driver printed until it ended with `code`."""
    said, complaints = process.communicate(timeout=LIMIT)
    assert process.returncode == code, complaints
    return said + complaints


def test_two_nodes_give_the_bits_of_one_process(nodes: Nodes, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    with started(nodes, *SHORT, "--out", str(out)) as process:
        said = ended(process)
    assert "part 6/6" in said
    assert "leading" in said
    run = compfast.load(out)
    assert_same_run(alone(tmp_path / "whole", SHORT), run)
    assert run.info["cluster"]["parts"] == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sweep", "whole"]


@pytest.mark.usefixtures("generic_node")
def test_a_node_of_other_instructions_is_refused_until_one_set_is_named(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compfast import _native

    strongest = _native.supported_isas()[-1]
    if strongest == "generic":
        pytest.skip("this machine has one instruction set")
    monkeypatch.delenv("COMPFAST_ISA", raising=False)
    out = tmp_path / "sweep"
    with started(nodes, *SHORT, "--out", str(out)) as process:
        said = ended(process, 2)
    assert f"the nodes would give different bits: 2 with native {strongest}" in said
    assert "; 1 with native generic" in said
    assert f"set COMPFAST_ISA={strongest}, which all run" in said
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("COMPFAST_ISA", strongest)
    with started(nodes, *SHORT, "--out", str(out)) as process:
        ended(process)
    assert_same_run(alone(tmp_path / "whole", SHORT), compfast.load(out))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_workers_and_a_killed_node(nodes: Nodes, seed: int, tmp_path: Path) -> None:
    """Workers die at random moments, then a node with what runs there; one comes back."""
    moments = random.Random(seed)
    out = tmp_path / "sweep"
    killed = 0
    with started(nodes, *LONG, "--out", str(out)) as process:
        while killed < 3:
            time.sleep(moments.uniform(0.2, 2.0))
            killed += nodes.tell("kill-worker")
            assert process.poll() is None, process.communicate()
        time.sleep(moments.uniform(0.2, 2.0))
        nodes.tell("kill-node")
        nodes.tell("add-node")
        said = ended(process)
    assert said.count("is tried again: its worker died") >= killed
    assert_same_run(alone(tmp_path / "whole", LONG), compfast.load(out))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sweep", "whole"]


def test_a_node_that_died_a_moment_ago_is_left_out(nodes: Nodes, tmp_path: Path) -> None:
    """Ray's list of nodes names it for a while."""
    nodes.tell("kill-node")
    with started(nodes, *SHORT, "--out", str(tmp_path / "sweep")) as process:
        ended(process)
    nodes.tell("add-node")
    assert compfast.load(tmp_path / "sweep").finished


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_or_killed_driver_goes_on(
    nodes: Nodes, number: signal.Signals, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    with started(nodes, *LONG, "--out", str(out)) as process:
        assert process.stdout is not None
        while "part 1/6" not in (line := process.stdout.readline()):
            assert line, process.communicate()
        time.sleep(0.7)
        process.send_signal(number)
        said = ended(process, 3 if number == signal.SIGINT else -9)
    assert (f"continue with --resume {out} --cluster ray" in said) == (number == signal.SIGINT)
    assert not compfast.load(out).finished
    with started(nodes, "--resume", str(out)) as process:
        assert "part 0/6" not in ended(process)
    assert_same_run(alone(tmp_path / "whole", LONG), compfast.load(out))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sweep", "whole"]
