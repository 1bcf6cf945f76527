"""`python -m benchmarks.gpu`: the triton engine beside PyTorch's ways, on one GPU.

For every width and precision: each kernel of the step, the whole step with and without its CUDA
graph, and the same training as an eager loop over members, torch.func's vmap, stacked baddbmm
with SDPA, and that under torch.compile. Peers get their batches for nothing. Every row is the
median of `--rounds` samples and says device and versions; it is written to `--csv` at once. Losses
are compared before anything is timed (benchmarks/gpu_parts.py). The network has one head; `--shape
heads` has heads of 32, whose layers stay on chip, `--shape paper` is the paper's network: ours
alone, no peer here has them.

Ours at all precisions comes first, then the peers, what compiles last; each part has a process of
its own and `--limit` seconds, so that what crashes, hangs or trains otherwise costs no other
figure. It is said on stderr, and the exit code is then 1. Under TRITON_INTERPRET=1 `--trial` runs
every line on the CPU at a size that means nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton

from benchmarks import gpu_rows
from benchmarks.gpu_parts import PARTS, Part
from benchmarks.gpu_rows import Setting
from compfast.engines import cuda_devices

RESULTS = Path(__file__).parent / "results" / "gpu.csv"

# Children start from a process that has imported everything and never touched the GPU.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["benchmarks.gpu_parts"])


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    interpreted = bool(triton.knobs.runtime.interpret)
    if interpreted != given.trial:
        print("gpu: --trial goes with TRITON_INTERPRET=1, and only with it", file=sys.stderr)
        return 2
    if not interpreted and not cuda_devices():
        print("gpu: this machine has no CUDA device", file=sys.stderr)
        return 2
    gpu_rows.begin(given.csv)
    before = signal.signal(signal.SIGTERM, _terminated)  # or a part would outlive it
    try:
        failures = [
            _said(name, setting, failure)
            for name, setting in planned(given)
            if (failure := run(PARTS[name], setting, given.csv, given.limit))
        ]
    finally:
        signal.signal(signal.SIGTERM, before)
    return 1 if failures else 0


def planned(given: argparse.Namespace) -> Iterator[tuple[str, Setting]]:
    """The most valuable first."""
    for name in PARTS if given.shape == "measured" else ("ours",):
        for d in given.d:
            for precision in given.precisions:
                sizes = given.models, given.batch, given.rounds
                yield name, Setting(d, precision, *sizes, not given.trial, given.shape)


def run(part: Part, setting: Setting, table: Path, limit: float) -> str:
    """What went wrong with this part, "" for nothing; none of its processes is left."""
    process = _PROCESSES.Process(target=_work, args=(part, setting, table))
    process.start()
    try:
        process.join(limit)
        if process.is_alive():
            return f"did not end within {limit:g} s"
    finally:
        _end(process)
    return f"ended with exit code {process.exitcode}" if process.exitcode else ""


def _said(name: str, setting: Setting, failure: str) -> str:
    sentence = f"{name} ({setting}) {failure}"
    print(f"gpu: {sentence}", file=sys.stderr, flush=True)
    return sentence


def _work(part: Part, setting: Setting, table: Path) -> None:
    """In the part's own process and session, so that what it starts can be ended with it."""
    os.setsid()
    failures: list[str] = []
    try:
        for row in part(setting, failures):
            gpu_rows.append(table, row)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    for failure in failures:
        print(f"gpu: {failure}", file=sys.stderr, flush=True)
    sys.exit(1 if failures else 0)


def _end(process: Any) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended, and so has all that it started
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # before it had a session of its own
    process.join()


def _terminated(number: int, _: Any) -> None:
    sys.exit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    add = parser.add_argument
    add("--d", type=int, nargs="+", default=[32, 64, 128])
    add("--precisions", nargs="+", default=["fp32", "tf32", "bf16"])
    add("--models", type=int, default=512, help="at most; fewer where memory ends")
    add("--batch", type=int, default=128)
    add("--rounds", type=int, default=7)
    add(
        "--shape",
        choices=["measured", "heads", "paper"],
        default="measured",
        help="paper: with --d 400",
    )
    add("--limit", type=float, default=180.0, help="seconds of each part")
    add("--csv", type=Path, default=RESULTS)
    add("--trial", action="store_true", help="under the interpreter: that it runs, not how fast")
    return parser


if __name__ == "__main__":
    sys.exit(main())
