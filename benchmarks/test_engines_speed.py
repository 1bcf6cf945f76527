"""The native engine against an eager PyTorch loop and against the machine's FMA peak, in one run.

    python -m pytest benchmarks/test_engines_speed.py -m benchmark -s

The comparison is `benchmarks.throughput`'s, its gate included, with the eager peers only.
"""

from __future__ import annotations

import os

import pytest
from rich.console import Console

from benchmarks import machine
from benchmarks.measure import Setting, compare
from benchmarks.table import rows, terminal_table

THREADS = 2
PEERS = ("native", "native-bf16", "eager", "eager-last")

pytestmark = pytest.mark.benchmark


@pytest.mark.parametrize(("width", "share"), [(32, 0.60), (64, 0.72), (128, 0.78)])
def test_native_against_eager_and_the_peak(
    capsys: pytest.CaptureFixture[str], width: int, share: float
) -> None:
    cpus = tuple(sorted(os.sched_getaffinity(0)))[:THREADS]
    if len(cpus) < THREADS:
        pytest.fail(f"this comparison needs {THREADS} cores")
    setting = Setting(
        d=width,
        members=16,
        batch_size=256,
        threads=THREADS,
        rounds=9,
        seconds=1.0,
        cpus=cpus,
    )
    outcomes, peak = compare(setting, PEERS, lambda _: None)
    found = rows(setting, outcomes, peak, machine.mkl())
    with capsys.disabled():
        Console(width=140).print(terminal_table(found))
    by_peer = {row["peer"]: row for row in found}
    slower = min(by_peer["eager"]["ms"], by_peer["eager-last"]["ms"])
    assert by_peer["native-bf16"]["ms"] < by_peer["native"]["ms"] < slower
    reached = by_peer["native"]["share_of_peak"]
    assert reached >= share, f"d {width}: {reached:.1%} of the FMA peak, {share:.0%} is the mark"
