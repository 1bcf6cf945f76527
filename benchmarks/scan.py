"""`python -m benchmarks.scan`: networks of SCAN's sequences, native beside eager loops.

One thread, on one CPU that the whole process is held to; CPU time of the process (wall time tells
what else ran), all peers in turns in one run. Beside each peer stands the share of the positions it
computes that lie behind their sequence's last target; beside native, what the exams of a run of
preset `scan`'s length would take, told by networks that never end an answer.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks import machine, turns
from benchmarks.fleet import ROOT
from benchmarks.peers.masked import Batch, Loop
from benchmarks.vectors import one_cpu
from compfast.config import Config, MemberSpec, ModelConfig, OptimizerConfig, TrainingConfig
from compfast.engines.eager import EagerEngine
from compfast.engines.lengths import Padding, padding
from compfast.engines.native import NativeEngine
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import Tables, make_tables
from compfast.errors import CompfastError
from compfast.tasks import make_task, preset, prompts_of
from compfast.tasks.scan import ScanConfig

TASK = ScanConfig(split="simple")  # any task under a mask
RESULTS = ROOT / "benchmarks" / "results" / "scan.csv"
SETTINGS: Mapping[str, Mapping[str, Any]] = {  # name -> [model]
    "d128": {"d_model": 128, "layers": 3, "heads": 4},
    "d128-wide": {"d_model": 128, "layers": 3, "heads": 4, "d_ff": 512},
}
BATCH, STEPS = 128, 20_000
UPDATES, TOLERANCE = 5, 1e-4  # of losses near 2
GRADIENTS = 2e-5  # of the largest of a tensor, or of what counts where that is rounding
ROUNDING = 1e-3  # of the largest gradient
CHECKED = 24  # sequences of the gradients' check
POOL = 4  # batches drawn for the plain peers
PROFILED = 6  # steps
COUNTED = 50  # batches whose padding is counted
COMPUTES = {  # peer -> which of Padding's positions
    "native": "used",
    "engine eager": "cut",
    "loop, to the longest": "cut",
    "loop, to T": "whole",
}
COLUMNS = (
    *("date", "commit", "cpu", "load", "setting", "task", "d", "layers", "d_ff", "tokens"),
    *("batch", "members", *turns.COLUMNS, "padding", "draw_share", "exam_share", "versions"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """Members that differ in their seed only."""

    name: str
    specs: tuple[MemberSpec, ...]
    tables: Tables

    @property
    def batch_size(self) -> int:
        return self.specs[0].training.batch_size

    def engine(self) -> NativeEngine:
        engine = NativeEngine(self.specs, self.tables, threads=1)
        engine.initialise()
        return engine

    def batch(self, step: int) -> Batch:
        task = make_task(self.specs[0].task)
        drawn = [task.batch(spec.data_seed, step, self.batch_size) for spec in self.specs]
        tokens, targets = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
        return tokens.long(), targets.long()

    def padding(self) -> Padding:
        """Of the first member's first batches."""
        spec, task = self.specs[0], make_task(self.specs[0].task)
        steps = range(COUNTED)
        return padding(task.batch(spec.data_seed, t, self.batch_size)[1] for t in steps)


def make_case(name: str, members: int, *, batch_size: int = BATCH) -> Case:
    """The schedule is a constant rate, so that peers need no schedule."""
    config = Config(
        task=TASK,
        model=ModelConfig(loss_positions="masked", **SETTINGS[name]),
        optimizer=OptimizerConfig(lr=1e-3, schedule="constant", warmup=0.0),
        training=TrainingConfig(steps=STEPS, batch_size=batch_size),
        sweep=(("seed", tuple(range(members))),),
    )
    specs = tuple(member_specs(config))
    return Case(name, specs, make_tables(specs))


def plain_peers(case: Case) -> dict[str, Loop]:
    """Loops at compfast's initial weights."""
    weights = {n: torch.from_numpy(w) for n, w in case.engine().state().params.items()}
    given = weights, case.specs[0].model, case.specs[0].optimizer
    return {
        "loop, to the longest": Loop(*given, padded=False),
        "loop, to T": Loop(*given, padded=True),
    }


def gradient_difference(case: Case) -> float:
    """See benchmarks/turns.py; raises GateError above GRADIENTS."""
    spec = case.specs[0]
    batch = make_task(spec.task).batch(99, 0, min(CHECKED, case.batch_size))
    return turns.gradient_difference(case.engine(), spec, *batch, GRADIENTS, ROUNDING)


