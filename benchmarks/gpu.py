"""`python -m benchmarks.gpu`: the triton engine beside PyTorch's ways, on one GPU.

For every width and precision: each kernel of the step, the whole step with and without its CUDA
graph, and the same training as an eager loop over members, torch.func's vmap, stacked baddbmm
with SDPA, and that under torch.compile. Peers get their batches for nothing. Every row is the
median of `--rounds` samples and says device and versions; it is written to `--csv` at once, so that
a run that is cut off leaves what it measured. Each peer's losses and the engine's are compared
before it is timed; a peer that cannot run or trains otherwise is said on stderr and left out, the
exit code is then 1. `--shape paper` is the paper's network, which no peer here has. Under
TRITON_INTERPRET=1 `--trial` runs every line of this file on the CPU at a size that means nothing.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton

from benchmarks import machine
from benchmarks.cards import card_of
from benchmarks.gpu_counts import counted
from benchmarks.gpu_peers import PEERS
from benchmarks.problem import make_problem
from compfast.config import MemberSpec
from compfast.config.settings import from_dict
from compfast.engines.triton import TritonEngine
from compfast.engines.triton.step import Step as TritonStep
from compfast.engines.triton.step import flat_layout
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import Tables, make_tables
from compfast.tasks import preset

RESULTS = Path(__file__).parent / "results" / "gpu.csv"
LOSS_TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 3e-2}  # of a loss near 5

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
    d: int
    precision: str
    members: int
    batch: int
    rounds: int
    device: torch.device
    shape: str = "measured"  # or "paper"

    def members_of(self) -> tuple[list[MemberSpec], Tables]:
        if self.shape == "measured":
            specs = make_problem(self.d, self.members, batch_size=self.batch).specs
        else:
            specs = self._paper()
        changed: Any = {"precision": self.precision}
        made = [
            dataclasses.replace(spec, training=dataclasses.replace(spec.training, **changed))
            for spec in specs
        ]
        return made, make_tables(made)

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


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    interpreted = bool(triton.knobs.runtime.interpret)
    if interpreted != given.trial:
        print("gpu: --trial goes with TRITON_INTERPRET=1, and only with it", file=sys.stderr)
        return 2
    if not interpreted and not torch.cuda.is_available():
        print("gpu: this machine has no CUDA device", file=sys.stderr)
        return 2
    device = torch.device("cpu" if interpreted else "cuda")
    failures: list[str] = []
    given.csv.parent.mkdir(parents=True, exist_ok=True)
    with given.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for d in given.d:
            for precision in given.precisions:
                setting = Setting(
                    d, precision, given.models, given.batch, given.rounds, device, given.shape
                )
                for row in measure(setting, failures):
                    writer.writerow(asdict(row))
                    file.flush()
                    print(_said(row), flush=True)
    return 1 if failures else 0


def _said(row: Row) -> str:
    return (
        f"d {row.d:4d} {row.precision} {row.what:38s} {row.launches:3d} launches"
        f" {row.milliseconds:10.3f} ms {row.member_steps:12.0f} member-steps/s"
        f" {row.tflops:8.2f} TFLOP/s {100 * row.share:5.1f} %"
    )


def measure(setting: Setting, failures: list[str]) -> Iterator[Row]:
    """Gate, then time; a peer that fails or trains otherwise gets no row, but its sentence."""
    specs, tables = setting.members_of()
    engine = TritonEngine(specs, tables, stacked=len(specs))
    engine.initialise()
    step = engine._step_of(range(setting.members))
    wanted = engine.advance(1).loss[:, 0]
    step.open_window(0, 2**40)
    flat = flat_layout(specs[0])
    counts = counted(step.launches, specs[0], flat)
    operations = sum(each.operations for each in counts)
    least = setting.members * 6 * 4 * flat.size
    whole = _Whole(setting, operations, least, len(counts))
    # whole steps first: a run that is cut off has what matters most
    if step._graph is not None:
        yield whole.row("triton, CUDA graph", step.run)
    yield whole.row("triton, launches one by one", step.launch)
    yield from _kernels(setting, step, specs[0])
    del engine, step
    if setting.shape != "measured":
        return
    problem = make_problem(setting.d, setting.members, batch_size=setting.batch)
    tokens, targets = (torch.from_numpy(x).long().to(setting.device) for x in problem.batch(0))
    for name, make in PEERS.items():
        try:
            with _products(setting):
                run, losses = make(problem, tokens, targets, setting.device)
                apart = float(np.abs(losses().float().cpu().numpy() - wanted).max())
                if not apart <= LOSS_TOLERANCE[setting.precision]:
                    raise RuntimeError(f"its loss is off by {apart:.3g}")
                row = dataclasses.replace(whole.row(name, run), launches=0)
        except Exception as error:  # a peer's failure is a finding, and the next one's turn
            failures.append(f"{name} (d {setting.d}, {setting.precision}): {error}")
            print(f"gpu: {failures[-1]}", file=sys.stderr, flush=True)
        else:
            yield row
        finally:
            run = losses = None
            if setting.device.type == "cuda":
                torch.cuda.empty_cache()


@dataclass(frozen=True)
class _Whole:
    """Rows of whole steps: all of one setting do the same work."""

    setting: Setting
    operations: int
    least: int
    launches: int

    def row(self, what: str, run: Step) -> Row:
        row = _row(self.setting, what, run, self.operations, self.least, self.launches)
        return dataclasses.replace(row, member_steps=1e3 * self.setting.members / row.milliseconds)


def _kernels(setting: Setting, step: TritonStep, spec: MemberSpec) -> Iterator[Row]:
    """Each launch of the step by itself."""
    for count, launch in zip(
        counted(step.launches, spec, flat_layout(spec)), step.launches, strict=True
    ):
        yield _row(setting, f"kernel {count.name}", launch.run, count.operations, count.moved, 1)


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


def _row(setting: Setting, what: str, run: Step, operations: int, moved: int, launches: int) -> Row:
    samples = _samples(run, setting)
    median = statistics.median(samples)
    on_gpu = setting.device.type == "cuda"
    device = torch.cuda.get_device_name() if on_gpu else "interpreter on the CPU"
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


def _samples(run: Step, setting: Setting) -> list[float]:
    """ms a call: `rounds` samples of as many calls as fill about 20 ms, after a warm-up."""
    run()
    once = _timed(run, 1, setting)
    count = max(1, min(200, int(20.0 / once)))
    rounds = setting.rounds if once < 500 else 1
    return [_timed(run, count, setting) for _ in range(rounds)]


def _timed(run: Step, count: int, setting: Setting) -> float:
    if setting.device.type != "cuda":
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    add = parser.add_argument
    add("--d", type=int, nargs="+", default=[32, 64, 128])
    add("--precisions", nargs="+", default=["fp32", "tf32", "bf16"])
    add("--models", type=int, default=512)
    add("--batch", type=int, default=128)
    add("--rounds", type=int, default=7)
    add("--shape", choices=["measured", "paper"], default="measured", help="paper: with --d 400")
    add("--csv", type=Path, default=RESULTS)
    add("--trial", action="store_true", help="under the interpreter: that it runs, not how fast")
    return parser


if __name__ == "__main__":
    sys.exit(main())
