"""What measures on a GPU, without one: processes and limits, the gate, memory, the networks."""

from __future__ import annotations

import argparse
import csv
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_parts
import pytest
import torch

from benchmarks import gpu, gpu_card, gpu_parts, gpu_peers, gpu_rows
from benchmarks.gpu_rows import Setting
from benchmarks.triton_resources import step_of
from compfast.engines.triton import memory
from compfast.engines.triton.step import flat_layout
from compfast.tasks import make_task

TINY = Setting(d=16, precision="fp32", members=2, batch=2, rounds=1, on_gpu=False)
PAPER = Setting(
    d=400, precision="bf16", members=64, batch=2048, rounds=1, on_gpu=True, shape="paper"
)
COMPILED = {"layers": 2, "positions": 9, "d_model": 32, "d_ff": 64, "vocabulary": 112}
DEFAULT = COMPILED | {"d_model": 48, "heads": 2, "d_ff": 96, "vocabulary": 48}


def what(table: Path) -> list[str]:
    with table.open(newline="") as file:
        return [row["what"] for row in csv.DictReader(file)]


def gone(process: int, seconds: float = 10.0) -> bool:
    """Ended, or a zombie that nobody has waited for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_what_hangs_crashes_or_raises_costs_no_other_figure(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    gpu_rows.begin(table)
    parts: Any = (fake_parts.hangs, fake_parts.crashes, fake_parts.raises, fake_parts.finds)
    said = [gpu.run(part, TINY, table, 60 if part is not fake_parts.hangs else 5) for part in parts]
    assert said == ["did not end within 5 s", *(f"ended with exit code {n}" for n in (-11, 1, 1))]
    assert gpu.run(fake_parts.well, TINY, table, 60) == ""
    hung, *others = what(table)
    assert others == ["crashes", "raises", "finds", "well"]
    assert gone(int(hung.removeprefix("hangs "))), "what a part started goes with it"


CUT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import fake_parts
from benchmarks import gpu
gpu.PARTS.clear()
gpu.PARTS.update(ours=fake_parts.well, peers=fake_parts.hangs, compiling=fake_parts.well)
sys.exit(gpu.main(["--trial", "--d", "16", "--precisions", "fp32", "--csv", {table!r}]))
"""


def test_a_run_that_is_cut_off_keeps_its_rows_and_leaves_no_process(tmp_path: Path) -> None:
    """As `timeout` cuts it off."""
    table = tmp_path / "table.csv"
    program = CUT.format(tests=str(Path(__file__).parent), table=str(table))
    running = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "TRITON_INTERPRET": "1"}
    )
    end = time.monotonic() + 60
    while time.monotonic() < end and (not table.exists() or len(what(table)) < 2):
        assert running.poll() is None
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    assert running.wait(10) == 128 + signal.SIGTERM
    first, hung = what(table)
    assert first == "well"
    assert gone(int(hung.removeprefix("hangs ")))


def test_ours_comes_first_and_what_compiles_last() -> None:
    given = argparse.Namespace(
        d=[32], precisions=["bf16", "tf32"], models=2, batch=2, rounds=1, shape="measured",
        trial=False,
    )  # fmt: skip
    order = [(name, setting.precision) for name, setting in gpu.planned(given)]
    assert order == [(n, p) for n in ("ours", "peers", "compiling") for p in ("bf16", "tf32")]
    for given.shape in ("heads", "paper"):
        assert {name for name, _ in gpu.planned(given)} == {"ours"}


def test_heads_of_32_stay_on_chip_where_one_head_does_not() -> None:
    found = {}
    for shape in ("measured", "heads"):
        setting = Setting(128, "bf16", 1, 128, 1, False, shape)
        model = setting.specs()[0].model
        assert (model.heads, model.d_k) == (setting.heads, 128 // setting.heads)
        found[shape] = len(step_of(setting.specs()[0]).launches)
    assert found == {"measured": 52, "heads": 12}


def test_a_peer_that_fails_or_trains_otherwise_gets_no_row() -> None:
    right = gpu_peers.PEERS["stacked baddbmm, SDPA"]

    def raises(*_: Any) -> Any:
        raise RuntimeError("no kernel image")

    def other(*arguments: Any) -> Any:
        run, losses = right(*arguments)
        return run, lambda: losses() + 0.01

    def broken(*arguments: Any) -> Any:
        run, losses = right(*arguments)
        return run, lambda: losses() * float("nan")

    failures: list[str] = []
    peers = {"raises": raises, "other": other, "broken": broken, "right": right}
    rows = list(gpu_parts._peers(TINY, peers, failures))
    assert [row.what for row in rows] == ["right"]
    assert rows[0].launches == 0 < rows[0].gflop
    assert [failure.partition(" (")[0] for failure in failures] == ["raises", "other", "broken"]
    assert failures[0].endswith("no kernel image")
    assert failures[1].endswith("off by 0.01")


@pytest.mark.parametrize(("free", "taken"), [(80e9, 64), (40e9, None), (1e9, 1), (0, 1)])
def test_the_paper_s_members_are_fitted_to_the_memory(
    free: float, taken: int | None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """64 of them want about 50 GB; what is taken is said and is the rows' number."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free), int(free)))
    fitted = PAPER.fitted()
    spec = PAPER.specs()[0]
    flat = flat_layout(spec)
    each = memory.workspace_bytes(spec, flat) + 12 * flat.size
    if taken is None:
        assert fitted.members * each <= memory.SHARE * free < (fitted.members + 1) * each
        assert 1 < fitted.members < 64
    else:
        assert fitted.members == taken
    said = f"{fitted.members} of 64 members, {free / 1e9:.1f} GB are free"
    assert said in capsys.readouterr().out
    assert len(fitted.specs()) == fitted.members


@pytest.mark.parametrize("shape", [COMPILED, DEFAULT], ids=["d32", "d48"])
def test_the_network_is_what_the_extension_says(shape: dict[str, int]) -> None:
    specs = gpu_card.network(shape, 3, 7)
    model, task = specs[0].model, specs[0].task
    assert (model.layers, model.d_model, model.d_ff) == (2, shape["d_model"], shape["d_ff"])
    assert (model.heads, model.d_k) == (shape.get("heads", 1), shape["d_model"] // model.heads)
    assert (model.vocab_size, model.max_positions) == (shape["vocabulary"], shape["positions"])
    assert (make_task(task).length, specs[0].training.batch_size) == (9, 7)
    assert [spec.seed for spec in specs] == [0, 1, 2]


def test_several_networks_or_no_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    both = types.SimpleNamespace(shapes=lambda: [DEFAULT, COMPILED])
    monkeypatch.setitem(sys.modules, "compfast._cuda", both)
    assert gpu_card.compiled_for() == [DEFAULT, COMPILED]
    monkeypatch.setitem(sys.modules, "compfast._cuda", None)
    assert gpu_card.compiled_for() == []


def test_a_measurement_of_the_card_that_fails_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fails() -> Iterator[gpu_card.Row]:
        raise RuntimeError("illegal memory access")
        yield

    def measured(device: torch.device) -> Iterator[gpu_card.Measurement]:
        yield "the first", fails
        yield "the second", lambda: [gpu_card._row("copy", device, value=1, unit="TB/s")]

    monkeypatch.setitem(gpu_card._PARTS, "advance", measured)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    table = tmp_path / "table.csv"
    assert gpu_card.main(["advance", "--trial", "--csv", str(table)]) == 1
    assert what(table) == ["copy"]
    assert "the first: illegal memory access" in capsys.readouterr().err
