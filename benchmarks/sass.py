"""What is in a kernel's machine code: counts of instructions, from nvdisasm.

nvdisasm takes half a second to start, so the kernels of one architecture go to it in one piece.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import re
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import triton

_BINARIES = Path(triton.__file__).parent / "backends/nvidia/bin"
_LINE = re.compile(r"/\*([0-9a-f]+)\*/\s+(?:@\S+\s+)?([A-Z0-9]+)")
_BYTES = 16  # of an instruction
_SPILL = re.compile("LDL|STL")
_TENSOR = re.compile(r"HMMA|HGMMA|OMMA|QMMA|UTC\w*MMA")


@dataclass(frozen=True)
class Counts:
    """Instructions of one kernel."""

    spills: int  # those that read or write local memory
    tensor: int  # those of tensor cores, in each architecture's forms


def counts(cubins: Sequence[bytes], architecture: int) -> list[Counts]:
    """Of the one kernel in each cubin, compiled by Triton for sm_<architecture>.

    Raises ValueError where the disassembly does not show every instruction.
    """
    codes = [instructions(cubin) for cubin in cubins]
    ends = list(itertools.accumulate(map(len, codes)))
    found: list[list[str]] = [[] for _ in codes]
    name = f"SM{architecture}{'a' if architecture >= 90 else ''}"
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(b"".join(codes))
        file.flush()
        for address, opcode in _LINE.findall(tool("nvdisasm", "--binary", name, file.name)):
            found[bisect.bisect_right(ends, int(address, 16))].append(opcode)
    for code, opcodes in zip(codes, found, strict=True):
        if len(opcodes) * _BYTES != len(code):
            raise ValueError(f"{len(opcodes)} instructions read in {len(code)} bytes of code")
    return [Counts(_of(_SPILL, opcodes), _of(_TENSOR, opcodes)) for opcodes in found]


def instructions(cubin: bytes) -> bytes:
    """The code of the one kernel in an ELF file; ValueError if there is another number of them."""
    (table,) = struct.unpack_from("<Q", cubin, 40)
    size, count, names = struct.unpack_from("<HHH", cubin, 58)
    # name, type, flags, address, offset, length
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + i * size) for i in range(count)]
    strings = sections[names][4]
    codes = [
        cubin[offset : offset + length]
        for name, _, _, _, offset, length in sections
        if cubin.startswith(b".text.", strings + name)
    ]
    if len(codes) != 1:
        raise ValueError(f"a cubin holds {len(codes)} kernels; it must be one")
    return codes[0]


def tool(name: str, *arguments: str) -> str:
    """What a tool of Triton's wheel prints."""
    command = [_binary(name), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _of(pattern: re.Pattern[str], opcodes: list[str]) -> int:
    return sum(pattern.fullmatch(opcode) is not None for opcode in opcodes)


@functools.cache
def _binary(name: str) -> str:
    path = _BINARIES / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; Triton's wheel for Linux brings it")
    return str(path)
