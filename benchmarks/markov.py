"""`python -m benchmarks.markov`: networks of Markov chains, native beside eager loops.

One thread, CPU time of the process (wall time tells what else ran), all peers in turns in one run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks import machine, turns
from benchmarks.fleet import ROOT
from benchmarks.peers.chain import Batch, ChainPeer, Loop, Stacked, Vmap, joined
from compfast.config import Config, MemberSpec, ModelConfig, OptimizerConfig, TrainingConfig
from compfast.engines.eager import EagerEngine
from compfast.engines.native import NativeEngine
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import Tables, make_tables
from compfast.errors import CompfastError
from compfast.tasks import make_task
from compfast.tasks.markov import MarkovConfig

RESULTS = ROOT / "benchmarks" / "results" / "markov.csv"
SETTINGS = {"paper": (8, 1024), "d16": (16, 256)}  # name -> d, T
BATCH, STEPS = 16, 20_000
UPDATES, TOLERANCE = 5, 1e-4  # of losses near 0.7
GRADIENTS = 2e-5  # of the largest of a tensor
POOL = 4  # batches drawn for the plain peers
COLUMNS = (
    *("date", "commit", "cpu", "load", "d", "tokens", "batch", "members", *turns.COLUMNS),
    *("draw_share", "versions"),
)


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
    """See benchmarks/turns.py; raises GateError above GRADIENTS."""
    spec = chains.specs[0]
    batch = make_task(spec.task).batch(99, 0, BATCH)
    return turns.gradient_difference(chains.engine(), spec, *batch, GRADIENTS)


def loss_difference(chains: Chains, name: str, losses: Sequence[torch.Tensor]) -> float:
    """Of [M] losses over UPDATES steps from native's; raises GateError above TOLERANCE."""
    reference = chains.engine().advance(UPDATES).loss
    return turns.loss_difference(name, torch.stack(list(losses), 1).numpy(), reference, TOLERANCE)


def measure(chains: Chains, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """A row a peer, native first; raises GateError before anything is timed."""
    gates = {"native": gradient_difference(chains)}
    native, eager = chains.engine(), EagerEngine(chains.specs, chains.tables, threads=1)
    gates["engine eager"] = loss_difference(
        chains, "engine eager", list(torch.from_numpy(eager.advance(UPDATES).loss.T))
    )
    runs = {
        "native": turns.forward_run(native, STEPS),
        "engine eager": turns.forward_run(eager, STEPS),
    }
    batches = [chains.batch(step) for step in range(max(UPDATES, POOL))]
    for name, peer in plain_peers(chains).items():
        losses = [peer.step(batches[t]) for t in range(UPDATES)]
        gates[name] = loss_difference(chains, name, losses)
        runs[name] = _cycled(peer, batches[:POOL])
    times = turns.in_turns(runs, len(chains.specs), rounds, seconds)
    draw = turns.draw_share(chains.engine(), turns.PROFILED)
    about = {
        "d": chains.d,
        "tokens": chains.length,
        "batch": BATCH,
        "members": len(chains.specs),
    }
    return [
        {
            **row,
            "draw_share": round(draw, 4) if row["peer"] == "native" else None,
            "versions": machine.versions(("compfast", "numpy", "torch")),
        }
        for row in turns.rows(times, gates, about)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 when the gate is red, 2 for wrong flags."""
    parser = argparse.ArgumentParser("python -m benchmarks.markov", description=__doc__)
    turns.add_flags(parser, SETTINGS, RESULTS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        turns.check_flags(given, SETTINGS)
        for name in given.settings:
            chains = make_chains(*SETTINGS[name], given.models)
            rows = measure(chains, given.rounds, given.seconds)
            size = f"d {chains.d}, {chains.length} tokens"
            draw = f"drawing is {rows[0]['draw_share']:.1%} of native's step"
            console.print(
                turns.peer_table(f"{size}, batch {BATCH}, 1 thread", draw, rows),
                turns.profile_table(
                    chains.engine(), f"native, {size}: where a step goes", turns.PROFILED
                ),
            )
            if given.csv is not None:
                turns.append(given.csv, COLUMNS, rows)
    except CompfastError as error:
        print(f"markov: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _cycled(peer: ChainPeer, batches: Sequence[Batch]) -> turns.Run:
    def run(steps: int) -> None:
        for t in range(steps):
            peer.step(batches[t % len(batches)])

    return run


if __name__ == "__main__":
    sys.exit(main())
