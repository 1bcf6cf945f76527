"""What a GPU can do at all, what members take of its memory, and whole trainings on it.

    python -m benchmarks.gpu_card ceilings    a large copy, a large product a precision
    python -m benchmarks.gpu_card memory      the engine's model of it, and what torch counts
    python -m benchmarks.gpu_card advance     the engines' own protocol, 512 members of a shape
    python -m benchmarks.gpu_card warps       each larger kernel with 1, 2, 4 and 8 warps

Every row is written to `--csv` at once. What fails is said, the next is measured, and the exit code
is then 1. With --trial, on a CPU, under TRITON_INTERPRET=1, at sizes of no use.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import gc
import importlib
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton

from benchmarks import gpu_warps, machine
from benchmarks.gpu_rows import INTERPRETED, Setting
from compfast.config import MemberSpec
from compfast.config.settings import from_dict
from compfast.engines import make_engine
from compfast.engines.triton import TritonEngine, memory
from compfast.engines.triton.step import flat_layout
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import make_tables

RESULTS = Path(__file__).parent / "results" / "gpu_card.csv"
PRECISIONS = ("fp32", "tf32", "bf16")
_REPEATS = 10


@dataclass(frozen=True)
class Row:
    device: str
    torch: str
    triton: str
    commit: str
    when: str
    what: str
    d: int
    precision: str
    members: int
    value: float
    unit: str


Measurement = tuple[str, Callable[[], Iterable[Row]]]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu_card", description=__doc__)
    parser.add_argument("what", choices=list(_PARTS))
    parser.add_argument("--csv", type=Path, default=RESULTS)
    parser.add_argument("--trial", action="store_true", help="on a CPU: that it runs, not how fast")
    given = parser.parse_args(arguments)
    if bool(triton.knobs.runtime.interpret) != given.trial:
        print("gpu_card: --trial goes with TRITON_INTERPRET=1, and only with it", file=sys.stderr)
        return 2
    if not given.trial and not torch.cuda.is_available():
        print("gpu_card: this machine has no CUDA device", file=sys.stderr)
        return 2
    failed = False
    given.csv.parent.mkdir(parents=True, exist_ok=True)
    with given.csv.open("w", newline="") as file:
        names = [field.name for field in dataclasses.fields(Row)]
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for name, measure in _PARTS[given.what](torch.device("cpu" if given.trial else "cuda")):
            try:
                rows = list(measure())
            except Exception as error:  # a finding, and the next one's turn
                traceback.print_exc()
                print(f"gpu_card: {name}: {error}", file=sys.stderr, flush=True)
                failed = True
                continue
            for row in rows:
                writer.writerow(dataclasses.asdict(row))
                print(
                    f"{row.what} d {row.d} {row.precision} {row.value:.4g} {row.unit}", flush=True
                )
            file.flush()
    return 1 if failed else 0


def ceilings(device: torch.device) -> Iterator[Measurement]:
    yield "copy", lambda: [_copied(device)]
    for precision in PRECISIONS:
        yield f"product, {precision}", functools.partial(_multiplied, precision, device)


def taken(device: torch.device) -> Iterator[Measurement]:
    """Bytes of the model and bytes that torch counts, for members' state and for their step."""
    on_gpu = device.type == "cuda"
    sizes = ((32, 512, 128), (64, 512, 128), (128, 512, 128)) if on_gpu else ((16, 2, 2),)
    for d, members, batch in sizes:
        for precision in ("fp32", "bf16"):
            setting = Setting(d, precision, members, batch, 1, on_gpu)
            yield str(setting), functools.partial(_taken, setting)


def advance(device: torch.device) -> Iterator[Measurement]:
    """`advance` of 512 members by 512 steps, its host's work included; what compiles comes last."""
    on_gpu = device.type == "cuda"
    members, batch, steps = (512, 128, 512) if on_gpu else (2, 2, 1)
    networks = [network(shape, members, batch) for shape in compiled_for()] if on_gpu else []
    measured = [
        Setting(d, "fp32", members, batch, 1, on_gpu).specs()
        for d in ((32, 64) if on_gpu else (16,))
    ]
    for name, groups in (("cuda", networks), ("triton", [*networks, *measured])):
        for specs in groups:
            what = f"{name}, d {specs[0].model.d_model}"
            yield what, functools.partial(_advanced, name, specs, steps, device)


def warps(device: torch.device) -> Iterator[Measurement]:
    on_gpu = device.type == "cuda"
    for d, members, batch in ((32, 512, 128), (128, 512, 128)) if on_gpu else ((16, 1, 1),):
        setting = Setting(d, "bf16", members, batch, 1, on_gpu)
        timed = functools.partial(_seconds, device=device)
        for what, measure in gpu_warps.variants(setting, timed):
            yield what, functools.partial(_varied, what, setting, measure)


def _varied(what: str, setting: Setting, measure: Callable[[], float]) -> Iterator[Row]:
    where: dict[str, Any] = {"d": setting.d, "precision": "bf16", "members": setting.members}
    yield _row(what, setting.device, value=measure(), unit="ms", **where)


