"""What the Triton kernels take on chip, from ahead-of-time compilation: no GPU is needed.

    python -m benchmarks.triton_resources            print the table of every shape
    python -m benchmarks.triton_resources --write    and put it into triton_resources.csv

One row a kernel of a preset's training step, architecture and precision. Spills are the local
memory instructions, `tensor` the tensor-core instructions (HMMA, HGMMA, UTC*MMA, OMMA, QMMA) of
the disassembly. The rows name the versions of Triton and ptxas that they belong to.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from compfast.config import (
    Config,
    MemberSpec,
    ModelConfig,
    OptimizerConfig,
    TaskConfig,
    TrainingConfig,
)
from compfast.engines.triton.launch import Launch
from compfast.engines.triton.step import Members, Step, flat_layout
from compfast.grid import member_specs
from compfast.presets import preset
from compfast.schedule import make_tables

TABLE = Path(__file__).with_name("triton_resources.csv")
ARCHITECTURES = (80, 90, 100)
PRECISIONS = ("fp32", "tf32", "bf16")

# shape -> preset, changes of the model; "paper" runs one launch an op, the others fused layers
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": ("tiny", {}),
    "replica": ("replica", {}),
    "d64": ("tiny", {"d_model": 64, "heads": 2}),
    "d128": ("tiny", {"d_model": 128, "heads": 4}),
    "paper": ("paper", {}),
}
# products that the optimiser, the sampling and the gathers have none of
_PLAIN = ("adamw.", "anchor.", "rows.", "layer_norm.", "cross_entropy.", "embedding._forward")
_BINARIES = Path(triton.__file__).parent / "backends/nvidia/bin"


@dataclass(frozen=True, order=True)
class Resources:
    """One row of the table."""

    triton: str
    ptxas: str
    shape: str
    precision: str
    architecture: int
    kernel: str
    form: int  # which of the step's launches of this kernel, by distinct constants
    registers: int
    spills: int
    stack: int  # bytes a thread
    shared: int  # bytes a block
    tensor: int

    @property
    def key(self) -> tuple[Any, ...]:
        row = dataclasses.astuple(self)
        return row[: row.index(self.kernel) + 2]

    @property
    def multiplies(self) -> bool:
        """Whether it has matrix products, which belong on tensor cores in tf32 and bf16 mode."""
        return not self.kernel.startswith(_PLAIN)


def spec_of(shape: str, precision: str) -> MemberSpec:
    """A member of one of SHAPES."""
    name, changes = SHAPES[shape]
    overlay = preset(name)
    training = {**overlay.get("training", {}), "precision": precision, "steps": 100}
    config = Config(
        task=TaskConfig(**overlay.get("task", {})),
        model=ModelConfig(**{**overlay.get("model", {}), **changes}),
        optimizer=OptimizerConfig(**overlay.get("optimizer", {})),
        training=TrainingConfig(**training),
    )
    return member_specs(config)[0]


def step_launches(shape: str, precision: str) -> list[Launch]:
    """The launches of one training step, on tensors without storage."""
    return step_of(spec_of(shape, precision)).launches


def step_of(spec: MemberSpec) -> Step:
    """One member's training step on tensors without storage."""
    flat = flat_layout(spec)
    members = Members.zeros(1, flat.size, torch.device("meta"))
    return Step([spec], flat, make_tables([spec]), members)


def distinct(launches: Iterable[Launch]) -> Iterator[tuple[str, int, Launch]]:
    """(kernel, form, launch) without those that share one compiled kernel."""
    seen: dict[str, list[Any]] = {}
    for launch in launches:
        name = f"{launch.kernel.fn.__module__.split('.')[-1]}.{launch.kernel.fn.__name__}"
        signature = _signature(launch), dict(launch.constants)
        forms = seen.setdefault(name, [])
        if signature not in forms:
            forms.append(signature)
            yield name, len(forms) - 1, launch


