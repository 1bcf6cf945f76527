"""What a member costs as the ensemble, the batch and the sequence grow, and how fast one starts.

    python -m benchmarks.scaling [--threads N] [--quick]

Every line is one claim: rates of a comparison are taken in turns in one process, medians of the
rounds. Networks: L 2, one head, pre-norm GELU with biases, FFN 2d, 9 tokens unless said.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.machine import commit, cpu, versions
from compfast.config import Config, MemberSpec, ModelConfig, TrainingConfig
from compfast.engines.native import NativeEngine
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import make_tables
from compfast.tasks.anchor import AnchorConfig


@dataclass(frozen=True)
class Line:
    what: str
    measured: str
    wanted: str
    met: bool

    def row(self) -> tuple[str, str, str, str]:
        return self.what, self.measured, self.wanted, "yes" if self.met else "NO"


def specs(members: int, width: int, batch: int = 128, tokens: int = 9) -> list[MemberSpec]:
    config = Config(
        task=AnchorConfig(seq_len=tokens),
        model=ModelConfig(layers=2, d_model=width),
        training=TrainingConfig(steps=20_000, batch_size=batch),
        sweep=(("seed", tuple(range(members))),),
    )
    return member_specs(config)


class Runner:
    """One engine that goes on a chunk at a time; `cost` is seconds a member-step."""

    def __init__(self, given: list[MemberSpec], threads: int, steps: int) -> None:
        self.engine = NativeEngine(given, make_tables(given), threads=threads)
        self.engine.initialise()
        self.members, self.steps, self.done = len(given), steps, 0
        self.cost()  # warm-up

    def cost(self) -> float:
        self.done += self.steps
        start = time.perf_counter()
        self.engine.advance(self.done)
        return (time.perf_counter() - start) / (self.members * self.steps)


def in_turns(runners: Iterable[Runner], rounds: int) -> list[list[float]]:
    """Costs of each runner, [runner][round]."""
    found = [[runner.cost() for runner in runners] for _ in range(rounds)]
    return [list(costs) for costs in zip(*found, strict=True)]


def ratio(costs: list[float], base: list[float]) -> float:
    """Median over rounds of cost against base."""
    return statistics.median(c / b for c, b in zip(costs, base, strict=True))


def members_line(threads: int, rounds: int, counts: tuple[int, ...]) -> Line:
    runners = [Runner(specs(m, 32), threads, max(4, 2048 // m)) for m in counts]
    costs = in_turns(runners, rounds)
    relative = [ratio(c, costs[len(costs) // 2]) for c in costs]
    spread = max(relative) / min(relative) - 1
    shown = ", ".join(f"M {m}: {1 / r:.3f}" for m, r in zip(counts, relative, strict=True))
    what = "throughput over even M (relative)"
    return Line(what, f"{shown}; spread {spread:.1%}", "flat within 5 %", spread <= 0.05)


def one_member_line(width: int, rounds: int) -> Line:
    alone = specs(1, width, batch=256)
    one, two = in_turns([Runner(alone, 1, 40), Runner(alone, 2, 40)], rounds)
    gain = ratio(one, two)
    return Line(f"M 1 at d {width}: two cores against one", f"{gain:.2f}x", "1.6x", gain >= 1.6)


def linear_line(what: str, runners: list[Runner], sizes: list[int], rounds: int) -> Line:
    """Cost per unit of size, against the smallest size."""
    costs = in_turns(runners, rounds)
    per_unit = [ratio(c, costs[0]) * sizes[0] / size for c, size in zip(costs, sizes, strict=True)]
    shown = ", ".join(f"{s}: {p:.3f}" for s, p in zip(sizes, per_unit, strict=True))
    worst = max(per_unit)
    return Line(
        f"cost per unit of {what}", shown, "no more than 10 % above the first", worst <= 1.1
    )


def steps_line(rounds: int) -> Line:
    counts = [10, 40, 160]
    given = specs(8, 32)
    runners = [Runner(given, 2, steps) for steps in counts]
    per_step = in_turns(runners, rounds)
    relative = [ratio(costs, per_step[0]) for costs in per_step]
    shown = ", ".join(f"{s}: {r:.3f}" for s, r in zip(counts, relative, strict=True))
    wanted = "no more than 10 % above the first"
    return Line("cost per step of a chunk of steps", shown, wanted, max(relative) <= 1.1)


def memory_line() -> Line:
    """Memory of 512 waiting members beyond their parameters and moments."""
    given = specs(512, 32)
    before = resident()
    engine = NativeEngine(given, make_tables(given), threads=2)
    engine.initialise()
    engine.advance(1)
    grown = resident() - before
    own = sum(array.nbytes for array in (engine._params, engine._exp_avg, engine._exp_avg_sq))
    beyond = (grown - own) / 1e6
    shown = (
        f"{grown / 1e6:.0f} MB for 512 members, {own / 1e6:.0f} MB of them parameters and moments"
    )
    return Line("memory of waiting members", shown, "32 MB beside (two workers)", beyond <= 32)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def start_line() -> Line:
    program = (
        "import sys, time, compfast\n"
        "from compfast.training.callbacks import Callback\n"
        "from compfast.config import Config, TrainingConfig\n"
        "class First(Callback):\n"
        "    def on_metrics(self, rows): print(time.time(), flush=True)\n"
        "gammas = tuple(0.1 + 0.02 * i for i in range(64))\n"
        "config = Config(training=TrainingConfig(steps=1, log_every=1),\n"
        "    sweep=(('init.gamma', gammas), ('seed', tuple(range(8)))))\n"
        "compfast.train(config, out=sys.argv[1], callbacks=[First()])\n"
    )
    took = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            start = time.time()
            command = [sys.executable, "-c", program, f"{folder}/run"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            took.append(float(done.stdout.split()[0]) - start)
    seconds = statistics.median(took)
    what = "start of the process to the first step done, 512 members of d 32"
    return Line(what, f"{seconds:.2f} s", "3 s", seconds < 3)


def init_line() -> Line:
    given = specs(512, 128)
    engine = NativeEngine(given, make_tables(given), threads=2)
    start = time.perf_counter()
    engine.initialise()
    seconds = time.perf_counter() - start
    return Line("initial weights of 512 members of d 128", f"{seconds:.2f} s", "5 s", seconds < 5)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and members")
    arguments = parser.parse_args()
    rounds = 3 if arguments.quick else 9
    counts = (2, 16, 128) if arguments.quick else (2, 8, 64, 256, 1024)
    threads = arguments.threads
    lines: list[Callable[[], Line]] = [
        memory_line,
        start_line,
        init_line,
        lambda: members_line(threads, rounds, counts),
        lambda: one_member_line(32, rounds),
        lambda: one_member_line(64, rounds),
        lambda: steps_line(rounds),
        lambda: linear_line(
            "batch",
            [Runner(specs(4, 32, batch), threads, 5120 // batch) for batch in (64, 128, 256, 512)],
            [64, 128, 256, 512],
            rounds,
        ),
        lambda: linear_line(
            "tokens",
            [Runner(specs(4, 32, 128, tokens), threads, 20) for tokens in (9, 18, 36)],
            [9, 18, 36],
            rounds,
        ),
    ]
    table = Table("claim", "measured", "wanted", "met")
    found = []
    for line in lines:
        found.append(line())
        table.add_row(*found[-1].row())
    console = Console()
    console.print(table)
    console.print(f"{cpu()}; {threads} threads; {versions(('numpy',))}; commit {commit()}")
    return 0 if all(line.met for line in found) else 1


if __name__ == "__main__":
    sys.exit(main())
