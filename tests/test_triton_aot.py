"""The Triton kernels compiled for GPUs that are not here: nothing spills, products are on tensor
cores, and what each takes on chip is what benchmarks/triton_resources.csv says.

Compiled in processes of their own, where Triton compiles rather than interprets.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import triton_versions

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "benchmarks" / "triton_resources.csv"
KEY = ("shape", "precision", "architecture", "kernel", "form")
MEASURED = ("registers", "spills", "stack", "shared", "tensor")
PLAIN = (
    *("adamw.", "sgd.", "anchor.", "rows.", "layer_norm.", "cross_entropy.", "logistic."),
    *("embedding._forward", "mixed_sums.", "select.", "squared_error.", "dropout."),
    *("generated.", "vectors.", "masked_cross_entropy."),
)

PRESETS = ("paper", "tiny", "replica")
OTHERS = ("d64", "d128", "t128", "long", "markov", "markov-paper", "bias")
# of heads below 16 columns or without products, whose kernels no precision changes; and others
NARROW = ("fuzzy", "fuzzy-paper", "sraven", "sraven-paper", "hyperteacher", "deep", "masked")
OF_16_AND_MORE = ("hyperteacher-paper", "hyperteacher-bottleneck-paper", "wide")
PRECISIONS = ("fp32", "tf32", "bf16")
ARCHITECTURES = ("80", "90", "100")

# (row, local memory instructions, bytes of stack) of another version of Triton
SPILLING = {
    "triton-3.6.0-resources.csv": [
        (("paper", "fp32", "100", "linear._weight_gradient", "0"), "2", "8"),
    ]
}

Row = dict[str, str]


def _slow(value: str) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)


def key(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in KEY)


def committed() -> list[Row]:
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def run(*flags: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.triton_resources", *flags]
    return subprocess.run(
        command, cwd=root, env=compiling(root), capture_output=True, text=True, check=False
    )


def compiling(root: Path) -> dict[str, str]:
    """The environment in which Triton compiles, with the sources at `root`."""
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return kept | {"PYTHONPATH": str(root)}


def compiled(shape: str, precision: str, architectures: str) -> list[Row]:
    done = run("--shapes", shape, "--precisions", precision, "--architectures", architectures)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert {row["architecture"] for row in rows} == set(architectures.split(","))
    return rows


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
    shapes = (*PRESETS, *OTHERS, *OF_16_AND_MORE)
    wanted = {(s, p, a) for s in shapes for p in PRECISIONS for a in ARCHITECTURES}
    assert found == wanted | {(s, "fp32", a) for s in NARROW for a in ARCHITECTURES}


# By default every kernel once: in bf16, or of the shapes that have fp32 alone.
@pytest.mark.parametrize(
    "flags",
    [
        ("--precisions", "bf16"),
        ("--precisions", "fp32", "--shapes", ",".join(NARROW)),
        pytest.param(("--precisions", "fp32"), marks=pytest.mark.slow),
        pytest.param(("--precisions", "tf32"), marks=pytest.mark.slow),
    ],
    ids=["bf16", "narrow", "fp32", "tf32"],
)
@pytest.mark.parametrize("architecture", [_slow("80"), "90", _slow("100")])
def test_the_table_is_of_today_s_kernels(architecture: str, flags: tuple[str, ...]) -> None:
    """By digest: the same input of the same compiler gives the same figures."""
    done = run("--check", "--architectures", architecture, *flags)
    assert done.returncode == 0, done.stdout + done.stderr


def test_another_version_of_triton_compiles_every_preset_too() -> None:
    """Each table of benchmarks/triton_versions.py: whole, of today's kernels, no spill but one."""
    tables = sorted(triton_versions.RESULTS.glob("triton-*-resources.csv"))
    assert [path.name for path in tables] == ["triton-3.6.0-resources.csv"]
    today = {key(row): row["ir"] for row in committed() if row["shape"] in PRESETS}
    for path in tables:
        rows = triton_versions.rows_of(path)
        spilling = [row for row in rows if (row["spills"], row["stack"]) != ("0", "0")]
        assert [(key(row), row["spills"], row["stack"]) for row in spilling] == SPILLING[path.name]
        check([row for row in rows if row not in spilling])
        assert {key(row): row["of"] for row in rows} == today
        assert {row["triton"] for row in rows} == {path.name.split("-")[1]}


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for folder in ("compfast", "benchmarks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True)
    return tmp_path


def test_a_launch_that_triton_takes_apart_otherwise_is_found(copied: Path) -> None:
    """`params` is a variable of the function that Triton makes of every signature."""
    for name in ("adamw", "step"):
        source = copied / f"compfast/engines/triton/{name}.py"
        text = source.read_text()
        assert "weights" in text
        source.write_text(text.replace('"weights"', '"params"').replace("weights,", "params,"))
    source = copied / "compfast/engines/triton/adamw.py"
    source.write_text(source.read_text().replace("(weights +", "(params +"))
    flags = ("--check", "--shapes", "tiny", "--precisions", "fp32", "--kernels", "adamw.")
    done = run(*flags, root=copied)
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("('tiny', 'fp32', 'adamw._update', 0) cannot be launched: TypeError")


def test_a_changed_kernel_is_found(copied: Path) -> None:
    source = copied / "compfast/engines/triton/layer_norm.py"
    source.write_text(source.read_text().replace("normal * a + b", "normal * a - b"))
    done = run("--check", "--shapes", "tiny", "--precisions", "fp32", root=copied)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "layer_norm._forward" in done.stdout
    assert "has changed since it was compiled" in done.stdout


# Every preset, precision and architecture once; by default the default preset alone. The
# rest is compiled by the slow tests, and held to that by its digest.
ONCE = [
    pytest.param(*case, marks=() if case[0] == "tiny" else pytest.mark.slow)
    for case in zip(PRESETS, PRECISIONS, ARCHITECTURES, strict=True)
]


@pytest.mark.parametrize(("shape", "precision", "architecture"), ONCE)
def test_every_kernel_of_a_preset_compiles_as_the_table_says(
    shape: str, precision: str, architecture: str
) -> None:
    same_as_table(compiled(shape, precision, architecture))


@pytest.mark.slow
@pytest.mark.parametrize("shape", NARROW)
def test_every_kernel_of_vectors_compiles_as_the_table_says(shape: str) -> None:
    same_as_table(compiled(shape, "fp32", ",".join(ARCHITECTURES)))


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [*PRESETS, *OTHERS, *OF_16_AND_MORE])
def test_every_step_compiles_as_the_table_says(shape: str, precision: str) -> None:
    same_as_table(compiled(shape, precision, ",".join(ARCHITECTURES)))


TIGHT = """
import dataclasses
from benchmarks import sass, triton_resources as table
launch = next(w[-1] for w in table.kernels(["replica"], ["bf16"]) if w[2] == "head._head")
tight = dataclasses.replace(launch, options=launch.options | {"maxnreg": 48})
for architecture in table.ARCHITECTURES:
    made = [table.compiled(one, architecture).asm["cubin"] for one in (launch, tight)]
    roomy, narrow = sass.counts(made, architecture)
    assert roomy.spills == 0 < narrow.spills, (architecture, roomy, narrow)
    assert roomy.tensor == narrow.tensor > 0, (architecture, roomy, narrow)
"""


def test_a_kernel_without_registers_is_seen_to_spill() -> None:
    """The counts themselves: of two kernels in one disassembly, one spills."""
    command = [sys.executable, "-c", TIGHT]
    done = subprocess.run(
        command, cwd=ROOT, env=compiling(ROOT), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


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
