"""What csrc/cuda takes of a GPU, from nvcc and ptxas: no GPU is needed.

    python -m benchmarks.cuda_resources            print the table
    python -m benchmarks.cuda_resources --write    and put it into cuda_resources.csv

One row an architecture: the kernel that it runs. The rows name the nvcc that they belong to. The
build itself holds sm_80, sm_90 and sm_90's PTX, which later GPUs compile for themselves.
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
from typing import TextIO

from compfast.errors import UsageError

TABLE = Path(__file__).with_name("cuda_resources.csv")
SOURCE = Path(__file__).parents[1] / "csrc" / "cuda" / "persistent.cu"
SEQUENCES = {80: 2, 90: 4, 100: 4}  # of a microbatch on each architecture: csrc/cuda/network.h
# as in CMakeLists.txt
FLAGS = ("-std=c++17", "-O3", "--expt-relaxed-constexpr", "--fmad=false", "-cubin", "-Xptxas", "-v")


@dataclass(frozen=True, order=True)
class Resources:
    """One row of the table."""

    nvcc: str
    architecture: int
    sequences: int
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


def resources(architecture: int) -> Resources:
    """Compiles for one architecture and reads what ptxas says."""
    from compfast import _cuda

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        command = [nvcc(), *FLAGS, f"-arch=sm_{architecture}", str(SOURCE), "-o", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"nvcc could not compile {SOURCE.name}: {done.stderr.strip()}")
    sequences = SEQUENCES[architecture]
    # ptxas has a paragraph a kernel; Network<...>, S in the mangled name
    for part in done.stderr.split("Compiling entry function")[1:]:
        if f"ELi{sequences}EEEv" not in part.splitlines()[0]:
            continue
        stack, stores, loads = _numbers(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part
        )
        (registers,) = _numbers(r"Used (\d+) registers", part)
        shared = _cuda.shape()["chip_bytes"][sequences]
        return Resources(
            version(), architecture, sequences, registers, stores, loads, stack, shared
        )
    raise UsageError(f"ptxas said nothing of the kernel with {sequences} sequences: {done.stderr}")


def _numbers(pattern: str, text: str) -> list[int]:
    found = re.search(pattern, text)
    if found is None:
        raise UsageError(f"ptxas did not say {pattern!r}: {text}")
    return [int(group) for group in found.groups()]


def committed() -> list[Resources]:
    """The table in the repository."""
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        Resources(row["nvcc"], *(int(v) for k, v in row.items() if k != "nvcc")) for row in rows
    ]


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
        rows = [resources(architecture) for architecture in SEQUENCES]
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
