"""Forked children, other threads, a running event loop: where training and loading work too."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from small_runs import assert_same_run, saved_arrays, small_config

import compfast
from compfast.runs.reading import Run

pytestmark = pytest.mark.usefixtures("fast_disk")

FORKED = pytest.mark.edge(
    "a child forked after polars had started its threads (training, tables)",
    "one sentence that names spawn and forkserver; parameters and models load",
)
FRESH = pytest.mark.edge(
    "a child forked after compfast was imported, before the first table", "trains and loads"
)
LIMIT = 180.0  # seconds, on a machine that others use

# What a child does; its sentence, or "done". A fork of this process would be one of pytest's.
CHILD = """
import multiprocessing, os, sys, threading
import numpy as np, polars as pl, torch
import compfast, compfast.report
from small_runs import small_config

engine, before, out = sys.argv[1:]

def work(name):
    try:
        if name == "train":
            compfast.train(small_config(engine=engine), out + "/child")
        elif name == "load":
            run = compfast.load(out + "/parent")
            assert run.finished and run.params(0) and run.model(0)(torch.zeros(1, 5).long()).any()
        elif name == "members":
            compfast.load(out + "/parent").members
        elif name == "metrics":
            compfast.load(out + "/parent").metrics
        elif name == "resume":
            compfast.train(None, out + "/parent", resume=True)
        elif name == "merge":
            compfast.merge([out + "/parent"], out + "/merged")
        elif name == "report":
            compfast.report.write_report(parent, __import__("pathlib").Path(out) / "report")
    except compfast.UsageError as error:
        return str(error)
    return "done"

def told(name, pipe):
    pipe.send(work(name))

if before == "train":
    parent = compfast.train(small_config(engine=engine), out + "/parent")
    parent.members
elif before == "polars":
    pl.concat([pl.DataFrame({"a": [1]}), pl.DataFrame({"a": [2]})]).sort("a")
elif before == "torch":
    torch.set_num_threads(2)
    torch.rand(600, 600) @ torch.rand(600, 600) + torch.rand(600, 600).exp()
fork = multiprocessing.get_context("fork")
for name in sys.stdin.read().split():
    receiver, sender = fork.Pipe(False)
    child = fork.Process(target=told, args=(name, sender))
    child.start()
    print(name, receiver.recv() if receiver.poll(120) else "HANGS", flush=True)
    child.kill()
"""


def _children(engine: str, before: str, out: Path, *names: str) -> dict[str, str]:
    here = Path(__file__).parent
    paths = os.pathsep.join((str(here), str(here.parent)))
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD, engine, before, str(out)],
        input=" ".join(names),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "2"},
    )
    assert answer.returncode == 0, answer.stderr
    lines = [line.partition(" ") for line in answer.stdout.splitlines()]
    return {name: said for name, _, said in lines}


@FORKED
def test_a_child_of_a_process_that_trained(engine: str, tmp_path: Path) -> None:
    refused = ("train", "members", "metrics", "resume", "merge", "report")
    said = _children(engine, "train", tmp_path, "load", *refused)
    assert said.pop("load") == "done"
    assert set(said) == set(refused)
    for sentence in said.values():
        assert "forked from one that had used polars" in sentence
        assert "'spawn' or 'forkserver'" in sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parent"]


@FORKED
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="nothing names threads here")
def test_a_child_of_a_process_that_used_polars_by_itself(tmp_path: Path) -> None:
    said = _children("native", "polars", tmp_path, "train")
    assert "forked from one that had used polars" in said["train"]


@FRESH
@pytest.mark.parametrize("before", [pytest.param("nothing", marks=pytest.mark.slow), "torch"])
def test_a_child_of_a_process_without_tables(before: str, engine: str, tmp_path: Path) -> None:
    assert _children(engine, before, tmp_path, "train") == {"train": "done"}
    run = compfast.load(tmp_path / "child")
    assert_same_run(compfast.train(small_config(engine=engine), tmp_path / "run"), run)


def _numbers(engine: str, path: Path) -> dict[str, bytes]:
    run = compfast.train(small_config(engine=engine), path)
    return {name: array.tobytes() for name, array in saved_arrays(run).items()}


@FORKED
@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_the_sentence_advises_works(method: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context(method)
    here = _numbers("native", tmp_path / "here")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(_numbers, "native", tmp_path / "there").result(LIMIT) == here


@pytest.mark.edge("training on several threads, or on one inside a running event loop", "same bits")
def test_threads_and_an_event_loop(engine: str, tmp_path: Path) -> None:
    whole = compfast.train(small_config(engine=engine), tmp_path / "whole")
    runs: list[Run] = []

    def train(name: str) -> None:
        runs.append(compfast.train(small_config(engine=engine), tmp_path / name))

    threads = [threading.Thread(target=train, args=(f"thread-{i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)

    async def notebook() -> None:
        train("in the loop")
        await asyncio.wait_for(asyncio.to_thread(train, "beside the loop"), LIMIT)

    asyncio.run(notebook())
    assert len(runs) == 5
    for run in runs:
        assert_same_run(whole, run)
