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
from functools import partial
from typing import Any

from rich.console import Console
from torch import Tensor

from benchmarks import machine, turns
from benchmarks.cases import STEPS, Case, race
from benchmarks.fleet import ROOT
from benchmarks.peers.masked import Loop
from compfast.config import Config, ModelConfig, OptimizerConfig, TrainingConfig
from compfast.engines.lengths import Padding, padding
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import make_tables
from compfast.tasks import make_task, preset, prompts_of
from compfast.tasks.scan import ScanConfig

TASK = ScanConfig(split="simple")  # any task under a mask
RESULTS = ROOT / "benchmarks" / "results" / "scan.csv"
SETTINGS: Mapping[str, Mapping[str, Any]] = {  # name -> [model]
    "d128": {"d_model": 128, "layers": 3, "heads": 4},
    "d128-wide": {"d_model": 128, "layers": 3, "heads": 4, "d_ff": 512},
}
BATCH = 128
TOLERANCE = 1e-4  # of losses near 2
GRADIENTS = 2e-5  # of the largest of a tensor, or of what counts where that is rounding
ROUNDING = 1e-3  # of the largest gradient
CHECKED = 24  # sequences of the gradients' check
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
    given = case.initial(), case.specs[0].model, case.specs[0].optimizer
    return {
        "loop, to the longest": Loop(*given, padded=False),
        "loop, to T": Loop(*given, padded=True),
    }


def gradient_difference(case: Case) -> float:
    return case.gradient_difference(GRADIENTS, ROUNDING, CHECKED)


def loss_difference(case: Case, name: str, losses: Sequence[Tensor]) -> float:
    return case.loss_difference(name, losses, TOLERANCE)


def padding_of(case: Case) -> Padding:
    """Of the first member's first batches."""
    spec, task = case.specs[0], make_task(case.specs[0].task)
    steps = range(COUNTED)
    return padding(task.batch(spec.data_seed, t, case.batch_size)[1] for t in steps)


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
    exact = {"native": gradient_difference(case)}
    gates, times = race(case, plain_peers(case), partial(loss_difference, case), rounds, seconds)
    draw = turns.draw_share(case.engine(), PROFILED)
    exams = exam_share(case, statistics.median(times["native"].cpu) / 1e3)
    model, found = case.specs[0].model, padding_of(case)
    about = {
        "setting": case.name,
        "task": case.specs[0].task.name,
        "d": model.d_model,
        "layers": model.layers,
        "d_ff": model.d_ff,
        "tokens": case.length,
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
        for row in turns.rows(times, exact | gates, about)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: see `turns.command`."""
    parser = argparse.ArgumentParser("python -m benchmarks.scan", description=__doc__)
    turns.add_flags(parser, SETTINGS, RESULTS)

    def run(given: argparse.Namespace, console: Console) -> None:
        with turns.one_cpu():
            for name in given.settings:
                _one(make_case(name, given.models), given, console)

    return turns.command(parser, arguments, SETTINGS, run)


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


if __name__ == "__main__":
    sys.exit(main())
