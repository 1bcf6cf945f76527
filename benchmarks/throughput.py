"""`python -m benchmarks.throughput`: compfast beside its peers, in one run. See README.md here."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.fleet import ROOT
from benchmarks.measure import Setting, compare
from benchmarks.peers import PEERS
from benchmarks.table import append_csv, refuse_other_columns, rows, terminal_table
from compfast.errors import CompfastError, UsageError

RESULTS = ROOT / "benchmarks" / "results" / "throughput.csv"
WIDTHS = (32, 64, 128)
WIDE = 140


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 when the gate is red (nothing is reported), 2 for wrong flags."""
    given = _parser().parse_args(arguments)
    # A table in a file or a pipe is not squeezed into rich's 80 columns.
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    progress = Console(stderr=True)
    try:
        settings = [_setting(given, d) for d in given.d]
        peers = _peers(given.peers)
        if given.csv is not None:
            refuse_other_columns(given.csv)  # now, not after the measurement
        with_torch = any("torch" in PEERS[name].packages for name in peers)
        mkl = machine.mkl() if with_torch else None
        for setting in settings:
            with progress.status("") as status:
                say = status.update if progress.is_terminal else progress.print
                outcomes, peak = compare(setting, peers, say)
            found = rows(setting, outcomes, peak, mkl)
            console.print(terminal_table(found))
            if given.csv is not None:
                append_csv(given.csv, found)
    except CompfastError as error:
        print(f"throughput: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.throughput", description=__doc__)
    add = parser.add_argument
    add("--d", type=int, nargs="+", default=list(WIDTHS), help="widths (default 32 64 128)")
    add("--models", type=int, default=16, help="members, even (default 16)")
    add("--batch", type=int, default=256, help="sequences a step (default 256)")
    add("--threads", type=int, default=2, help="cores in all (default 2)")
    add("--rounds", type=int, default=9, help="samples a peer, taken in turns (default 9)")
    add("--seconds", type=float, default=1.0, help="aimed at, a sample (default 1)")
    add("--peers", nargs="+", default=list(PEERS), help=f"of {', '.join(PEERS)} (default all)")
    add("--csv", type=Path, default=RESULTS, help="file that rows are added to")
    add("--no-csv", dest="csv", action="store_const", const=None, help="print only")
    return parser


def _setting(given: argparse.Namespace, d: int) -> Setting:
    """Raises UsageError for counts below 1 and for models that the processes cannot share."""
    for name in ("models", "batch", "threads", "rounds"):
        if getattr(given, name) < 1:
            raise UsageError(f"--{name} is {getattr(given, name)}; it must be at least 1")
    if not 0 < given.seconds < float("inf"):
        raise UsageError(f"--seconds is {given.seconds}; it must be above 0 and finite")
    if given.models % 2 or given.models % given.threads:
        raise UsageError(
            f"--models is {given.models}; it must be even and a multiple of --threads"
            f" {given.threads}"
        )
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < given.threads:
        raise UsageError(f"--threads is {given.threads}; this process may use {len(cpus)} cores")
    setting = Setting(
        d=d,
        members=given.models,
        batch_size=given.batch,
        threads=given.threads,
        rounds=given.rounds,
        seconds=given.seconds,
        cpus=tuple(cpus[: given.threads]),
    )
    setting.problem()  # refuses what no network can be
    return setting


def _peers(names: Sequence[str]) -> list[str]:
    """In the order of PEERS, native always among them: the ratios are against it."""
    for name in names:
        if name not in PEERS:
            raise UsageError(f"--peers has {name!r}; allowed: {', '.join(PEERS)}")
    return [name for name in PEERS if name in names or name == "native"]


if __name__ == "__main__":
    sys.exit(main())
