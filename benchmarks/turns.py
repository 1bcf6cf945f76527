"""Peers in turns, in CPU time of the process on one thread: what cases.py and decoding.py share.

Wall time stands beside it and tells what else ran.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.gate import GateError
from compfast.config import MemberSpec
from compfast.engines.base import Float32, Inputs, Targets
from compfast.engines.eager import EagerEngine
from compfast.engines.native import NativeEngine
from compfast.errors import CompfastError, UsageError
from compfast.models.transformer import Transformer

SHARED = ("rounds", "peer", "ms", "ms_low", "ms_high", "wall_ms", "member_steps_s")
COLUMNS = (*SHARED, "native_is_faster", "gate_difference")
PROFILED = 40  # steps
Run = Callable[[int], None]  # trains so many steps


@dataclass(slots=True)
class Times:
    """Milliseconds a step of one member, a round each."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


def in_turns(
    runs: Mapping[str, Run], members: int, rounds: int, seconds: float
) -> dict[str, Times]:
    """Every run once a round, for about so many seconds of CPU time, one step at least."""
    steps = {name: _steps(run, seconds) for name, run in runs.items()}
    found = {name: Times() for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begun = time.process_time(), time.perf_counter()
            run(steps[name])
            count = steps[name] * members / 1e3
            found[name].cpu.append((time.process_time() - begun[0]) / count)
            found[name].wall.append((time.perf_counter() - begun[1]) / count)
    return found


def _steps(run: Run, seconds: float) -> int:
    begun = time.process_time()
    run(1)
    return max(1, round(seconds / (time.process_time() - begun)))


def forward_run(engine: NativeEngine | EagerEngine, last: int) -> Run:
    """More steps of an engine, from the start again where its training would end at `last`."""

    def run(steps: int) -> None:
        at = int(engine.state().step[0])
        if at + steps > last:
            engine.initialise()
            at = 0
        engine.advance(at + steps)

    return run


def gradient_difference(
    engine: NativeEngine,
    spec: MemberSpec,
    inputs: Inputs,
    targets: Targets,
    limit: float,
    rounding: float = 0.0,
) -> float:
    """Largest difference of member 0's gradients from float64's, of the largest of its tensor.

    Where a tensor's gradient is nothing but rounding (the key bias under a softmax), `rounding`
    times the largest of all is taken in its stead. Raises GateError above `limit`.
    """
    _, found = engine.gradients(inputs, targets)
    named = {name: w[0] for name, w in engine.state().params.items()}
    module = Transformer.holding(spec.model, named).double()
    x, y = (_exact(torch.from_numpy(given)) for given in (inputs, targets))
    module.loss(x, y, spec.model.loss_positions).backward()  # type: ignore[no-untyped-call]
    exact: dict[str, Any] = {}
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        exact[name] = parameter.grad.numpy()
    least = rounding * max(float(np.abs(gradient).max()) for gradient in exact.values())
    worst = 0.0
    for name, gradient in exact.items():
        scale = max(least, float(np.abs(gradient).max()))
        worst = max(worst, float(np.abs(found[name][0] - gradient).max()) / scale)
    if not worst <= limit:  # also true of NaN
        raise GateError(f"native's gradients are {worst:.2g} from float64's, so nothing is timed")
    return worst


def loss_difference(name: str, losses: Float32, reference: Float32, limit: float) -> float:
    """The largest of two [M, updates]; raises GateError above `limit`."""
    difference = float(np.abs(losses - reference).max())
    if not difference <= limit:
        raise GateError(
            f"{name} is {difference:.2g} away from native within {reference.shape[1]} updates;"
            f" at most {limit:g} is allowed, so nothing is timed"
        )
    return difference


def rows(
    times: Mapping[str, Times], gates: Mapping[str, float], about: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """A row a peer: COLUMNS, and before them what `about` says of all."""
    base = statistics.median(times["native"].cpu)
    return [
        {
            "date": machine.now(),
            "commit": machine.commit(),
            "cpu": machine.cpu(),
            "load": " ".join(f"{x:.1f}" for x in os.getloadavg()),
            **about,
            "rounds": len(own.cpu),
            "peer": name,
            "ms": round(statistics.median(own.cpu), 4),
            "ms_low": round(min(own.cpu), 4),
            "ms_high": round(max(own.cpu), 4),
            "wall_ms": round(statistics.median(own.wall), 4),
            "member_steps_s": round(1e3 / statistics.median(own.cpu), 2),
            "native_is_faster": round(statistics.median(own.cpu) / base, 3),
            "gate_difference": float(f"{gates[name]:.2g}"),
        }
        for name, own in times.items()
    ]


def peer_table(title: str, more: str, rows: Sequence[dict[str, Any]]) -> Table:
    """The rows of one setting; `more` goes into the caption."""
    first = rows[0]
    table = Table(
        title=title,
        caption=f"CPU time, median of {first['rounds']}; {first['cpu']}, load {first['load']},"
        f" commit {first['commit']}; {more};"
        " gate: native's gradients against float64, the others' losses against native's",
        caption_justify="left",
    )
    for heading in ("peer", "ms/member-step", "low to high", "wall ms", "steps/s", "native is"):
        table.add_column(heading, justify="left" if heading == "peer" else "right")
    for row in rows:
        table.add_row(
            row["peer"],
            f"{row['ms']:.3f}",
            f"{row['ms_low']:.3f} to {row['ms_high']:.3f}",
            f"{row['wall_ms']:.3f}",
            f"{row['member_steps_s']:.1f}",
            f"{row['native_is_faster']:.2f}x",
        )
    return table


def profile_table(engine: NativeEngine, title: str, steps: int) -> Table:
    """Native's time by op of its plan, of one member: the least of so many steps, op by op."""
    found = [engine.profile(0, 1) for _ in range(steps)]
    table = Table(title=title)
    for heading in ("op", "forward ms", "backward ms", "share"):
        table.add_column(heading, justify="left" if heading == "op" else "right")
    forward, backward = (
        np.array([getattr(p, direction) for p in found]).min(axis=0)
        for direction in ("forward", "backward")
    )
    each = zip(engine.plan.plan.ops, forward, backward, strict=True)
    lines = [(f"{op.kind} {(*op.weights, '')[0]}", f, b) for op, f, b in each]
    lines += [(name, min(p.phases[name] for p in found), 0.0) for name in found[0].phases]
    total = sum(f + b for _, f, b in lines)
    for name, f, b in lines:
        table.add_row(name, f"{1e3 * f:.3f}", f"{1e3 * b:.3f}", f"{(f + b) / total:.1%}")
    return table


def draw_share(engine: NativeEngine, steps: int) -> float:
    """Of a step of native's, the part that draws its batch: the median of so many steps."""
    profiles = [engine.profile(0, 1) for _ in range(steps)]
    return statistics.median(p.phases["draw"] / p.total for p in profiles)


def add_flags(parser: argparse.ArgumentParser, settings: Collection[str], results: Path) -> None:
    add = parser.add_argument
    add("--settings", nargs="+", default=list(settings), help=f"of {', '.join(settings)}")
    add("--models", type=int, default=2, help="members (default 2)")
    add("--rounds", type=int, default=5, help="samples a peer, taken in turns (default 5)")
    add("--seconds", type=float, default=1.0, help="aimed at, a sample (default 1)")
    add("--csv", type=Path, default=results, help="file that rows are added to")
    add("--no-csv", dest="csv", action="store_const", const=None, help="print only")


def check_flags(given: argparse.Namespace, settings: Collection[str]) -> None:
    """Raises UsageError."""
    for name in ("models", "rounds"):
        if getattr(given, name) < 1:
            raise UsageError(f"--{name} is {getattr(given, name)}; it must be at least 1")
    if not 0 < given.seconds < float("inf"):
        raise UsageError(f"--seconds is {given.seconds}; it must be above 0 and finite")
    for name in given.settings:
        if name not in settings:
            raise UsageError(f"--settings has {name!r}; allowed: {', '.join(settings)}")


@contextlib.contextmanager
def one_cpu() -> Iterator[None]:
    """Holds the process to one of its CPUs, and XLA to the calling thread where it is not yet
    imported: it makes as many threads as there are CPUs when it begins."""
    held = os.sched_getaffinity(0)
    given = os.environ.get("XLA_FLAGS")
    os.sched_setaffinity(0, {min(held)})
    os.environ["XLA_FLAGS"] = f"{given or ''} --xla_cpu_multi_thread_eigen=false".strip()
    try:
        yield
    finally:
        os.sched_setaffinity(0, held)
        del os.environ["XLA_FLAGS"]
        if given is not None:
            os.environ["XLA_FLAGS"] = given


def command(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    settings: Collection[str],
    run: Callable[[argparse.Namespace, Console], None],
) -> int:
    """Parse, check and run on one thread; the exit code: 0, 1 when a gate is red, 2 for flags."""
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        check_flags(given, settings)
        run(given, Console(width=None if sys.stdout.isatty() else 140))
    except CompfastError as error:
        print(f"{parser.prog.rpartition('.')[2]}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def append(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Adds rows to a CSV file, which begins with its columns."""
    fresh = not path.exists() or path.stat().st_size == 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as lines:
        writer = csv.DictWriter(lines, columns)
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


def _exact(given: torch.Tensor) -> torch.Tensor:
    """Ids as PyTorch indexes with them, numbers in float64."""
    return given.double() if given.is_floating_point() else given.long()
