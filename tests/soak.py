"""Many chunks, signals, resumes and evaluations in one process: nothing may grow.

    python tests/soak.py [--chunks 100000] [--seed 0]

A chunk is one `advance` between two events of the loop. Runs follow each other, each stopped by
signals and exceptions at random and taken up again, loaded, examined and reported on. Memory,
descriptors, threads and the files of every run folder are counted after each run; the first
tenth is warm-up. Exit code 1 where memory grew by more than 2 %, descriptors or threads at all, or
a folder had more than 64 files.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from fault_tools import fast_disk
from small_runs import small_config

import compfast
from compfast.config import Config
from compfast.report.page import page
from compfast.runs.reading import Run

LIMIT = 0.02  # growth of memory
FILES = 64  # in a run folder: parts of the metrics are merged, old checkpoints removed


@dataclass
class Sample:
    """What this process holds after a run, and the most files its folder had."""

    chunks: int
    bytes: int
    descriptors: int
    threads: int
    files: int


class Disturb(compfast.Callback):
    """Counts chunks and files, and stops the run now and then in one of three ways."""

    def __init__(self, random: Random) -> None:
        self.random, self.chunks, self.files, self.stops = random, 0, 0, 0
        self.path = Path()

    def on_start(self, run: Run, outline: Any) -> None:
        self.path = run.path

    def on_tick(self, done: int, total: int) -> None:
        self.chunks += 1
        kind = self.random.randrange(120)
        if kind < 3:
            self.stops += 1
        if kind == 0:
            os.kill(os.getpid(), signal.SIGINT)
        elif kind == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        elif kind == 2:
            raise LookupError("soak")

    def on_checkpoint(self, path: Path) -> None:
        self.files = max(self.files, sum(len(files) for _, _, files in os.walk(self.path)))


def config(random: Random) -> Config:
    """Events at every step, so that a chunk is short."""
    return small_config(
        sweep=(("seed", (0, 1, 2)), ("optimizer.lr", (1e-3, 1e20))),
        steps=400,
        log_every=2,
        eval_every=5,
        stop_stable=random.choice((0, 0, 30)),
        run={
            "threads": random.randint(1, 3),
            "checkpoint_every": random.choice((3, 20)),
            "snapshots": (100, 300),
        },
    )


def one_run(random: Random, disturb: Disturb) -> None:
    folder = Path(tempfile.mkdtemp(prefix="compfast-soak-"))
    given: Config | None = config(random)
    while True:
        try:
            run = compfast.train(given, folder / "run", [disturb], resume=given is None)
            break
        except (compfast.Interrupted, LookupError):
            given = None
    assert run.finished
    page(run, b"")
    run.model(0)
    shutil.rmtree(folder)


def resident() -> int:
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def samples(chunks: int, seed: int) -> Iterator[Sample]:
    random, done = Random(seed), 0
    while done < chunks:
        disturb = Disturb(random)
        one_run(random, disturb)
        done += disturb.chunks
        descriptors = len(os.listdir("/proc/self/fd"))
        threads = len(os.listdir("/proc/self/task"))
        yield Sample(done, resident(), descriptors, threads, disturb.files)


def verdict(found: list[Sample]) -> tuple[list[str], bool]:
    """The table's rows and whether nothing grew: the last third against the first after warm-up."""
    kept = found[max(1, len(found) // 10) :]
    third = max(1, len(kept) // 3)
    first, last = kept[:third], kept[-third:]
    rows, good = [], True
    for name in ("bytes", "descriptors", "threads", "files"):
        before, after = (
            float(np.median([getattr(s, name) for s in part])) for part in (first, last)
        )
        most = max(getattr(s, name) for s in found)
        growth = after / before - 1
        good &= most <= FILES if name == "files" else growth <= (LIMIT if name == "bytes" else 0)
        rows.append(f"| {name} | {before:.0f} | {after:.0f} | {100 * growth:+.2f} % | {most} |")
    return rows, good


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--chunks", type=int, default=100_000)
    flags.add_argument("--seed", type=int, default=0)
    given = flags.parse_args()
    begin = time.monotonic()
    with fast_disk():
        found = list(samples(given.chunks, given.seed))
    rows, good = verdict(found)
    seconds = time.monotonic() - begin
    print(f"{found[-1].chunks} chunks in {len(found)} runs, {seconds:.0f} s")
    print("\n| | first third | last third | growth | most |\n|---|---|---|---|---|")
    print("\n".join(rows))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
