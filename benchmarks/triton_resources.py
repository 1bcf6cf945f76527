"""What the Triton kernels take on chip, from ahead-of-time compilation: no GPU is needed.

    python -m benchmarks.triton_resources            print the table of every shape
    python -m benchmarks.triton_resources --write    and put it into triton_resources.csv, in the
                                                     place of what it had of these shapes; with
                                                     --kernels adamw. of those kernels alone
    python -m benchmarks.triton_resources --check    in seconds: are they still these kernels?

One row a kernel of a preset's training step or evaluation, architecture and precision. Spills are
the local memory instructions, `tensor` the tensor-core instructions (HMMA, HGMMA, UTC*MMA, OMMA,
QMMA) of the disassembly. The rows name the versions of Triton and ptxas that they belong to, and
`ir` is a digest of what those compile: Triton's first form of the kernel, its constants in place,
and its options. The same `ir` and versions give the same machine code.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import itertools
import operator
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource
from triton.compiler.compiler import make_backend

from benchmarks import sass
from benchmarks.triton_launching import refusal
from benchmarks.triton_shapes import ALL, SGD, SHAPES, extra_launches, keeps
from compfast.config import MemberSpec
from compfast.engines.triton.launch import Launch
from compfast.engines.triton.step import Members, Step, flat_layout
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import make_tables

TABLE = Path(__file__).with_name("triton_resources.csv")
ARCHITECTURES = (80, 90, 100)
PRECISIONS = ("fp32", "tf32", "bf16")


# the optimiser, the sampling and the gathers have no products
_PLAIN = (
    *("adamw.", "sgd.", "anchor.", "rows.", "layer_norm.", "cross_entropy.", "logistic."),
    *("embedding._forward", "mixed_sums.", "select.", "squared_error.", "dropout."),
    *("generated.", "vectors.", "masked_cross_entropy."),
)


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
    ir: str

    @property
    def key(self) -> tuple[Any, ...]:
        row = dataclasses.astuple(self)
        return row[: row.index(self.kernel) + 2]


def spec_of(shape: str, precision: str) -> MemberSpec:
    """A member of one of SHAPES."""
    config = SHAPES[shape]
    changed: dict[str, Any] = {"precision": precision, "steps": 100}
    training = dataclasses.replace(config.training, **changed)
    return member_specs(dataclasses.replace(config, training=training))[0]


def step_launches(shape: str, precision: str) -> list[Launch]:
    """The launches of one training step, on tensors without storage."""
    return step_of(spec_of(shape, precision)).launches


def all_launches(shape: str, precision: str) -> list[Launch]:
    """Those of a training step and of an evaluation, or of what no preset has."""
    if shape not in SHAPES:
        return extra_launches(shape, precision)
    spec = spec_of(shape, precision)
    step = step_of(spec)
    launches = [*step.launches, *step.program.forward]
    if shape == SGD:
        sgd = dataclasses.replace(spec.optimizer, kind="sgd", momentum=0.9, nesterov=True)
        launches.append(step_of(dataclasses.replace(spec, optimizer=sgd)).launches[-1])
    return [launch for launch in launches if keeps(shape, _name(launch))]


def step_of(spec: MemberSpec) -> Step:
    """One member's training step on tensors without storage."""
    flat = flat_layout(spec)
    members = Members.zeros(1, flat.size, torch.device("meta"))
    return Step([spec], flat, make_tables([spec]), members)


def distinct(launches: Iterable[Launch]) -> Iterator[tuple[str, int, Launch]]:
    """(kernel, form, launch) without those that share one compiled kernel."""
    seen: dict[str, list[Any]] = {}
    for launch in launches:
        name = _name(launch)
        signature = _signature(launch), dict(launch.constants)
        forms = seen.setdefault(name, [])
        if signature not in forms:
            forms.append(signature)
            yield name, len(forms) - 1, launch


def source_of(launch: Launch) -> ASTSource:
    """What Triton compiles when this launch runs."""
    types, aligned = _signature(launch)
    names = launch.kernel.arg_names
    return ASTSource(
        fn=launch.kernel,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs=dict(launch.constants),
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )


