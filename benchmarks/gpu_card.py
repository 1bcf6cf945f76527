"""What a GPU can do at all, what members take of its memory, and whole trainings on it.

    python -m benchmarks.gpu_card ceilings    a large copy, a large product a precision
    python -m benchmarks.gpu_card memory      the engine's model of it, and what torch counts
    python -m benchmarks.gpu_card advance     the engines' own protocol, 512 members of a shape

Every row is written to `--csv` at once. With --trial, on a CPU, under TRITON_INTERPRET=1, at sizes
of no use.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton

from benchmarks.gpu import Setting
from compfast.engines import ENGINES, make_engine
from compfast.engines.triton import TritonEngine, memory
from compfast.engines.triton.step import flat_layout
from compfast.errors import UsageError

RESULTS = Path(__file__).parent / "results" / "gpu_card.csv"
PRECISIONS = ("fp32", "tf32", "bf16")
_REPEATS = 10


@dataclass(frozen=True)
class Row:
    device: str
    what: str
    d: int
    precision: str
    members: int
    value: float
    unit: str


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
    given.csv.parent.mkdir(parents=True, exist_ok=True)
    with given.csv.open("w", newline="") as file:
        names = [field.name for field in dataclasses.fields(Row)]
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for row in _PARTS[given.what](torch.device("cpu" if given.trial else "cuda")):
            writer.writerow(dataclasses.asdict(row))
            file.flush()
            print(f"{row.what} d {row.d} {row.precision} {row.value:.4g} {row.unit}", flush=True)
    return 0


def ceilings(device: torch.device) -> Iterator[Row]:
    """Random operands: zeros run faster than anything real."""
    size = 2**30 if device.type == "cuda" else 2**16
    buffers = [torch.randn(size, device=device) for _ in range(2)]
    seconds = _seconds(lambda: buffers[1].copy_(buffers[0]), device)
    yield _row("copy, read and written", device, value=8 * size / seconds / 1e12, unit="TB/s")
    buffers.clear()
    n = 8192 if device.type == "cuda" else 64
    for precision in PRECISIONS:
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        a, b = (torch.randn((n, n), device=device).to(kind) for _ in range(2))
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        try:
            seconds = _seconds(lambda a=a, b=b: a @ b, device)  # type: ignore[misc]
        finally:
            torch.set_float32_matmul_precision(before)
        yield _row(
            f"product of {n} x {n}", device,
            precision=precision, value=2 * n**3 / seconds / 1e12, unit="TFLOP/s",
        )  # fmt: skip


def taken(device: torch.device) -> Iterator[Row]:
    """Bytes of the model and bytes that torch counts, for members' state and for their step."""
    on_gpu = device.type == "cuda"
    sizes = ((32, 512, 128), (64, 512, 128), (128, 512, 128)) if on_gpu else ((16, 2, 2),)
    for d, members, batch in sizes:
        for precision in ("fp32", "bf16"):
            specs, tables = Setting(d, precision, members, batch, 1, device).members_of()
            flat = flat_layout(specs[0])
            model = members * memory.workspace_bytes(specs[0], flat)
            gc.collect()
            before = torch.cuda.memory_allocated() if on_gpu else 0
            engine = TritonEngine(specs, tables, stacked=members)
            state = (torch.cuda.memory_allocated() if on_gpu else 0) - before
            where: dict[str, Any] = {"d": d, "precision": precision, "members": members}
            yield _row("state, model", device, value=members * 12 * flat.size, unit="B", **where)
            yield _row("workspace, model", device, value=model, unit="B", **where)
            if on_gpu:
                yield _row("state, taken", device, value=state, unit="B", **where)
                engine._step_of(range(members))
                step = torch.cuda.memory_allocated() - before - state
                yield _row("workspace, taken", device, value=step, unit="B", **where)
                free, _ = torch.cuda.mem_get_info(device)
                fits = memory.fitting(specs[0], flat, 2**20, free)
                yield _row("fit beside, model", device, value=fits, unit="members", **where)
            del engine


def advance(device: torch.device) -> Iterator[Row]:
    """`advance` of 512 members by 512 steps, its host's work included."""
    on_gpu = device.type == "cuda"
    sizes = ((32, 512, 128), (64, 512, 128)) if on_gpu else ((16, 2, 2),)
    steps = 512 if on_gpu else 1
    for d, members, batch in sizes:
        for name in ("triton", "cuda"):
            if name not in ENGINES or (name == "cuda" and not on_gpu):
                continue
            specs, tables = Setting(d, "fp32", members, batch, 1, device).members_of()
            try:
                engine = make_engine(name, specs, tables)
            except UsageError as error:
                print(f"{name}, d {d}: {error}", flush=True)
                continue
            engine.initialise()
            engine.advance(steps)
            start = time.perf_counter()
            engine.advance(2 * steps)
            seconds = (time.perf_counter() - start) / steps
            yield _row(
                f"{name}, advance", device,
                d=d, precision="fp32", members=members, value=1e3 * seconds, unit="ms a step",
            )  # fmt: skip
            del engine


_PARTS: dict[str, Callable[[torch.device], Iterator[Row]]] = {
    "ceilings": ceilings,
    "memory": taken,
    "advance": advance,
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
    name = torch.cuda.get_device_name() if on_gpu else "interpreter on the CPU"
    return Row(name, what, d, precision, members, float(value), unit)


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Of one call, the median of some after a warm-up."""
    found = []
    for _ in range(_REPEATS + 3):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return statistics.median(found[3:])


if __name__ == "__main__":
    sys.exit(main())
