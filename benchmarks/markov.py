"""`python -m benchmarks.markov`: networks of Markov chains, native beside eager loops.

One thread, CPU time of the process (wall time tells what else ran), all peers in turns in one run.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.fleet import ROOT
from benchmarks.gate import GateError
from benchmarks.peers.chain import Batch, ChainPeer, Loop, Stacked, Vmap, joined
from compfast.config import Config, MemberSpec, ModelConfig, OptimizerConfig, TrainingConfig
from compfast.engines.eager import EagerEngine
from compfast.engines.native import NativeEngine
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import Tables, make_tables
from compfast.errors import CompfastError, UsageError
from compfast.models.transformer import Transformer
from compfast.tasks import make_task
from compfast.tasks.markov import MarkovConfig

RESULTS = ROOT / "benchmarks" / "results" / "markov.csv"
SETTINGS = {"paper": (8, 1024), "d16": (16, 256)}  # name -> d, T
BATCH, STEPS = 16, 20_000
UPDATES, TOLERANCE = 5, 1e-4  # of losses near 0.7
GRADIENTS = 2e-5  # of the largest of a tensor
POOL = 4  # batches drawn for the plain peers
PROFILED = 40  # steps
COLUMNS = (
    *("date", "commit", "cpu", "load", "d", "tokens", "batch", "members", "rounds", "peer", "ms"),
    *("ms_low", "ms_high", "wall_ms", "member_steps_s", "native_is_faster", "gate_difference"),
    *("draw_share", "versions"),
)
Run = Callable[[int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Chains:
    """Members that differ in their seed only; the network of preset markov-paper at width d."""

    d: int
    length: int
    specs: tuple[MemberSpec, ...]
    tables: Tables

    def engine(self) -> NativeEngine:
        engine = NativeEngine(self.specs, self.tables, threads=1)
        engine.initialise()
        return engine

    def batch(self, step: int) -> Batch:
        task = make_task(self.specs[0].task)
        drawn = [task.batch(spec.data_seed, step, BATCH) for spec in self.specs]
        tokens = torch.from_numpy(np.stack([t for t, _ in drawn])).long()
        last = torch.from_numpy(np.stack([y for _, y in drawn])).long()
        return tokens, torch.cat([tokens[..., 1:], last[..., None]], dim=-1)


def make_chains(d: int, length: int, members: int) -> Chains:
    """Raises UsageError for sizes that no network can have."""
    config = Config(
        task=MarkovConfig(seq_len=length),
        model=ModelConfig(
            layers=1,
            d_model=d,
            d_ff=4 * d,
            loss_positions="all",
            attention_bias=False,
            ffn_bias=False,
            tied_head=True,
        ),
        optimizer=OptimizerConfig(
            lr=2e-3, schedule="constant", weight_decay=1e-3, decay="all", beta2=0.95
        ),
        training=TrainingConfig(steps=STEPS, batch_size=BATCH),
        sweep=(("seed", tuple(range(members))),),
    )
    specs = tuple(member_specs(config))
    return Chains(d, length, specs, make_tables(specs))


def plain_peers(chains: Chains) -> dict[str, ChainPeer]:
    """The peers of benchmarks/peers/chain.py at compfast's initial weights."""
    named = {n: torch.from_numpy(w) for n, w in chains.engine().state().params.items()}
    weights, spec = joined(named), chains.specs[0]
    given = weights, spec.model, spec.optimizer
    return {
        "loop, matmul": Loop(*given, sdpa=False),
        "loop, SDPA": Loop(*given, sdpa=True),
        "vmap, matmul": Vmap(*given),
        "stacked, SDPA": Stacked(*given),
    }


def gradient_difference(chains: Chains) -> float:
    """Largest difference of native's gradients from float64's, of the largest of its tensor.

    Raises GateError above GRADIENTS.
    """
    engine, spec = chains.engine(), chains.specs[0]
    tokens, targets = make_task(spec.task).batch(99, 0, BATCH)
    _, found = engine.gradients(tokens, targets)
    named = {name: w[0] for name, w in engine.state().params.items()}
    module = Transformer.holding(spec.model, named).double()
    x, y = torch.from_numpy(tokens).long(), torch.from_numpy(targets).long()
    module.loss(x, y, "all").backward()  # type: ignore[no-untyped-call]
    worst = 0.0
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        exact = parameter.grad.numpy()
        worst = max(worst, float(np.abs(found[name][0] - exact).max() / np.abs(exact).max()))
    if not worst <= GRADIENTS:  # also true of NaN
        raise GateError(f"native's gradients are {worst:.2g} from float64's, so nothing is timed")
    return worst


def loss_difference(chains: Chains, name: str, losses: Sequence[torch.Tensor]) -> float:
    """Of [M] losses over UPDATES steps from native's; raises GateError above TOLERANCE."""
    reference = chains.engine().advance(UPDATES).loss
    difference = float(np.abs(torch.stack(list(losses), dim=1).numpy() - reference).max())
    if not difference <= TOLERANCE:
        raise GateError(
            f"{name} is {difference:.2g} away from native within {UPDATES} updates; at most"
            f" {TOLERANCE:g} is allowed, so nothing is timed"
        )
    return difference