def loss_difference(case: Case, name: str, losses: Sequence[torch.Tensor]) -> float:
    """Of [M] losses over UPDATES steps from native's; raises GateError above TOLERANCE."""
    reference = case.engine().advance(UPDATES).loss
    return turns.loss_difference(name, torch.stack(list(losses), 1).numpy(), reference, TOLERANCE)


def exam_share(case: Case, step_seconds: float) -> float:
    """CPU time of all exams of a run of preset `scan`'s length over that of its steps.

    The network is untrained: hardly an answer ends before the longest there is.
    """
    spec = case.specs[0]
    exam = make_task(spec.task).exam(spec.evaluation)
    engine = case.engine()
    begun = time.process_time()
    engine.generate(prompts_of(exam), [0])
    spent = time.process_time() - begun
    training = preset("scan")["training"]
    return spent / (float(training["eval_every"]) * step_seconds)


def measure(case: Case, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """A row a peer, native first; raises GateError before anything is timed."""
    gates = {"native": gradient_difference(case)}
    native, eager = case.engine(), EagerEngine(case.specs, case.tables, threads=1)
    first = list(torch.from_numpy(eager.advance(UPDATES).loss.T))
    gates["engine eager"] = loss_difference(case, "engine eager", first)
    runs = {
        "native": turns.forward_run(native, STEPS),
        "engine eager": turns.forward_run(eager, STEPS),
    }
    batches = [case.batch(step) for step in range(max(UPDATES, POOL))]
    for name, peer in plain_peers(case).items():
        losses = [peer.step(batches[t]) for t in range(UPDATES)]
        gates[name] = loss_difference(case, name, losses)
        runs[name] = _cycled(peer, batches[:POOL])
    times = turns.in_turns(runs, len(case.specs), rounds, seconds)
    draw = turns.draw_share(case.engine(), PROFILED)
    exams = exam_share(case, statistics.median(times["native"].cpu) / 1e3)
    model, found = case.specs[0].model, case.padding()
    about = {
        "setting": case.name,
        "task": case.specs[0].task.name,
        "d": model.d_model,
        "layers": model.layers,
        "d_ff": model.d_ff,
        "tokens": make_task(case.specs[0].task).length,
        "batch": case.batch_size,
        "members": len(case.specs),
    }
    return [
        {
            **row,
            "padding": round(found.waste(getattr(found, COMPUTES[row["peer"]])), 4),
            "draw_share": round(draw, 4) if row["peer"] == "native" else None,
            "exam_share": round(exams, 4) if row["peer"] == "native" else None,
            "versions": machine.versions(("compfast", "numpy", "torch")),
        }
        for row in turns.rows(times, gates, about)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 when the gate is red, 2 for wrong flags."""
    parser = argparse.ArgumentParser("python -m benchmarks.scan", description=__doc__)
    turns.add_flags(parser, SETTINGS, RESULTS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        turns.check_flags(given, SETTINGS)
        with one_cpu():
            for name in given.settings:
                _one(make_case(name, given.models), given, console)
    except CompfastError as error:
        print(f"scan: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _one(case: Case, given: argparse.Namespace, console: Console) -> None:
    rows = measure(case, given.rounds, given.seconds)
    size = f"{case.name}: d {rows[0]['d']}, L {rows[0]['layers']}, {rows[0]['tokens']} tokens"
    waste = ", ".join(f"{row['peer']} {row['padding']:.1%}" for row in rows)
    drawing, exams = (f"{rows[0][share]:.2%}" for share in ("draw_share", "exam_share"))
    more = f"positions of no use: {waste}; drawing is {drawing} of native's step, exams {exams}"
    console.print(
        turns.peer_table(f"{size}, batch {case.batch_size}, 1 thread", more, rows),
        turns.profile_table(case.engine(), f"{size}: where a step goes", PROFILED),
    )
    if given.csv is not None:
        turns.append(given.csv, COLUMNS, rows)


def _cycled(peer: Loop, batches: Sequence[Batch]) -> turns.Run:
    def run(steps: int) -> None:
        for t in range(steps):
            peer.step(batches[t % len(batches)])

    return run


if __name__ == "__main__":
    sys.exit(main())
