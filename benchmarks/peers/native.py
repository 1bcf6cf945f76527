"""compfast's own engine: fused C++, one worker a member."""

from __future__ import annotations

import dataclasses
import os
from typing import Literal

from benchmarks.problem import Problem
from compfast.engines.base import Float32
from compfast.engines.native import NativeEngine

Precision = Literal["fp32", "bf16"]


class NativePeer:
    """See `benchmarks.peers.base.Peer`; threads are those that OMP_NUM_THREADS allows."""

    def __init__(self, problem: Problem, precision: Precision = "fp32") -> None:
        threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
        self._steps = problem.specs[0].training.steps
        training = dataclasses.replace(problem.specs[0].training, precision=precision)
        specs = [dataclasses.replace(spec, training=training) for spec in problem.specs]
        self._engine = NativeEngine(specs, problem.tables, threads=threads)
        self._engine.initialise()
        self._step = 0

    def losses(self, steps: int) -> Float32:
        self._step += steps
        return self._engine.advance(self._step).loss

    def train(self, steps: int) -> None:
        if self._step + steps > self._steps:
            self._engine.initialise()
            self._step = 0
        self._step += steps
        self._engine.advance(self._step)

    def matmul(self) -> str:
        return f"own kernels, {self._engine.isa}"

    def matmul_rate(self) -> float | None:
        return None


def make(problem: Problem, variant: str) -> NativePeer:
    return NativePeer(problem, "bf16" if variant == "bf16" else "fp32")