def measure(chains: Chains, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """A row a peer, native first; raises GateError before anything is timed."""
    gates = {"native": gradient_difference(chains)}
    native, eager = chains.engine(), EagerEngine(chains.specs, chains.tables, threads=1)
    gates["engine eager"] = loss_difference(
        chains, "engine eager", list(torch.from_numpy(eager.advance(UPDATES).loss.T))
    )
    runs: dict[str, Run] = {
        "native": lambda steps: _forward(native, steps),
        "engine eager": lambda steps: _forward(eager, steps),
    }
    batches = [chains.batch(step) for step in range(max(UPDATES, POOL))]
    for name, peer in plain_peers(chains).items():
        losses = [peer.step(batches[t]) for t in range(UPDATES)]
        gates[name] = loss_difference(chains, name, losses)
        runs[name] = _cycled(peer, batches[:POOL])
    steps = {name: _steps(run, seconds) for name, run in runs.items()}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begun = time.process_time(), time.perf_counter()
            run(steps[name])
            count = steps[name] * len(chains.specs) / 1e3
            cpu[name].append((time.process_time() - begun[0]) / count)
            wall[name].append((time.perf_counter() - begun[1]) / count)
    base, profiled = statistics.median(cpu["native"]), chains.engine()
    profiles = [profiled.profile(0, 1) for _ in range(PROFILED)]
    draw = statistics.median(p.phases["draw"] / p.total for p in profiles)
    return [
        {
            "date": machine.now(),
            "commit": machine.commit(),
            "cpu": machine.cpu(),
            "load": " ".join(f"{x:.1f}" for x in os.getloadavg()),
            "d": chains.d,
            "tokens": chains.length,
            "batch": BATCH,
            "members": len(chains.specs),
            "rounds": rounds,
            "peer": name,
            "ms": round(statistics.median(own), 4),
            "ms_low": round(min(own), 4),
            "ms_high": round(max(own), 4),
            "wall_ms": round(statistics.median(wall[name]), 4),
            "member_steps_s": round(1e3 / statistics.median(own), 2),
            "native_is_faster": round(statistics.median(own) / base, 3),
            "gate_difference": float(f"{gates[name]:.2g}"),
            "draw_share": round(draw, 4) if name == "native" else None,
            "versions": machine.versions(("compfast", "numpy", "torch")),
        }
        for name, own in cpu.items()
    ]


def profile_table(chains: Chains, steps: int) -> Table:
    """Native's time by op of its plan, of one member: the least of so many steps, op by op."""
    engine = chains.engine()
    found = [engine.profile(0, 1) for _ in range(steps)]
    table = Table(title=f"native, d {chains.d}, {chains.length} tokens: where a step goes")
    for heading in ("op", "forward ms", "backward ms", "share"):
        table.add_column(heading, justify="left" if heading == "op" else "right")
    forward, backward = (
        np.array([getattr(p, direction) for p in found]).min(axis=0)
        for direction in ("forward", "backward")
    )
    each = zip(engine.plan.plan.ops, forward, backward, strict=True)
    rows = [(f"{op.kind} {(*op.weights, '')[0]}", f, b) for op, f, b in each]
    rows += [(name, min(p.phases[name] for p in found), 0.0) for name in found[0].phases]
    total = sum(f + b for _, f, b in rows)
    for name, f, b in rows:
        table.add_row(name, f"{1e3 * f:.3f}", f"{1e3 * b:.3f}", f"{(f + b) / total:.1%}")
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 when the gate is red, 2 for wrong flags."""
    parser = argparse.ArgumentParser("python -m benchmarks.markov", description=__doc__)
    add = parser.add_argument
    add("--settings", nargs="+", default=list(SETTINGS), help=f"of {', '.join(SETTINGS)}")
    add("--models", type=int, default=2, help="members (default 2)")
    add("--rounds", type=int, default=5, help="samples a peer, taken in turns (default 5)")
    add("--seconds", type=float, default=1.0, help="aimed at, a sample (default 1)")
    add("--csv", type=Path, default=RESULTS, help="file that rows are added to")
    add("--no-csv", dest="csv", action="store_const", const=None, help="print only")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        _check(given)
        for name in given.settings:
            chains = make_chains(*SETTINGS[name], given.models)
            rows = measure(chains, given.rounds, given.seconds)
            console.print(_table(rows), profile_table(chains, PROFILED))
            if given.csv is not None:
                _append(given.csv, rows)
    except CompfastError as error:
        print(f"markov: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _check(given: argparse.Namespace) -> None:
    for name in ("models", "rounds"):
        if getattr(given, name) < 1:
            raise UsageError(f"--{name} is {getattr(given, name)}; it must be at least 1")
    if not 0 < given.seconds < float("inf"):
        raise UsageError(f"--seconds is {given.seconds}; it must be above 0 and finite")
    for name in given.settings:
        if name not in SETTINGS:
            raise UsageError(f"--settings has {name!r}; allowed: {', '.join(SETTINGS)}")


def _forward(engine: NativeEngine | EagerEngine, steps: int) -> None:
    """`steps` more steps, from the start again where the training would end."""
    at = int(engine.state().step[0])
    if at + steps > STEPS:
        engine.initialise()
        at = 0
    engine.advance(at + steps)


def _cycled(peer: ChainPeer, batches: Sequence[Batch]) -> Run:
    def run(steps: int) -> None:
        for t in range(steps):
            peer.step(batches[t % len(batches)])

    return run


def _steps(run: Run, seconds: float) -> int:
    """Steps of a sample of about so many seconds of CPU time."""
    begun = time.process_time()
    run(1)
    return max(1, round(seconds / (time.process_time() - begun)))


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    first = rows[0]
    table = Table(
        title=f"d {first['d']}, {first['tokens']} tokens, batch {first['batch']}, 1 thread",
        caption=f"CPU time, median of {first['rounds']}; {first['cpu']}, load {first['load']},"
        f" commit {first['commit']}; drawing is {first['draw_share']:.1%} of native's step;"
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


def _append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    fresh = not path.exists() or path.stat().st_size == 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS)
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