def digest(launch: Launch) -> str:
    """Of Triton's first form of the kernel, which no architecture changes, and its options."""
    target = GPUTarget("cuda", ARCHITECTURES[0], 32)
    backend = make_backend(target)
    options = backend.parse_options(dict(launch.options))
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    codegen, modules = backend.get_codegen_implementation(options), backend.get_module_map()
    module = source_of(launch).make_ir(target, options, codegen, modules, context)
    text = module.str_nodebug() + repr(sorted(launch.options.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def compiled(launch: Launch, architecture: int) -> Any:
    """Triton's compiled kernel, as a GPU of this architecture would get it."""
    target = GPUTarget("cuda", architecture, 32)
    return triton.compile(source_of(launch), target=target, options=dict(launch.options))


def usage(cubin: bytes) -> dict[str, int]:
    """Registers a thread (REG), bytes a thread on the stack (STACK)."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = sass.tool("cuobjdump", "--dump-resource-usage", file.name)
    return {key: int(value) for key, value in re.findall(r"(REG|STACK):(\d+)", text)}


Work = tuple[str, str, str, int, Launch]  # shape, precision, kernel, form, launch


def kernels(shapes: Iterable[str], precisions: Iterable[str], prefix: str = "") -> Iterator[Work]:
    """What the table is about; kernels that no precision changes stand under fp32 alone."""
    for shape in shapes:
        for precision in precisions:
            for kernel, form, launch in distinct(all_launches(shape, precision)):
                plain = kernel.startswith(_PLAIN) or _columnwise(launch)
                if kernel.startswith(prefix) and (precision == "fp32" or not plain):
                    yield shape, precision, kernel, form, launch


def report(
    shapes: Iterable[str],
    precisions: Iterable[str],
    architectures: Iterable[int],
    prefix: str = "",
) -> Iterator[Resources]:
    """The rows of these shapes, every kernel whose name begins so compiled."""
    architectures = tuple(architectures)
    of_a_step = operator.itemgetter(0, 1)
    for _, group in itertools.groupby(kernels(shapes, precisions, prefix), of_a_step):
        step = list(group)
        digests = [digest(work[-1]) for work in step]
        for architecture in architectures:
            yield from resources(step, digests, architecture)


def resources(
    step: Sequence[Work], digests: Sequence[str], architecture: int
) -> Iterator[Resources]:
    """Compiles, disassembles and counts."""
    made = [compiled(work[-1], architecture) for work in step]
    counted = sass.counts([one.asm["cubin"] for one in made], architecture)
    for work, one, counts, form_digest in zip(step, made, counted, digests, strict=True):
        shape, precision, kernel, form, _ = work
        used = usage(one.asm["cubin"])
        yield Resources(
            triton=triton.__version__,
            ptxas=get_ptxas(architecture).version,
            shape=shape,
            precision=precision,
            architecture=architecture,
            kernel=kernel,
            form=form,
            registers=used["REG"],
            spills=counts.spills,
            stack=used["STACK"],
            shared=one.metadata.shared,
            tensor=counts.tensor,
            ir=form_digest,
        )


def changes(shapes: list[str], precisions: list[str], prefix: str = "") -> list[str]:
    """What sets the committed table apart from today's kernels of these, and launches that Triton
    would refuse; nothing is compiled.

    Rows of other versions of Triton are not compared: their `ir` may be spelled otherwise.
    """
    here, refused = {}, []
    for shape, precision, kernel, form, launch in kernels(shapes, precisions, prefix):
        made = digest(launch)
        for architecture in ARCHITECTURES:
            here[shape, precision, architecture, kernel, form] = made
        if reason := refusal(launch, source_of(launch).signature):
            refused.append(f"{(shape, precision, kernel, form)} cannot be launched: {reason}")
    asked = shapes, precisions, list(ARCHITECTURES), prefix
    table = {row.key[2:]: row for row in committed().values() if _is(row, *asked)}
    found = [*refused, *(f"{key} is not in the table" for key in here.keys() - table.keys())]
    found += [f"{key} is in the table only" for key in table.keys() - here.keys()]
    found += [
        f"{key} has changed since it was compiled"
        for key in here.keys() & table.keys()
        if table[key].triton == triton.__version__ and table[key].ir != here[key]
    ]
    return sorted(found)


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
    parser.add_argument("--write", action="store_true", help="into the committed table")
    parser.add_argument("--check", action="store_true", help="compile nothing, compare digests")
    parser.add_argument("--shapes", default=",".join(ALL))
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--kernels", default="", help="what their names begin with")
    parser.add_argument("--architectures", default=",".join(map(str, ARCHITECTURES)))
    given = parser.parse_args()
    shapes, precisions = given.shapes.split(","), given.precisions.split(",")
    if given.check:
        found = changes(shapes, precisions, given.kernels)
        print("\n".join(found) or f"{len(committed())} rows, every kernel as it was compiled")
        return 1 if found else 0
    architectures = [int(a) for a in given.architectures.split(",")]
    asked = shapes, precisions, architectures, given.kernels
    measured = report(*asked)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_FIELDS)
    rows = []
    for row in measured:
        rows.append(row)
        writer.writerow(dataclasses.astuple(row))
        sys.stdout.flush()
    if given.write:
        new = {row.key for row in rows}
        rows += [row for row in committed().values() if row.key not in new and not _is(row, *asked)]
        with TABLE.open("w", newline="") as file:
            kept = csv.writer(file, lineterminator="\n")
            kept.writerows([_FIELDS, *(dataclasses.astuple(row) for row in sorted(rows))])
    return 0


def _is(
    row: Resources, shapes: list[str], precisions: list[str], architectures: list[int], prefix: str
) -> bool:
    chosen = row.shape in shapes and row.precision in precisions
    return chosen and row.architecture in architectures and row.kernel.startswith(prefix)


_FIELDS = tuple(field.name for field in dataclasses.fields(Resources))
_TYPES = {torch.float32: "fp32", torch.float64: "fp64", torch.int32: "i32", torch.int64: "i64"}
_Plain = argparse.RawDescriptionHelpFormatter


def _name(launch: Launch) -> str:
    return f"{launch.kernel.fn.__module__.split('.')[-1]}.{launch.kernel.fn.__name__}"


def _columnwise(launch: Launch) -> bool:
    """Whether none of its products is of the size that tensor cores take."""
    return launch.constants.get("PRECISION") == "none"


def _signature(launch: Launch) -> tuple[dict[str, str], tuple[str, ...]]:
    """(pointer -> type, pointers aligned to 16 bytes): what Triton specialises on."""
    types, aligned = {}, []
    for name, tensor in launch.pointers.items():
        types[name] = f"*{_TYPES.get(tensor.dtype, 'u8')}"
        if tensor.storage_offset() * tensor.element_size() % 16 == 0:
            aligned.append(name)
    return types, tuple(sorted(aligned))


def _parsed(row: dict[str, str]) -> Resources:
    texts = ("triton", "ptxas", "shape", "precision", "kernel", "ir")
    values: dict[str, Any] = {k: v if k in texts else int(v) for k, v in row.items()}
    return Resources(**values)


if __name__ == "__main__":
    sys.exit(main())