def _copied(device: torch.device) -> Row:
    """Random operands, here and below: zeros run faster than anything real."""
    size = 2**30 if device.type == "cuda" else 2**16
    source, target = (torch.randn(size, device=device) for _ in range(2))
    seconds = _seconds(lambda: target.copy_(source), device)
    return _row("copy, read and written", device, value=8 * size / seconds / 1e12, unit="TB/s")


def _multiplied(precision: str, device: torch.device) -> Iterator[Row]:
    n = 8192 if device.type == "cuda" else 64
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn((n, n), device=device).to(kind) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        seconds = _seconds(lambda: a @ b, device)
    finally:
        torch.set_float32_matmul_precision(before)
    yield _row(
        f"product of {n} x {n}", device,
        precision=precision, value=2 * n**3 / seconds / 1e12, unit="TFLOP/s",
    )  # fmt: skip


def _taken(setting: Setting) -> Iterator[Row]:
    specs, members = setting.specs(), setting.members
    flat = flat_layout(specs[0])
    where: dict[str, Any] = {"d": setting.d, "precision": setting.precision, "members": members}
    model = members * memory.workspace_bytes(specs[0], flat)
    yield _row("state, model", setting.device, value=members * 12 * flat.size, unit="B", **where)
    yield _row("workspace, model", setting.device, value=model, unit="B", **where)
    gc.collect()
    before = _allocated(setting)
    engine = TritonEngine(specs, make_tables(specs), stacked=members)
    state = _allocated(setting) - before
    engine._step_of(range(members))
    step = _allocated(setting) - before - state
    if setting.on_gpu:
        yield _row("state, taken", setting.device, value=state, unit="B", **where)
        yield _row("workspace, taken", setting.device, value=step, unit="B", **where)
        free, _ = torch.cuda.mem_get_info()
        fits = memory.fitting(specs[0], flat, 2**20, free)
        yield _row("fit beside, model", setting.device, value=fits, unit="members", **where)


def _allocated(setting: Setting) -> int:
    """Bytes that torch counts; 0 without a GPU."""
    return torch.cuda.memory_allocated() if setting.on_gpu else 0


def compiled_for() -> list[Mapping[str, Any]]:
    """The networks that compfast._cuda says it is compiled for; none where it was not built."""
    try:
        module: Any = importlib.import_module("compfast._cuda")
    except ImportError as error:
        print(f"gpu_card: engine cuda is left out: {error}", flush=True)
        return []
    return list(module.shapes())


def network(shape: Mapping[str, Any], members: int, batch: int) -> list[MemberSpec]:
    """Members of one of these networks: all that a shape does not say is Config's own."""
    model = {
        "layers": shape["layers"],
        "d_model": shape["d_model"],
        "heads": shape.get("heads", 1),
        "d_ff": shape["d_ff"],
        "vocab_size": shape["vocabulary"],
        "max_positions": shape["positions"],
    }
    config = from_dict(
        {
            "task": {"seq_len": shape["positions"]},
            "model": model,
            "training": {"batch_size": batch, "precision": "fp32"},
            "sweep": {"seed": list(range(members))},
        }
    )
    return list(member_specs(config))


def _advanced(
    name: str, specs: list[MemberSpec], steps: int, device: torch.device
) -> Iterator[Row]:
    engine = make_engine(name, specs, make_tables(specs))
    engine.initialise()
    engine.advance(steps)
    start = time.perf_counter()
    engine.advance(2 * steps)
    seconds = (time.perf_counter() - start) / steps
    model = specs[0].model
    heads = "" if model.heads == 1 else f", {model.heads} heads"
    yield _row(
        f"{name}, advance{heads}", device, d=model.d_model,
        precision="fp32", members=len(specs), value=1e3 * seconds, unit="ms a step",
    )  # fmt: skip


_PARTS: dict[str, Callable[[torch.device], Iterator[Measurement]]] = {
    "ceilings": ceilings,
    "memory": taken,
    "advance": advance,
    "warps": warps,
}


def _row(
    what: str,
    device: torch.device,
    *,
    value: float,
    unit: str,
    d: int = 0,
    precision: str = "",
    members: int = 0,
) -> Row:
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else INTERPRETED
    return Row(
        device=name,
        torch=torch.__version__,
        triton=triton.__version__,
        commit=machine.commit(),
        when=machine.now(),
        what=what,
        d=d,
        precision=precision,
        members=members,
        value=float(value),
        unit=unit,
    )


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Of one call, the median of some after a warm-up; on a CPU, where it means nothing, of one."""
    on_gpu = device.type == "cuda"
    warm, repeats = (3, _REPEATS) if on_gpu else (0, 1)
    found = []
    for _ in range(warm + repeats):
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if on_gpu:
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return statistics.median(found[warm:])


if __name__ == "__main__":
    sys.exit(main())
