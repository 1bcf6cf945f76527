"""What waits for a first GPU, as far as an interpreter runs it: tests, benchmark, CUDA graphs."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import quick_interpreter  # noqa: F401
import test_triton_gpu
import torch
from ensembles import group, mixed, same_bits, start

from benchmarks import gpu, gpu_peers
from compfast.engines.triton import step
from compfast.engines.triton.launch import Launch

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_INTERPRET=1", "ignore::RuntimeWarning")


class Graph:
    """As torch.cuda.CUDAGraph: what is launched while it captures runs at `replay` alone."""

    capturing: Graph | None = None

    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for launch in self.launches:
            launch.run()


@contextmanager
def capture(graph: Graph) -> Iterator[None]:
    Graph.capturing = graph
    try:
        yield
    finally:
        Graph.capturing = None


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Launch.run

    def launch(self: Launch) -> None:
        if Graph.capturing is None:
            run(self)
        else:
            Graph.capturing.launches.append(self)

    monkeypatch.setattr(Launch, "run", launch)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


@pytest.mark.usefixtures("graphs")
def test_a_replayed_graph_is_the_launches_one_by_one() -> None:
    """Two chunks and a frozen member: one graph serves every step, and capturing moves nobody."""
    axes = (("seed", (0, 1, 2)),)
    specs = mixed(group("one_layer", axes, batch_size=7, steps=20))
    launched, replayed = start("triton", specs), start("triton", specs)
    replayed._interpreted = False
    for engine in (launched, replayed):
        engine.freeze(torch.tensor([False, True, False]).numpy())
        for until in (1, 3):
            engine.advance(until)
    graph: Any = replayed._step_of(range(3))._graph
    assert isinstance(graph, Graph)
    assert (graph.replays, len(graph.launches)) == (3, replayed.launches())
    assert replayed.state().step.tolist() == [3, 0, 3]
    same_bits(replayed.state(), launched.state(), range(3), range(3))


@pytest.mark.usefixtures("graphs")
def test_a_graph_is_begun_only_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the stack is halved: PyTorch ends the process where a capture runs out of memory."""
    specs = mixed(group("one_layer", (("seed", (0, 1, 2, 3)),), batch_size=7, steps=20))
    whole, made = start("triton", specs), start("triton", specs)
    made._interpreted, refused, empty = False, [4, 2], torch.empty

    def room(*size: Any, **how: Any) -> Any:
        if size == (step.SPARE,) and refused:
            raise torch.OutOfMemoryError(f"no room beside {refused.pop(0)} members")
        return empty(*size, **how)

    monkeypatch.setattr(torch, "empty", room)
    for engine in (whole, made):
        engine.advance(2)
    assert (refused, made._stacked) == ([], 1)
    same_bits(made.state(), whole.state(), range(4), range(4))


@pytest.mark.slow
def test_the_gpu_tests_that_need_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_triton_gpu, "STEPS", 18)
    test_triton_gpu.test_the_same_bits_for_any_run_stack_and_neighbour("default", "bf16")
    monkeypatch.setattr(test_triton_gpu, "STEPS", 4)
    test_triton_gpu.test_a_broken_neighbour_changes_nothing()
    test_triton_gpu.test_the_data_is_the_streams()
    test_triton_gpu.test_answers_are_the_oracles()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_benchmark_runs(precision: str, tmp_path: Path) -> None:
    """Every line but a GPU's clock, on members of no use."""
    table = tmp_path / "gpu.csv"
    sizes = ["--d", "16", "--models", "2", "--batch", "4", "--rounds", "1"]
    assert gpu.main(["--trial", *sizes, "--precisions", precision, "--csv", str(table)]) == 0
    with table.open(newline="") as file:
        rows = {row["what"]: row for row in csv.DictReader(file)}
    assert {*gpu_peers.PEERS, "triton, launches one by one"} < rows.keys()
    kernels = [row for what, row in rows.items() if what.startswith("kernel ")]
    assert len(kernels) == int(rows["triton, launches one by one"]["launches"])
    assert all(float(row["milliseconds"]) > 0 for row in rows.values())