def compiled(launch: Launch, architecture: int) -> Any:
    """Triton's compiled kernel, as a GPU of this architecture would get it."""
    types, aligned = _signature(launch)
    names = launch.kernel.arg_names
    source = ASTSource(
        fn=launch.kernel,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs=dict(launch.constants),
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    target = GPUTarget("cuda", architecture, 32)
    return triton.compile(source, target=target, options=dict(launch.options))


def resources(
    shape: str, precision: str, architecture: int, kernel: str, form: int, launch: Launch
) -> Resources:
    """Compiles, disassembles and counts."""
    made = compiled(launch, architecture)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return Resources(
        triton=triton.__version__,
        ptxas=get_ptxas(architecture).version,
        shape=shape,
        precision=precision,
        architecture=architecture,
        kernel=kernel,
        form=form,
        registers=found["REG"],
        spills=len(re.findall(r"\b(?:LDL|STL)\b", code)),
        stack=found["STACK"],
        shared=made.metadata.shared,
        tensor=len(re.findall(r"\b(?:HMMA|HGMMA|OMMA|QMMA|UTC\w*MMA)\b", code)),
    )


def report(
    shapes: Iterable[str], precisions: Iterable[str], architectures: Iterable[int]
) -> Iterator[Resources]:
    """The rows of these shapes; kernels that no precision changes stand under fp32 alone."""
    architectures = tuple(architectures)
    for shape in shapes:
        for precision in precisions:
            for kernel, form, launch in distinct(step_launches(shape, precision)):
                if precision != "fp32" and kernel.startswith(_PLAIN):
                    continue
                for architecture in architectures:
                    yield resources(shape, precision, architecture, kernel, form, launch)


def committed() -> dict[tuple[Any, ...], Resources]:
    """The table in the repository, by key."""
    with TABLE.open(newline="") as file:
        rows = [_parsed(row) for row in csv.DictReader(file)]
    return {row.key: row for row in rows}


def versions(architecture: int) -> tuple[str, str]:
    """(Triton, ptxas) that compile here for this architecture."""
    return triton.__version__, get_ptxas(architecture).version


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("--write", action="store_true", help="replace the committed table")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--architectures", default=",".join(map(str, ARCHITECTURES)))
    given = parser.parse_args()
    architectures = [int(a) for a in given.architectures.split(",")]
    found = report(given.shapes.split(","), given.precisions.split(","), architectures)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_FIELDS)
    rows = []
    for row in found:
        rows.append(row)
        writer.writerow(dataclasses.astuple(row))
        sys.stdout.flush()
    if given.write:
        with TABLE.open("w", newline="") as file:
            kept = csv.writer(file, lineterminator="\n")
            kept.writerows([_FIELDS, *(dataclasses.astuple(row) for row in sorted(rows))])
    return 0


_FIELDS = tuple(field.name for field in dataclasses.fields(Resources))
_TYPES = {torch.float32: "fp32", torch.float64: "fp64", torch.int32: "i32", torch.int64: "i64"}
_Plain = argparse.RawDescriptionHelpFormatter


def _signature(launch: Launch) -> tuple[dict[str, str], tuple[str, ...]]:
    """(pointer -> type, pointers aligned to 16 bytes): what Triton specialises on."""
    types, aligned = {}, []
    for name, tensor in launch.pointers.items():
        types[name] = f"*{_TYPES.get(tensor.dtype, 'u8')}"
        if tensor.storage_offset() * tensor.element_size() % 16 == 0:
            aligned.append(name)
    return types, tuple(sorted(aligned))


def _parsed(row: dict[str, str]) -> Resources:
    texts = ("triton", "ptxas", "shape", "precision", "kernel")
    values: dict[str, Any] = {k: v if k in texts else int(v) for k, v in row.items()}
    return Resources(**values)


@functools.cache
def _binary(name: str) -> str:
    path = _BINARIES / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; Triton's wheel for Linux brings it")
    return str(path)


def _tool(name: str, *arguments: str) -> str:
    done = subprocess.run([_binary(name), *arguments], check=True, capture_output=True, text=True)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
