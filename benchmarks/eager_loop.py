"""The training loop that a user would write in PyTorch, in one or several processes."""

from __future__ import annotations

import multiprocessing
import platform
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from types import TracebackType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils import clip_grad_norm_

from compfast.config import MemberSpec
from compfast.init import initial_parameters
from compfast.models.transformer import Transformer
from compfast.schedule import make_tables
from compfast.tasks import make_task


class EagerLoop:
    """nn.Module, cross-entropy of the last position, clip, AdamW, fresh data each step."""

    def __init__(self, spec: MemberSpec) -> None:
        self.spec, self.task, self.tables = spec, make_task(spec.task), make_tables([spec])
        self.model = Transformer(spec.model)
        drawn = initial_parameters(spec, self.tables.std[0])
        self.model.load_state_dict({name: torch.tensor(value) for name, value in drawn.items()})
        options = spec.optimizer
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            betas=(options.beta1, options.beta2),
            eps=options.eps,
            weight_decay=options.weight_decay,
        )
        self.step = 0

    def train(self, steps: int) -> None:
        options, tables = self.spec.optimizer, self.tables
        for t in range(self.step, self.step + steps):
            batch = self.task.batch(self.spec.seed, t, self.spec.training.batch_size)
            tokens, targets = (torch.from_numpy(array).long() for array in batch)
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(tokens)[:, -1], targets)
            loss.backward()  # type: ignore[no-untyped-call]
            clip_grad_norm_(self.model.parameters(), options.clip)
            lr = float(np.float32(options.lr * tables.scale[t] + tables.offset[t]))
            self.optimizer.param_groups[0]["lr"] = lr
            self.optimizer.step()
        self.step += steps


class EagerProcesses:
    """`processes` loops, each in its own process on `threads` threads, started together."""

    def __init__(self, specs: Sequence[MemberSpec], processes: int, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        barrier = context.Barrier(processes)
        self.pipes: list[Connection] = []
        self.workers = []
        for spec in specs[:processes]:
            here, there = context.Pipe()
            worker = context.Process(target=_serve, args=(there, barrier, spec, threads))
            worker.start()
            self.pipes.append(here)
            self.workers.append(worker)
        for pipe in self.pipes:
            pipe.recv()

    def __enter__(self) -> EagerProcesses:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pipe in self.pipes:
            pipe.send(0)
        for worker in self.workers:
            worker.join()

    def rate(self, steps: int) -> float:
        """Model-steps a second while every process trains `steps` steps at the same time."""
        for pipe in self.pipes:
            pipe.send(steps)
        spans: list[tuple[float, float]] = [pipe.recv() for pipe in self.pipes]
        # The monotonic clock is one for all processes of a machine.
        seconds = max(end for _, end in spans) - min(start for start, _ in spans)
        return len(spans) * steps / seconds


def _serve(pipe: Connection, barrier: Barrier, spec: MemberSpec, threads: int) -> None:
    torch.set_num_threads(threads)
    loop = EagerLoop(spec)
    loop.train(3)
    pipe.send("ready")
    while steps := int(pipe.recv()):
        barrier.wait()
        start = time.monotonic()
        loop.train(steps)
        pipe.send((start, time.monotonic()))


def versions() -> dict[str, Any]:
    """What a row of figures must say beside them."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cpu": _cpu_name(),
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return "unknown"
