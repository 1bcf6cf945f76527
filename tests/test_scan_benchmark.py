"""benchmarks/scan.py: its gate at a small batch, that the gate can be red, and what it counts."""

from __future__ import annotations

import csv
import functools
from pathlib import Path

import pytest
import torch

from benchmarks import scan
from benchmarks.cases import UPDATES, Case
from benchmarks.gate import GateError
from benchmarks.scan import COLUMNS, COMPUTES, SETTINGS, make_case, padding_of, plain_peers

pytestmark = pytest.mark.usefixtures("native_extension")


@functools.cache
def case() -> Case:
    return make_case("d128", 1, batch_size=4)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", [name for name in COMPUTES if name.startswith("loop")])
def test_every_loop_trains_what_native_trains(name: str) -> None:
    peer = plain_peers(case())[name]
    losses = [peer.step(case().batch(t)) for t in range(UPDATES)]
    assert scan.loss_difference(case(), name, losses) <= scan.TOLERANCE
    losses[-1] = losses[-1] + 0.01
    with pytest.raises(GateError, match=r"loop.* away from native"):
        scan.loss_difference(case(), name, losses)


def test_gradients_that_are_wrong_stop_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scan.gradient_difference(case()) < scan.GRADIENTS
    monkeypatch.setattr(scan, "GRADIENTS", 0.0)
    with pytest.raises(GateError, match="from float64's, so nothing is timed"):
        scan.gradient_difference(case())


def test_padding_of_each_peer_is_counted() -> None:
    padding = padding_of(make_case("d128", 1))
    assert padding.used < padding.cut <= padding.whole == scan.COUNTED * scan.BATCH * 58


def test_wrong_flags_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert scan.main(["--settings", "big", "--no-csv"]) == 2
    assert "--settings has 'big'; allowed: d128, d128-wide" in capsys.readouterr().err


def test_the_committed_rows_are_complete() -> None:
    with Path(scan.RESULTS).open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert rows
    assert set(rows[0]) == set(COLUMNS)
    assert {row["setting"] for row in rows} == set(SETTINGS)
    assert {row["peer"] for row in rows} == set(COMPUTES)
    native = [row for row in rows if row["peer"] == "native"]
    assert all(0 < float(row["exam_share"]) < 0.05 for row in native)
    assert {row["padding"] for row in rows if row["peer"] == "native"} == {"0.0"}
