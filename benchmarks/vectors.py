"""`python -m benchmarks.vectors`: networks of vectors, native beside a plain loop and JAX.

One thread, on one CPU that the whole process is held to; CPU time of the process (wall time tells
what else ran), all peers in turns in one run.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks import machine, turns
from benchmarks.fleet import ROOT
from benchmarks.peers.vectors import Batch, Loop, VectorPeer
from compfast.config import MemberSpec
from compfast.config.settings import from_dict
from compfast.engines.eager import EagerEngine
from compfast.engines.native import NativeEngine
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import Tables, make_tables
from compfast.errors import CompfastError, UsageError
from compfast.tasks import make_task, preset

RESULTS = ROOT / "benchmarks" / "results" / "vectors.csv"
_SOFTMAX = {"attention": "softmax", "value_path": "none"}
SETTINGS: Mapping[str, tuple[str, Mapping[str, Any]]] = {  # preset, what its model has instead
    "fuzzy-hyla": ("fuzzy-paper", {}),
    "fuzzy-softmax": ("fuzzy-paper", _SOFTMAX),
    "sraven": ("sraven-paper", {}),
    "hyperteacher": ("hyperteacher-paper", {"d_model": 64, "d_ff": 256}),
}
STEPS = 20_000
UPDATES, TOLERANCE = 5, 1e-3  # of losses, relative to the largest of native's
GRADIENTS = 2e-5  # of the largest of a tensor, or of what counts where that is rounding
ROUNDING = 1e-3  # of the largest gradient
CHECKED = 24  # sequences of the gradients' check
POOL = 4  # batches drawn for the plain peers
COLUMNS = (
    *("date", "commit", "cpu", "load", "setting", "d", "tokens", "batch", "members"),
    *(*turns.COLUMNS, "draw_share", "python_share", "versions"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """Members that differ in their seed only."""

    name: str
    length: int
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
        inputs, targets = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
        return inputs, targets if targets.is_floating_point() else targets.long()


def make_case(name: str, members: int, **training: Any) -> Case:
    """The preset of a setting at a constant learning rate, so that peers need no schedule."""
    base, model = SETTINGS[name]
    settings: dict[str, Any] = dict(preset(base))
    settings["model"] = {**settings["model"], **model}
    settings["optimizer"] = {**settings["optimizer"], "schedule": "constant", "warmup": 0.0}
    settings["training"] = {**settings["training"], "steps": STEPS, **training}
    settings["sweep"] = {"seed": list(range(members))}
    specs = tuple(member_specs(from_dict(settings)))
    return Case(name, make_task(specs[0].task).length, specs, make_tables(specs))


def plain_peers(case: Case, *, jax: bool) -> dict[str, VectorPeer]:
    """A loop and, where asked for, JAX at compfast's initial weights; each as users write it and
    with the last layer at the positions only that are asked for, as compfast has it."""
    weights = {n: torch.from_numpy(w) for n, w in case.engine().state().params.items()}
    given = weights, case.specs[0].model, case.specs[0].optimizer, case.length
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
    """See benchmarks/turns.py; raises GateError above GRADIENTS."""
    spec = case.specs[0]
    batch = make_task(spec.task).batch(99, 0, min(CHECKED, case.batch_size))
    return turns.gradient_difference(case.engine(), spec, *batch, GRADIENTS, ROUNDING)


def loss_difference(case: Case, name: str, losses: Sequence[torch.Tensor]) -> float:
    """Of [M] losses over UPDATES steps from native's, relative to the largest of these; raises
    GateError above TOLERANCE."""
    reference = case.engine().advance(UPDATES).loss
    unit = np.abs(reference).max()  # float32
    given = torch.stack(list(losses), 1).numpy()
    return turns.loss_difference(name, given / unit, reference / unit, TOLERANCE)


def python_share(engine: NativeEngine, steps: int) -> float:
    """CPU time outside the C++ worker's thread, of all that the process takes for its steps."""
    at = int(engine.state().step[0])
    begun = time.thread_time(), time.process_time()
    engine.advance(at + steps)
    own, all_of_it = time.thread_time() - begun[0], time.process_time() - begun[1]
    return own / all_of_it


def measure(case: Case, rounds: int, seconds: float, *, jax: bool) -> list[dict[str, Any]]:
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
    for name, peer in plain_peers(case, jax=jax).items():
        losses = [peer.step(batches[t]) for t in range(UPDATES)]
        gates[name] = loss_difference(case, name, losses)
        runs[name] = _cycled(peer, batches[:POOL])
    times = turns.in_turns(runs, len(case.specs), rounds, seconds)
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
        for row in turns.rows(times, gates, about)
    ]


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 when the gate is red, 2 for wrong flags."""
    parser = argparse.ArgumentParser("python -m benchmarks.vectors", description=__doc__)
    turns.add_flags(parser, SETTINGS, RESULTS)
    parser.add_argument("--no-jax", action="store_true", help="leave JAX out")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        turns.check_flags(given, SETTINGS)
        if not given.no_jax and importlib.util.find_spec("jax") is None:
            raise UsageError("jax is not installed; install it, or leave it out with --no-jax")
        with one_cpu():
            for name in given.settings:
                _one(make_case(name, given.models), given, console)
    except CompfastError as error:
        print(f"vectors: {error}", file=sys.stderr)
        return error.exit_code
    return 0


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


def _cycled(peer: VectorPeer, batches: Sequence[Batch]) -> turns.Run:
    def run(steps: int) -> None:
        for t in range(steps):
            peer.step(batches[t % len(batches)])

    return run


if __name__ == "__main__":
    sys.exit(main())
