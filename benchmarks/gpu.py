"""`python -m benchmarks.gpu`: the triton engine beside PyTorch's ways, on one GPU.

For every width and precision: each kernel of the step, the whole step with and without its CUDA
graph, and the same training as an eager loop over members, torch.func's vmap, stacked baddbmm
with SDPA, and that under torch.compile. Peers get their batches for nothing. Every row is the
median of `--rounds` samples and says device and versions; the peers' losses and the engine's are
compared before anything is timed. Under TRITON_INTERPRET=1 `--trial` runs every line of this
file on the CPU at a size that means nothing.
"""

from __future__ import annotations

import argparse
import csv
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
import torch.nn.functional as F
import triton
from torch import Tensor

from benchmarks import machine
from benchmarks.peers.module import make_nets
from benchmarks.peers.stacked import stacked_losses
from benchmarks.peers.stacked_adamw import StackedAdamW
from benchmarks.peers.torch_common import initial_tensors
from benchmarks.problem import Problem, make_problem
from compfast.config import MemberSpec
from compfast.engines.arithmetic import step_flops
from compfast.engines.triton import TritonEngine
from compfast.models.plan import transformer_plan

RESULTS = Path(__file__).parent / "results" / "gpu.csv"
# Dense peaks of one device, TFLOP/s, NVIDIA data sheets (SXM): fp32 vector, tf32, bf16
PEAKS = {
    "H100": {"fp32": 67.0, "tf32": 494.7, "bf16": 989.4},
    "H200": {"fp32": 67.0, "tf32": 494.7, "bf16": 989.4},
    "A100": {"fp32": 19.5, "tf32": 156.0, "bf16": 312.0},
}
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
    tflops: float  # useful operations (compfast/engines/arithmetic.py); 0 for single kernels
    share: float  # of the device's dense peak, 0 where it is not known


@dataclass(frozen=True)
class Setting:
    d: int
    precision: str
    members: int
    batch: int
    rounds: int
    device: torch.device

    def problem(self) -> Problem:
        return make_problem(self.d, self.members, batch_size=self.batch)

    def one(self) -> Problem:
        """Its first member alone."""
        return make_problem(self.d, 1, batch_size=self.batch)


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
    found: list[Row] = []
    for d in given.d:
        for precision in given.precisions:
            setting = Setting(d, precision, given.models, given.batch, given.rounds, device)
            for row in measure(setting):
                found.append(row)
                print(
                    f"d {row.d:4d} {row.precision} {row.what:34s} {row.launches:3d} launches"
                    f" {row.milliseconds:10.3f} ms"
                    f" {row.member_steps:12.0f} member-steps/s {row.tflops:8.2f} TFLOP/s"
                    f" {100 * row.share:5.1f} %",
                    flush=True,
                )
    given.csv.parent.mkdir(parents=True, exist_ok=True)
    with given.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in found)
    return 0


def measure(setting: Setting) -> Iterator[Row]:
    """Gate, then time; raises AssertionError where a peer and the engine train differently."""
    problem = setting.problem()
    specs = [_with_precision(spec, setting.precision) for spec in problem.specs]
    engine = TritonEngine(specs, problem.tables)
    engine.initialise()
    step = engine._step_of(range(setting.members))
    wanted = engine.advance(1).loss[:, 0]
    step.open_window(0, 2**40)
    names: dict[str, int] = {}
    for launch in step.launches:
        name = f"{launch.kernel.fn.__module__.split('.')[-1]}{launch.kernel.fn.__name__}"
        names[name] = names.get(name, 0) + 1
        what = f"kernel {name} {names[name]}"
        yield _row(setting, what, launch.run, whole=False, launches=1)
    count = engine.launches()
    yield _row(setting, "triton, launches one by one", step.launch, launches=count)
    if step._graph is not None:
        yield _row(setting, "triton, CUDA graph", step.run, launches=count)
    del engine, step
    tokens, targets = (torch.from_numpy(x).long().to(setting.device) for x in problem.batch(0))
    for name, make in _PEERS.items():
        with _products(setting):
            run, losses = make(problem, tokens, targets, setting)
            apart = float(np.abs(losses().float().cpu().numpy() - wanted).max())
            assert apart <= LOSS_TOLERANCE[setting.precision], f"{name}: loss off by {apart:.3g}"
            yield _row(setting, name, run)


