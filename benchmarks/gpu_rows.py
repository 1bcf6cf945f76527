"""What benchmarks.gpu measures, a row of its table, and how long a call takes."""

from __future__ import annotations

import csv
import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import triton

from benchmarks import machine
from benchmarks.cards import card_of
from benchmarks.problem import make_problem
from compfast.config import MemberSpec
from compfast.config.settings import from_dict
from compfast.engines.triton import memory
from compfast.engines.triton.step import flat_layout
from compfast.ensembles.grid import member_specs
from compfast.tasks import preset

INTERPRETED = "interpreter on the CPU"
_STATE = 3 * 4  # bytes a parameter: itself and both moments

Step = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    device: str
    torch: str
    triton: str
    commit: str
    when: str
    what: str
    launches: int  # kernels of one step; 1 for a kernel, 0 for peers, which nobody counts
    d: int
    heads: int
    precision: str
    members: int
    batch: int
    milliseconds: float  # of one launch, or of one step of all members
    spread: float  # largest minus smallest sample over the median
    member_steps: float  # a second; 0 for single kernels
    gflop: float  # useful operations of one launch or step (benchmarks/gpu_counts.py)
    megabytes: float  # a launch: what it must move; a step: parameters and moments, in and out
    tflops: float  # operations a second
    share: float  # of the card's dense peak at this precision; 0 where the card is not known


@dataclass(frozen=True)
class Setting:
    """One network at one precision; `on_gpu` False: Triton's interpreter."""

    d: int
    precision: str
    members: int
    batch: int
    rounds: int
    on_gpu: bool
    shape: str = "measured"  # or "heads", the same with heads of 32, or "paper"

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if self.on_gpu else "cpu")

    @property
    def heads(self) -> int:
        return max(1, self.d // 32) if self.shape == "heads" else 1

    def __str__(self) -> str:
        return f"{self.shape}, d {self.d}, {self.precision}"

    def specs(self) -> list[MemberSpec]:
        if self.shape == "paper":
            specs = self._paper()
        else:
            sizes: Any = {"batch_size": self.batch, "heads": self.heads}
            specs = make_problem(self.d, self.members, **sizes).specs
        changed: Any = {"precision": self.precision}
        return [
            dataclasses.replace(spec, training=dataclasses.replace(spec.training, **changed))
            for spec in specs
        ]

    def fitted(self) -> Setting:
        """With as many of these members as the GPU has memory for, which is said if it is fewer."""
        if not self.on_gpu:
            return self
        free, _ = torch.cuda.mem_get_info()
        taken = fitting(dataclasses.replace(self, members=1).specs()[0], self.members, free)
        print(
            f"{self}: {taken} of {self.members} members, {free / 1e9:.1f} GB are free", flush=True
        )
        return dataclasses.replace(self, members=taken)

    def _paper(self) -> tuple[MemberSpec, ...]:
        config = from_dict(preset("paper"))
        # in the interpreter the network of the same form at a width that can be waited for
        model = dataclasses.replace(config.model, d_model=self.d, d_k=None, d_v=None, d_ff=None)
        training = dataclasses.replace(config.training, steps=1000, batch_size=self.batch)
        config = dataclasses.replace(
            config,
            model=config.model if self.d == config.model.d_model else model,
            training=training,
            sweep=(("seed", tuple(range(self.members))),),
        )
        return tuple(member_specs(config))


def fitting(spec: MemberSpec, members: int, free: int) -> int:
    """How many of `members` train at once in `free` bytes, their state included; at least 1."""
    flat = flat_layout(spec)
    each = memory.workspace_bytes(spec, flat) + _STATE * flat.size
    return max(1, min(members, int(memory.SHARE * free) // each))


def measured(
    setting: Setting, what: str, run: Step, operations: int, moved: int, launches: int
) -> Row:
    """The row of one call of `run`."""
    samples = _samples(run, setting)
    median = statistics.median(samples)
    device = torch.cuda.get_device_name() if setting.on_gpu else INTERPRETED
    card = card_of(device)
    rate = operations / median * 1e3
    return Row(
        device=device,
        torch=torch.__version__,
        triton=triton.__version__,
        commit=machine.commit(),
        when=machine.now(),
        what=what,
        launches=launches,
        d=setting.d,
        heads=setting.heads,
        precision=setting.precision,
        members=setting.members,
        batch=setting.batch,
        milliseconds=median,
        spread=(max(samples) - min(samples)) / median,
        member_steps=0.0,
        gflop=operations / 1e9,
        megabytes=moved / 1e6,
        tflops=rate / 1e12,
        share=rate / card.peak[setting.precision] if card else 0.0,
    )


def begin(table: Path) -> None:
    """An empty table with its header."""
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="") as file:
        _writer(file).writeheader()


def append(table: Path, row: Row) -> None:
    """On disk at once: whatever is killed later, this row is there."""
    with table.open("a", newline="") as file:
        _writer(file).writerow(asdict(row))
    print(
        f"d {row.d:4d} heads {row.heads} {row.precision} {row.what:38s} {row.launches:3d} launches"
        f" {row.milliseconds:10.3f} ms {row.member_steps:12.0f} member-steps/s"
        f" {row.tflops:8.2f} TFLOP/s {100 * row.share:5.1f} %",
        flush=True,
    )


def _writer(file: Any) -> csv.DictWriter[str]:
    return csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")


def _samples(run: Step, setting: Setting) -> list[float]:
    """ms a call: `rounds` samples of as many calls as fill about 20 ms, after a warm-up."""
    if not setting.on_gpu:
        return [_timed(run, 1, setting)]
    run()
    once = _timed(run, 1, setting)
    count = max(1, min(200, int(20.0 / once)))
    rounds = setting.rounds if once < 500 else 1
    return [_timed(run, count, setting) for _ in range(rounds)]


def _timed(run: Step, count: int, setting: Setting) -> float:
    if not setting.on_gpu:
        start = time.perf_counter()
        for _ in range(count):
            run()
        return 1e3 * (time.perf_counter() - start) / count
    event: Any = torch.cuda.Event  # torch gives it no types
    begin, end = (event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(count):
        run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / count
