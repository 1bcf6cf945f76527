"""`python -m benchmarks.markov`: networks of Markov chains, native beside eager loops.

One thread, CPU time of the process (wall time tells what else ran), all peers in turns in one run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks import machine, turns
from benchmarks.cases import STEPS, Batch, Case, race
from benchmarks.fleet import ROOT
from benchmarks.peers.chain import ChainPeer, Loop, Stacked, Vmap, joined
from compfast.config import Config, ModelConfig, OptimizerConfig, TrainingConfig
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import make_tables
from compfast.tasks.markov import MarkovConfig

RESULTS = ROOT / "benchmarks" / "results" / "markov.csv"
SETTINGS = {"paper": (8, 1024), "d16": (16, 256)}  # name -> d, T
BATCH = 16
TOLERANCE = 1e-4  # of losses near 0.7
GRADIENTS = 2e-5  # of the largest of a tensor
COLUMNS = (
    *("date", "commit", "cpu", "load", "d", "tokens", "batch", "members", *turns.COLUMNS),
    *("draw_share", "versions"),
)


class Chains(Case):
    """The network of preset markov-paper at width d; peers are asked at every position."""

    def batch(self, step: int) -> Batch:
        tokens, last = super().batch(step)
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
    return Chains(f"d {d}", specs, make_tables(specs))


def plain_peers(chains: Chains) -> dict[str, ChainPeer]:
    """The peers of benchmarks/peers/chain.py at compfast's initial weights."""
    weights, spec = joined(chains.initial()), chains.specs[0]
    given = weights, spec.model, spec.optimizer
    return {
        "loop, matmul": Loop(*given, sdpa=False),
        "loop, SDPA": Loop(*given, sdpa=True),
        "vmap, matmul": Vmap(*given),
        "stacked, SDPA": Stacked(*given),
    }


def gradient_difference(chains: Chains) -> float:
    return chains.gradient_difference(GRADIENTS)


def loss_difference(chains: Chains, name: str, losses: Sequence[Tensor]) -> float:
    return chains.loss_difference(name, losses, TOLERANCE)


def measure(chains: Chains, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """A row a peer, native first; raises GateError before anything is timed."""
    exact = {"native": gradient_difference(chains)}
    gates, times = race(
        chains, plain_peers(chains), partial(loss_difference, chains), rounds, seconds
    )
    draw = turns.draw_share(chains.engine(), turns.PROFILED)
    about = {
        "d": chains.specs[0].model.d_model,
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
        for row in turns.rows(times, exact | gates, about)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: see `turns.command`."""
    parser = argparse.ArgumentParser("python -m benchmarks.markov", description=__doc__)
    turns.add_flags(parser, SETTINGS, RESULTS)

    def run(given: argparse.Namespace, console: Console) -> None:
        for name in given.settings:
            chains = make_chains(*SETTINGS[name], given.models)
            rows = measure(chains, given.rounds, given.seconds)
            size = f"{chains.name}, {chains.length} tokens"
            draw = f"drawing is {rows[0]['draw_share']:.1%} of native's step"
            console.print(
                turns.peer_table(f"{size}, batch {BATCH}, 1 thread", draw, rows),
                turns.profile_table(
                    chains.engine(), f"native, {size}: where a step goes", turns.PROFILED
                ),
            )
            if given.csv is not None:
                turns.append(given.csv, COLUMNS, rows)

    return turns.command(parser, arguments, SETTINGS, run)


if __name__ == "__main__":
    sys.exit(main())
