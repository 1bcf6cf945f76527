"""What csrc/cuda takes of a GPU, from nvcc and ptxas: no GPU is needed.

    python -m benchmarks.cuda_resources            print the table
    python -m benchmarks.cuda_resources --write    and put it into cuda_resources.csv

One row an architecture and network: the kernel that it runs. The rows name the nvcc that they
belong to. The build itself holds sm_80, sm_90 and sm_90's PTX, which later GPUs compile for
themselves.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from compfast.errors import UsageError

TABLE = Path(__file__).with_name("cuda_resources.csv")
SOURCE = Path(__file__).parents[1] / "csrc" / "cuda" / "persistent.cu"
CHIPS = {80: 80, 90: 90, 100: 90}  # architecture -> whose kernel it runs: csrc/cuda/persistent.cu
# as in CMakeLists.txt
FLAGS = ("-std=c++17", "-O3", "--expt-relaxed-constexpr", "--fmad=false", "-cubin", "-Xptxas", "-v")


@dataclass(frozen=True, order=True)
class Resources:
    """One row of the table."""

    nvcc: str
    architecture: int
    network: str  # positions-d_model-heads-d_ff-vocabulary
    sequences: int  # of a microbatch
    kept: int  # parameters on chip
    parameters: int  # of a member
    registers: int  # a thread, of 256 a block
    spill_stores: int  # bytes
    spill_loads: int
    stack: int  # bytes a thread
    shared: int  # bytes a block, all of them dynamic


def nvcc() -> str:
    """Its path; raises UsageError where there is none."""
    found = shutil.which("nvcc")
    if found is None:
        raise UsageError("nvcc is not on PATH; the table needs the CUDA compiler")
    return found


def version() -> str:
    said = subprocess.run([nvcc(), "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"V(\d+\.\d+\.\d+)", said)
    return found.group(1) if found else said.strip()


def resources(architecture: int) -> list[Resources]:
    """Compiles for one architecture and reads what ptxas says, a row a network."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        command = [nvcc(), *FLAGS, f"-arch=sm_{architecture}", str(SOURCE), "-o", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"nvcc could not compile {SOURCE.name}: {done.stderr.strip()}")
    # ptxas has a paragraph a kernel; its mangled name has Network<T, D, H, FF, V> and `kept`
    kernels = {}
    for part in done.stderr.split("Compiling entry function")[1:]:
        numbers, kept = _found(r"NetworkI((?:Li\d+E){5})EELi(\d+)E", part)
        network = "-".join(re.findall(r"\d+", numbers))
        kernels[network, int(kept)] = part
    return [_row(architecture, kernels, shape) for shape in _shapes()]


def _shapes() -> list[dict[str, Any]]:
    try:
        from compfast import _cuda
    except ImportError:
        raise UsageError("compfast._cuda is not built, and the table needs its sizes") from None
    return _cuda.shapes()


def _row(
    architecture: int, kernels: dict[tuple[str, int], str], shape: dict[str, Any]
) -> Resources:
    names = ("positions", "d_model", "heads", "d_ff", "vocabulary")
    network, chip = "-".join(str(shape[n]) for n in names), shape["chips"][CHIPS[architecture]]
    part = kernels.get((network, chip["kept"]))
    if part is None:
        raise UsageError(f"nvcc made {list(kernels)} and compfast._cuda has {network}: build anew")
    stack, stores, loads = map(
        int,
        _found(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part),
    )
    (registers,) = map(int, _found(r"Used (\d+) registers", part))
    return Resources(
        version(),
        architecture,
        network,
        shape["sequences"],
        chip["kept"],
        shape["flat_size"],
        registers,
        stores,
        loads,
        stack,
        chip["bytes"],
    )


def _found(pattern: str, text: str) -> tuple[str, ...]:
    found = re.search(pattern, text)
    if found is None:
        raise UsageError(f"ptxas did not say {pattern!r}: {text}")
    return found.groups()


def committed() -> list[Resources]:
    """The table in the repository."""
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = {"nvcc": str, "network": str}
    typed: list[dict[str, Any]] = [{k: kinds.get(k, int)(v) for k, v in r.items()} for r in rows]
    return [Resources(**row) for row in typed]


def write(rows: Iterable[Resources], file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Resources)])
    writer.writerows(dataclasses.astuple(row) for row in rows)


def main() -> int:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--write", action="store_true", help="replace the committed table")
    given = parser.parse_args()
    try:
        rows = [row for architecture in CHIPS for row in resources(architecture)]
    except UsageError as error:
        print(f"compfast: {error}", file=sys.stderr)
        return 2
    write(rows, sys.stdout)
    if given.write:
        with TABLE.open("w", newline="") as file:
            write(rows, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