def _eager(problem: Problem, tokens: Tensor, targets: Tensor, setting: Setting) -> Any:
    """One module and one fused AdamW a member, one after the other."""
    tensors = {n: t.to(setting.device) for n, t in initial_tensors(problem).items()}
    nets = [
        net.to(setting.device) for net in make_nets(problem, tensors, last_only=True, sdpa=True)
    ]
    o = problem.optimizer
    optimizers = [
        torch.optim.AdamW(
            net.parameters(), lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps,
            weight_decay=o.weight_decay, fused=True,
        )
        for net in nets
    ]  # fmt: skip

    def losses() -> Tensor:
        with torch.no_grad():
            found = [F.cross_entropy(n(tokens[i]), targets[i]) for i, n in enumerate(nets)]
            return torch.stack(found)

    def run() -> None:
        for i, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
            optimizer.zero_grad()
            F.cross_entropy(net(tokens[i]), targets[i]).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), o.clip)
            optimizer.step()

    return run, losses


def _vmap(problem: Problem, tokens: Tensor, targets: Tensor, setting: Setting) -> Any:
    """torch.func: vmap over members of grad_and_value, stacked AdamW."""
    tensors = initial_tensors(problem)
    nets = make_nets(problem, tensors, last_only=True, sdpa=True)
    stacked, _ = torch.func.stack_module_state(nets)
    params = {name: p.detach().to(setting.device) for name, p in stacked.items()}
    base = nets[0].to("meta")

    def loss(params: dict[str, Tensor], tokens: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(base, params, (tokens,)), targets)

    gradients = torch.func.vmap(torch.func.grad_and_value(loss))
    with setting.device:
        optimizer = StackedAdamW(list(params.values()), problem.optimizer)

    def run() -> None:
        grads, _ = gradients(params, tokens, targets)
        optimizer.step([grads[name] for name in params])

    return run, lambda: gradients(params, tokens, targets)[1]


def _stacked(problem: Problem, tokens: Tensor, targets: Tensor, setting: Setting) -> Any:
    return _stacked_with(stacked_losses, problem, tokens, targets, setting)


def _compiled(problem: Problem, tokens: Tensor, targets: Tensor, setting: Setting) -> Any:
    losses_of = torch.compile(stacked_losses, fullgraph=True, dynamic=False)
    return _stacked_with(losses_of, problem, tokens, targets, setting)


def _stacked_with(
    losses_of: Callable[..., Tensor],
    problem: Problem,
    tokens: Tensor,
    targets: Tensor,
    setting: Setting,
) -> Any:
    """Hand-stacked members (HFTA's form): baddbmm over M, SDPA."""
    weights = {}
    for name, value in initial_tensors(problem).items():
        matrix = value.ndim == 3 and not name.startswith("embed.")
        laid = (value.transpose(1, 2) if matrix else value).contiguous()
        weights[name] = laid.to(setting.device).requires_grad_()
    with setting.device:
        optimizer = StackedAdamW(list(weights.values()), problem.optimizer)

    def losses() -> Tensor:
        with setting.device:
            return losses_of(weights, tokens, targets, problem.model, True)

    def run() -> None:
        optimizer.step(torch.autograd.grad(losses().sum(), list(weights.values())))

    return run, lambda: losses().detach()


_PEERS = {
    "eager loop over members": _eager,
    "torch.func vmap": _vmap,
    "stacked baddbmm, SDPA": _stacked,
    "stacked baddbmm, torch.compile": _compiled,
}


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


def _row(setting: Setting, what: str, run: Step, *, whole: bool = True, launches: int = 0) -> Row:
    samples = _samples(run, setting)
    median = statistics.median(samples)
    problem_flops = 0
    if whole:
        one = setting.one()
        flops = step_flops(transformer_plan(one.model), one.positions, setting.batch)
        problem_flops = setting.members * sum(flops.values())
    on_gpu = setting.device.type == "cuda"
    device = torch.cuda.get_device_name() if on_gpu else "interpreter on the CPU"
    peak = next((p[setting.precision] for name, p in PEAKS.items() if name in device), 0.0)
    tflops = problem_flops / median / 1e9
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
        member_steps=1e3 * setting.members / median if whole else 0.0,
        tflops=tflops,
        share=tflops / peak if peak else 0.0,
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


def _with_precision(spec: MemberSpec, precision: str) -> MemberSpec:
    import dataclasses

    wanted: Any = precision
    training = dataclasses.replace(spec.training, precision=wanted)
    return dataclasses.replace(spec, training=training)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    add = parser.add_argument
    add("--d", type=int, nargs="+", default=[32, 64, 128])
    add("--precisions", nargs="+", default=["fp32", "tf32", "bf16"])
    add("--models", type=int, default=512)
    add("--batch", type=int, default=128)
    add("--rounds", type=int, default=7)
    add("--csv", type=Path, default=RESULTS)
    add("--trial", action="store_true", help="under the interpreter: that it runs, not how fast")
    return parser


if __name__ == "__main__":
    sys.exit(main())
