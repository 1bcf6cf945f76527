"""The Triton kernels compiled for GPUs that are not here: nothing spills, products are on tensor
cores, and what each takes on chip is what benchmarks/triton_resources.csv says.

Compiled in processes of their own, where Triton compiles rather than interprets.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "benchmarks" / "triton_resources.csv"
KEY = ("shape", "precision", "architecture", "kernel", "form")
MEASURED = ("registers", "spills", "stack", "shared", "tensor")
PLAIN = ("adamw.", "anchor.", "rows.", "layer_norm.", "cross_entropy.", "embedding._forward")

Row = dict[str, str]


def key(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in KEY)


def committed() -> list[Row]:
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def compiled(shape: str, precision: str, architecture: str) -> list[Row]:
    command = [sys.executable, "-m", "benchmarks.triton_resources"]
    command += ["--shapes", shape, "--precisions", precision, "--architectures", architecture]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return list(csv.DictReader(done.stdout.splitlines()))


def check(rows: list[Row]) -> None:
    assert rows
    for row in rows:
        assert row["spills"] == row["stack"] == "0", f"{key(row)} spills"
        multiplies = not row["kernel"].startswith(PLAIN)
        if row["precision"] != "fp32" and multiplies:
            assert int(row["tensor"]) > 0, f"{key(row)} has products without tensor cores"


def test_the_table_is_whole_and_shows_no_spill() -> None:
    rows = committed()
    check(rows)
    found = {tuple(row[name] for name in KEY[:3]) for row in rows}
    shapes, precisions = ("tiny", "replica", "d64", "d128", "paper"), ("fp32", "tf32", "bf16")
    wanted = {(s, p, a) for s in shapes for p in precisions for a in ("80", "90", "100")}
    assert found == wanted


@pytest.mark.parametrize(("shape", "precision", "architecture"), [("tiny", "bf16", "90")])
def test_a_step_compiles_as_the_table_says(shape: str, precision: str, architecture: str) -> None:
    same_as_table(compiled(shape, precision, architecture))


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["tiny", "replica", "d64", "d128", "paper"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_every_step_compiles_as_the_table_says(shape: str, precision: str) -> None:
    same_as_table(compiled(shape, precision, "80,90,100"))


def test_a_spill_a_scalar_product_and_a_drift_are_found() -> None:
    rows = committed()
    row = next(r for r in rows if r["precision"] == "bf16" and int(r["tensor"]) > 0)
    same_as_table([row])
    for changed in ({"spills": "1"}, {"stack": "8"}, {"tensor": "0"}):
        with pytest.raises(AssertionError, match=r"spills|without tensor cores"):
            check([row | changed])
    for name in ("registers", "shared", "tensor"):
        drifted = row | {name: str(int(row[name]) + 1)}
        with pytest.raises(AssertionError):
            same_as_table([drifted])
        same_as_table([drifted | {"ptxas": "another"}])
    with pytest.raises(KeyError):
        same_as_table([row | {"kernel": "block.new"}])


def same_as_table(rows: list[Row]) -> None:
    """No spill, products on tensor cores, and under the table's versions nothing else changed."""
    check(rows)
    table = {key(row): row for row in committed()}
    for row in rows:
        kept = table[key(row)]
        if (row["triton"], row["ptxas"]) == (kept["triton"], kept["ptxas"]):
            assert [row[name] for name in MEASURED] == [kept[name] for name in MEASURED], key(row)
