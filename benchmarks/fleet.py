"""The processes of one way to run a peer, driven together from here."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.worker import Job, encode
from compfast.engines.base import Float32
from compfast.errors import CompfastError

ROOT = Path(__file__).resolve().parents[1]
# They pin OpenBLAS to another CPU's kernels and block sizes; no peer is timed under them.
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


class WorkerError(CompfastError):
    """A process of a peer ended before it answered."""


@dataclass(frozen=True, slots=True)
class Form:
    """`processes` at a time, each with `threads` threads and its share of the members."""

    processes: int
    threads: int

    def __str__(self) -> str:
        return f"{self.processes} x {self.threads}"


class Fleet:
    """Started on construction, each process on its own CPUs; a context manager that ends them."""

    def __init__(
        self,
        peer: str,
        variant: str,
        form: Form,
        cpus: tuple[int, ...],
        *,
        d: int,
        batch_size: int,
        members: int,
    ) -> None:
        self.peer, self.variant, self.form = peer, variant, form
        self.members, self.d, self.batch_size = members, d, batch_size
        self._processes = []
        share = members // form.processes
        for i in range(form.processes):
            own = cpus[i * form.threads : (i + 1) * form.threads]
            job = Job(peer, variant, d, batch_size, i * share, share, form.threads, own)
            self._processes.append(_start(job))

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:  # they may be deep in a compilation
            for process in self._processes:
                process.kill()
        self.close()

    def losses(self, steps: int) -> Float32:
        """[M, steps], see `Peer.losses`."""
        answers = self._all("losses", steps)
        return np.array([row for a in answers for row in a["losses"]], np.float32)

    def train(self, steps: int) -> float:
        """Seconds from the first process's start to the last one's end."""
        answers = self._all("train", steps)
        return float(max(a["end"] for a in answers) - min(a["start"] for a in answers))

    def describe(self) -> dict[str, Any]:
        """`fall_backs` (ops that vmap looped over so far), `matmul` (see `Peer.matmul`)."""
        answers = self._all("describe", 0)
        looped = {op for a in answers for op in a["fall_backs"]}
        return {"fall_backs": sorted(looped), "matmul": answers[0]["matmul"]}

    def matmul_rate(self) -> float | None:
        """GFLOP/s of all processes together, see `Peer.matmul_rate`."""
        rates = [a["rate"] for a in self._all("matmul_rate", 0)]
        return None if None in rates else float(sum(rates))

    def close(self) -> None:
        for process in self._processes:
            if process.stdin and not process.stdin.closed:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
        for process in self._processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()

    def _all(self, command: str, count: int) -> list[dict[str, Any]]:
        """The command to every process, then every answer: they work at the same time."""
        for process in self._processes:
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps((command, count)) + "\n")
                process.stdin.flush()
            except BrokenPipeError:
                continue  # the missing answer below says it
        return [self._answer(process) for process in self._processes]

    def _answer(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise WorkerError(
                f"a process of {self.peer} ({self.variant}) ended with exit code"
                f" {process.wait()}; its message is above"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


def environment(threads: int) -> dict[str, str]:
    """The caller's variables, with `threads` threads a library and UNSET left out."""
    variables = {name: value for name, value in os.environ.items() if name not in UNSET}
    for name in ("OMP", "MKL", "OPENBLAS"):
        variables[f"{name}_NUM_THREADS"] = str(threads)
    if threads == 1:
        flags = variables.get("XLA_FLAGS", "")
        variables["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    return variables | {"JAX_PLATFORMS": "cpu", "TORCHINDUCTOR_COMPILE_THREADS": "1"}


def _start(job: Job) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.worker", encode(job)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(job.threads),
    )
