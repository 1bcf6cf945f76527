"""Members that are trained beside plain peers: what markov.py, vectors.py and scan.py share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks import turns
from compfast.config import MemberSpec
from compfast.engines.base import Float32
from compfast.engines.eager import EagerEngine
from compfast.engines.native import NativeEngine
from compfast.ensembles.schedule import Tables
from compfast.tasks import make_task

Batch = tuple[Tensor, Tensor]  # inputs, targets [M, B, ..]: ids int64, numbers float32
STEPS = 20_000  # of a training, from whose end a run begins again
UPDATES = 5  # in which peers are held to train what native trains
POOL = 4  # batches drawn for the plain peers


class Peer(Protocol):
    def step(self, batch: Batch, /) -> Tensor:
        """Train every member one step; losses [M] before it."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """Members that differ in their seed only."""

    name: str
    specs: tuple[MemberSpec, ...]
    tables: Tables

    @property
    def batch_size(self) -> int:
        return self.specs[0].training.batch_size

    @property
    def length(self) -> int:
        """T"""
        return make_task(self.specs[0].task).length

    def engine(self) -> NativeEngine:
        engine = NativeEngine(self.specs, self.tables, threads=1)
        engine.initialise()
        return engine

    def initial(self) -> dict[str, Tensor]:
        """compfast's initial weights by name, [M, *shape]."""
        return {n: torch.from_numpy(w) for n, w in self.engine().state().params.items()}

    def batch(self, step: int) -> Batch:
        task = make_task(self.specs[0].task)
        drawn = [task.batch(spec.data_seed, step, self.batch_size) for spec in self.specs]
        inputs, targets = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
        return _read(inputs), _read(targets)

    def gradient_difference(self, limit: float, rounding: float = 0.0, most: int = 2**31) -> float:
        """Of at most so many sequences: see `turns.gradient_difference`."""
        spec = self.specs[0]
        batch = make_task(spec.task).batch(99, 0, min(most, self.batch_size))
        return turns.gradient_difference(self.engine(), spec, *batch, limit, rounding)

    def loss_difference(
        self, name: str, losses: Sequence[Tensor], limit: float, *, relative: bool = False
    ) -> float:
        """Of [M] losses over UPDATES steps from native's, of the largest of these if `relative`.

        Raises GateError above `limit`.
        """
        reference = self.engine().advance(UPDATES).loss
        unit = np.float32(np.abs(reference).max() if relative else 1)
        given: Float32 = torch.stack(list(losses), 1).numpy()
        return turns.loss_difference(name, given / unit, reference / unit, limit)


def race(
    case: Case,
    peers: Mapping[str, Peer],
    difference: Callable[[str, Sequence[Tensor]], float],
    rounds: int,
    seconds: float,
) -> tuple[dict[str, float], dict[str, turns.Times]]:
    """Gates and times of native, engine eager and the peers.

    `difference` is the gate of all but native; nothing is timed before all have passed.
    """
    native, eager = case.engine(), EagerEngine(case.specs, case.tables, threads=1)
    first = list(torch.from_numpy(eager.advance(UPDATES).loss.T))
    gates = {"engine eager": difference("engine eager", first)}
    runs = {
        "native": turns.forward_run(native, STEPS),
        "engine eager": turns.forward_run(eager, STEPS),
    }
    drawn = [case.batch(step) for step in range(max(UPDATES, POOL))]
    for name, peer in peers.items():
        gates[name] = difference(name, [peer.step(drawn[t]) for t in range(UPDATES)])
        runs[name] = _cycled(peer, drawn[:POOL])
    return gates, turns.in_turns(runs, len(case.specs), rounds, seconds)


def _cycled(peer: Peer, batches: Sequence[Batch]) -> turns.Run:
    def run(steps: int) -> None:
        for t in range(steps):
            peer.step(batches[t % len(batches)])

    return run


def _read(given: Tensor) -> Tensor:
    """Ids as PyTorch indexes with them, numbers as they are."""
    return given if given.is_floating_point() else given.long()
