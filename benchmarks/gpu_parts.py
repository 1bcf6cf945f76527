"""The parts of benchmarks.gpu, each run in a process of its own: ours, and the peers.

Losses are compared before anything is timed: the first members' first loss, of ours and of each
peer, against the eager engine's, in float32 on the CPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_counts import counted
from benchmarks.gpu_peers import PEERS, Peer, compiled
from benchmarks.gpu_rows import Row, Setting, Step, measured
from benchmarks.problem import make_problem
from benchmarks.triton_resources import step_of
from compfast.config import MemberSpec
from compfast.engines.base import Float32
from compfast.engines.eager import EagerEngine
from compfast.engines.triton import TritonEngine
from compfast.engines.triton.step import flat_layout
from compfast.ensembles.schedule import make_tables

LOSS_TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 3e-2}  # of a loss near 5
_CHECKED = 4  # members: none knows of the others


def ours(setting: Setting, failures: list[str]) -> Iterator[Row]:
    """The triton engine: whole steps, then each launch by itself."""
    setting = setting.fitted()
    specs = setting.specs()
    engine = TritonEngine(specs, make_tables(specs), stacked=len(specs))
    engine.initialise()
    step = engine._step_of(range(setting.members))
    found = engine.advance(1).loss[:, 0]
    apart = _apart(found, _reference(specs))
    if not apart <= LOSS_TOLERANCE[setting.precision]:
        failures.append(f"triton ({setting}): its loss is off by {apart:.3g}")
        return
    step.open_window(0, 2**40)
    whole = _Whole(setting, specs[0])
    # whole steps first: a run that is cut off has what matters most
    if step._graph is not None:
        yield whole.row("triton, CUDA graph", _again(step, step.run))
    yield whole.row("triton, launches one by one", _again(step, step.launch))
    for count, launch in zip(
        counted(step.launches, specs[0], flat_layout(specs[0])), step.launches, strict=True
    ):
        yield measured(
            setting, f"kernel {count.name}", launch.run, count.operations, count.moved, 1
        )


def _again(step: Any, run: Callable[[], None]) -> Callable[[], None]:
    """The first step time and again: histories and schedules end, the clock does not."""

    def first() -> None:
        step.members.step.zero_()
        run()

    return first


def peers(setting: Setting, failures: list[str]) -> Iterator[Row]:
    """PyTorch's ways that compile nothing."""
    yield from _peers(setting, PEERS, failures)


def compiling(setting: Setting, failures: list[str]) -> Iterator[Row]:
    """torch.compile: minutes at times, so it has a process of its own, after all others.

    In the interpreter's place nothing is generated: Inductor takes minutes for a CPU.
    """
    backend = "inductor" if setting.on_gpu else "aot_eager"
    yield from _peers(setting, {"stacked baddbmm, torch.compile": compiled(backend)}, failures)


Part = Callable[[Setting, list[str]], Iterator[Row]]
PARTS: dict[str, Part] = {"ours": ours, "peers": peers, "compiling": compiling}


def _peers(setting: Setting, peers: dict[str, Peer], failures: list[str]) -> Iterator[Row]:
    """A peer that fails or trains otherwise gets no row, but its sentence."""
    setting = setting.fitted()
    specs = setting.specs()
    whole = _Whole(setting, specs[0])
    wanted = _reference(specs)
    problem = make_problem(setting.d, setting.members, batch_size=setting.batch)
    tokens, targets = (torch.from_numpy(x).long().to(setting.device) for x in problem.batch(0))
    for name, make in peers.items():
        run = losses = None
        try:
            with _products(setting):
                run, losses = make(problem, tokens, targets, setting.device)
                apart = _apart(losses().float().cpu().numpy(), wanted)
                if not apart <= LOSS_TOLERANCE[setting.precision]:
                    raise RuntimeError(f"its loss is off by {apart:.3g}")
                row = dataclasses.replace(whole.row(name, run), launches=0)
        except Exception as error:  # a peer's failure is a finding, and the next one's turn
            failures.append(f"{name} ({setting}): {error}")
        else:
            yield row
        run = losses = None
        if setting.on_gpu:
            torch.cuda.empty_cache()


class _Whole:
    """Rows of whole steps: all of one setting do the same work."""

    def __init__(self, setting: Setting, spec: MemberSpec) -> None:
        flat = flat_layout(spec)
        counts = counted(step_of(spec).launches, spec, flat)  # of one member
        self._setting, self._launches = setting, len(counts)
        self._operations = setting.members * sum(each.operations for each in counts)
        self._least = setting.members * 6 * 4 * flat.size

    def row(self, what: str, run: Step) -> Row:
        setting = self._setting
        row = measured(setting, what, run, self._operations, self._least, self._launches)
        return dataclasses.replace(row, member_steps=1e3 * setting.members / row.milliseconds)


def _reference(specs: list[MemberSpec]) -> Float32:
    """The first loss of the first members."""
    first = [
        dataclasses.replace(spec, training=dataclasses.replace(spec.training, precision="fp32"))
        for spec in specs[:_CHECKED]
    ]
    engine = EagerEngine(first, make_tables(first))
    engine.initialise()
    found: Float32 = engine.advance(1).loss[:, 0]
    return found


def _apart(losses: Float32, reference: Float32) -> float:
    """NaN where one of them is."""
    return float(np.abs(losses[: len(reference)] - reference).max())


@contextmanager
def _products(setting: Setting) -> Iterator[None]:
    """PyTorch's products in the same precision, as its users would ask for it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if setting.precision == "tf32" else "highest")
    cast = torch.autocast(
        setting.device.type, dtype=torch.bfloat16, enabled=setting.precision == "bf16"
    )
    try:
        with cast:
            yield
    finally:
        torch.set_float32_matmul_precision(before)
