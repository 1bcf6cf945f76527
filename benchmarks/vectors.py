"""`python -m benchmarks.vectors`: networks of vectors, native beside a plain loop and JAX.

One thread, on one CPU that the whole process is held to; CPU time of the process (wall time tells
what else ran), all peers in turns in one run.
"""

from __future__ import annotations

import argparse
import importlib.util
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
from benchmarks.peers.vectors import Loop, VectorPeer
from compfast.config.settings import from_dict
from compfast.engines.native import NativeEngine
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import make_tables
from compfast.errors import UsageError
from compfast.tasks import preset

RESULTS = ROOT / "benchmarks" / "results" / "vectors.csv"
_SOFTMAX = {"attention": "softmax", "value_path": "none"}
SETTINGS: Mapping[str, tuple[str, Mapping[str, Any]]] = {  # preset, what its model has instead
    "fuzzy-hyla": ("fuzzy-paper", {}),
    "fuzzy-softmax": ("fuzzy-paper", _SOFTMAX),
    "sraven": ("sraven-paper", {}),
    "hyperteacher": ("hyperteacher-paper", {"d_model": 64, "d_ff": 256}),
}
TOLERANCE = 1e-3  # of losses, relative to the largest of native's
GRADIENTS = 2e-5  # of the largest of a tensor, or of what counts where that is rounding
ROUNDING = 1e-3  # of the largest gradient
CHECKED = 24  # sequences of the gradients' check
COLUMNS = (
    *("date", "commit", "cpu", "load", "setting", "d", "tokens", "batch", "members"),
    *(*turns.COLUMNS, "draw_share", "python_share", "versions"),
)


def make_case(name: str, members: int, **training: Any) -> Case:
    """The preset of a setting at a constant learning rate, so that peers need no schedule."""
    base, model = SETTINGS[name]
    settings: dict[str, Any] = dict(preset(base))
    settings["model"] = {**settings["model"], **model}
    settings["optimizer"] = {**settings["optimizer"], "schedule": "constant", "warmup": 0.0}
    settings["training"] = {**settings["training"], "steps": STEPS, **training}
    settings["sweep"] = {"seed": list(range(members))}
    specs = tuple(member_specs(from_dict(settings)))
    return Case(name, specs, make_tables(specs))


def plain_peers(case: Case, *, jax: bool) -> dict[str, VectorPeer]:
    """A loop and, where asked for, JAX at compfast's initial weights; each as users write it and
    with the last layer at the positions only that are asked for, as compfast has it."""
    given = case.initial(), case.specs[0].model, case.specs[0].optimizer, case.length
    peers: dict[str, VectorPeer] = {
        "loop, einsum": Loop(*given, pruned=False),
        "loop, einsum, last rows": Loop(*given, pruned=True),
    }
    if jax:
        from benchmarks.peers.vectors_jax import JaxPeer

        peers["JAX jit(vmap)"] = JaxPeer(*given, pruned=False)
        peers["JAX jit(vmap), last rows"] = JaxPeer(*given, pruned=True)
    return peers


def gradient_difference(case: Case) -> float:
    return case.gradient_difference(GRADIENTS, ROUNDING, CHECKED)


def loss_difference(case: Case, name: str, losses: Sequence[Tensor]) -> float:
    return case.loss_difference(name, losses, TOLERANCE, relative=True)


def python_share(engine: NativeEngine, steps: int) -> float:
    """CPU time outside the C++ worker's thread, of all that the process takes for its steps."""
    at = int(engine.state().step[0])
    begun = time.thread_time(), time.process_time()
    engine.advance(at + steps)
    own, all_of_it = time.thread_time() - begun[0], time.process_time() - begun[1]
    return own / all_of_it


def measure(case: Case, rounds: int, seconds: float, *, jax: bool) -> list[dict[str, Any]]:
    """A row a peer, native first; raises GateError before anything is timed."""
    exact = {"native": gradient_difference(case)}
    gates, times = race(
        case, plain_peers(case, jax=jax), partial(loss_difference, case), rounds, seconds
    )
    draw = turns.draw_share(case.engine(), _profiled(case))
    host = python_share(case.engine(), _profiled(case))
    about = {
        "setting": case.name,
        "d": case.specs[0].model.d_model,
        "tokens": case.length,
        "batch": case.batch_size,
        "members": len(case.specs),
    }
    packages = ("compfast", "numpy", "torch", *(("jax", "jaxlib") if jax else ()))
    shares = {"draw_share": round(draw, 4), "python_share": round(host, 5)}
    return [
        {
            **row,
            **(shares if row["peer"] == "native" else dict.fromkeys(shares)),
            "versions": machine.versions(packages),
        }
        for row in turns.rows(times, exact | gates, about)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: see `turns.command`."""
    parser = argparse.ArgumentParser("python -m benchmarks.vectors", description=__doc__)
    turns.add_flags(parser, SETTINGS, RESULTS)
    parser.add_argument("--no-jax", action="store_true", help="leave JAX out")

    def run(given: argparse.Namespace, console: Console) -> None:
        if not given.no_jax and importlib.util.find_spec("jax") is None:
            raise UsageError("jax is not installed; install it, or leave it out with --no-jax")
        with turns.one_cpu():
            for name in given.settings:
                _one(make_case(name, given.models), given, console)

    return turns.command(parser, arguments, SETTINGS, run)


def _one(case: Case, given: argparse.Namespace, console: Console) -> None:
    rows = measure(case, given.rounds, given.seconds, jax=not given.no_jax)
    size = f"{case.name}: d {rows[0]['d']}, {case.length} tokens"
    host = (
        f"drawing is {rows[0]['draw_share']:.2%} of native's step and Python"
        f" {rows[0]['python_share']:.3%} of its CPU time"
    )
    console.print(
        turns.peer_table(f"{size}, batch {case.batch_size}, 1 thread", host, rows),
        turns.profile_table(case.engine(), f"{size}: where a step goes", _profiled(case)),
    )
    if given.csv is not None:
        turns.append(given.csv, COLUMNS, rows)


def _profiled(case: Case) -> int:
    """Steps that are profiled: fewer of the large networks."""
    layers: int = case.specs[0].model.layers
    return max(8, turns.PROFILED // layers)


if __name__ == "__main__":
    sys.exit(main())
