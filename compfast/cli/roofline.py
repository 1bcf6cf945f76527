"""`python -m compfast.doctor --roofline`: ceilings, floor, measured time, and where it went."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from statistics import median

from rich.table import Table

from compfast._native import read_bandwidth
from compfast.cli import request
from compfast.cli.output import Output
from compfast.config import MemberSpec, ModelConfig, ModelSection, settings
from compfast.engines import roofline
from compfast.engines.cores import usable_cores
from compfast.engines.lengths import ends_early
from compfast.engines.native import NativeEngine
from compfast.engines.profile import Profile
from compfast.engines.roofline import Ceilings, Floor, kind_rows, op_rows
from compfast.ensembles.grid import member_specs
from compfast.errors import UsageError
from compfast.models.families import model_plan
from compfast.tasks import make_task

WIDE = 100
_PHASES = {
    "draw": "drawing the batch",
    "pack": "packing weights",
    "clear": "clearing gradients",
    "update": "clip and optimiser",
    "rest": "not counted",
}
# Members may differ in these without taking another time for a step.
_HARMLESS = ("seed", "init.", "optimizer.")


def report(arguments: argparse.Namespace) -> None:
    """Measure and print; raises UsageError for flags that make no network."""
    spec, threads = chosen(arguments)
    # A table in a file or a pipe is not squeezed into rich's 80 columns.
    console = Output().console(WIDE)
    ceilings = roofline.measure_ceilings(threads)
    one = roofline.one_thread(ceilings)
    for line in ceiling_lines(ceilings):
        console.print(line, soft_wrap=True)
    console.print()
    engine = roofline.make_engine(spec, threads)
    precision = spec.training.precision
    floor = roofline.step_floor(
        engine.plan,
        ceilings,
        precision,
        lambda held: read_bandwidth(held, threads),
        spec.optimizer.moments,
    )
    samples = roofline.measure_step(engine)
    profile = roofline.measure_profile(engine, median(samples) * threads)
    for line in floor_lines(spec, floor, samples):
        console.print(line, soft_wrap=True)
    console.print()
    console.print(profile_table(engine, profile, one, each=arguments.ops))


def chosen(arguments: argparse.Namespace) -> tuple[MemberSpec, int]:
    """The one network that the flags describe, and threads."""
    start = request.base(arguments)
    flags = request.given(arguments, settings.kinds_of(start))
    data = settings.apply(start, flags.settings)
    config = settings.from_dict(data)
    many = [path for path, _ in (*config.sweep, *config.sample) if not path.startswith(_HARMLESS)]
    if many:
        raise UsageError(f"{many[0]} has several values; the roofline is that of one network")
    cores = usable_cores()
    threads = config.run.threads or cores.count
    if threads > cores.count:
        raise UsageError(
            f"--threads is {threads}; this process may use {cores.count} cores ({cores.decided})"
        )
    spec = member_specs(config)[0]
    if ends_early(model_plan(spec.model), make_task(spec.task).length):
        raise UsageError(
            f"--roofline counts all positions of a batch; task {spec.task.name} trains a sequence"
            " up to its last target only"
        )
    return spec, threads


def ceiling_lines(c: Ceilings) -> Iterator[str]:
    yield f"instruction set {c.isa}, {c.threads} thread{'s' if c.threads > 1 else ''}"
    yield f"  FMA peak: {c.fma:.1f} GFLOP/s in float32"
    what = f"{c.bf16:.1f} GFLOP/s" if c.bf16 is not None else "no instruction for it"
    yield f"  bfloat16 pairs: {what}"
    for level in c.levels:
        size = "" if level.capacity is None else f", {_size(level.capacity)} a worker"
        assumed = "" if c.caches_known or level.name not in ("L1", "L2") else " (assumed)"
        yield f"  {level.name}{size}{assumed}: {_size(level.read)} at {level.bandwidth:.1f} GB/s"


def _described(model: ModelSection) -> str:
    m = model
    if not isinstance(m, ModelConfig):
        return f"family {m.family}"
    return f"d {m.d_model}, L {m.layers}, {m.heads} x ({m.d_k}, {m.d_v}), FFN {m.d_ff}"


def floor_lines(spec: MemberSpec, floor: Floor, samples: list[float]) -> Iterator[str]:
    m, ms = spec.model, median(samples)
    yield (
        f"{_described(m)}, {make_task(spec.task).length} tokens, batch {spec.training.batch_size},"
        f" {spec.training.precision}"
    )
    parts = ", ".join(f"{kind} {count / 1e6:.2f}" for kind, count in floor.flops.items())
    total = sum(floor.flops.values())
    yield f"  arithmetic: {total / 1e6:.2f} MFLOP a model-step ({parts}), forward and backward"
    yield f"    at peak: {floor.arithmetic:.4f} ms"
    for stage in floor.stages:
        moved, held = _size(stage.traffic.moved), _size(stage.traffic.held)
        yield (
            f"  bytes, {stage.traffic.stage}: {moved} of data that fill {held}, in {stage.level}:"
            f" at {stage.bandwidth:.1f} GB/s {stage.ms:.4f} ms"
        )
    yield f"  floor: {floor.ms:.4f} ms a model-step, set by {floor.bound}"
    yield (
        f"  measured: {ms:.4f} ms (median of {len(samples)};"
        f" {min(samples):.4f} to {max(samples):.4f}), {ms / floor.ms:.2f} x the floor"
    )
    yield f"  share of peak: {100 * floor.arithmetic / ms:.1f} %"


def profile_table(engine: NativeEngine, profile: Profile, one: Ceilings, each: bool) -> Table:
    """A step on one thread by kind of op (or op by op), and what it is of that thread's peak."""
    ms = 1e3 / profile.steps
    table = Table(title=f"one member on one thread: {ms * profile.total:.4f} ms a step")
    table.add_column("op" if each else "kind of op", no_wrap=True)
    for heading in ("forward ms", "backward ms", "share of time", "GFLOP/s", "of peak"):
        table.add_column(heading, justify="right", no_wrap=True)

    def share(seconds: float) -> str:
        return f"{100 * seconds / profile.total:.1f} %"

    rows = op_rows(engine.plan, profile)
    for row in rows if each else kind_rows(rows):
        spent = row.forward + row.backward
        rate = row.flops * profile.steps / spent / 1e9
        peak = one.peak(row.kind, engine.specs[0].training.precision)
        work = (f"{rate:.1f}", f"{100 * rate / peak:.0f} %") if row.flops else ()
        times = f"{ms * row.forward:.4f}", f"{ms * row.backward:.4f}"
        table.add_row(row.name, *times, share(spent), *work)
    table.add_section()
    for phase, spent in (*profile.phases.items(), ("rest", profile.rest)):
        table.add_row(_PHASES[phase], f"{ms * spent:.4f}", "", share(spent))
    return table


def _size(count: int) -> str:
    for unit, size in (("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
