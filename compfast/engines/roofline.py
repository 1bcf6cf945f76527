"""What this machine could do at best, and how long a step of one network must take and takes.

The floor of a model-step is the larger of two times: its arithmetic at the peak of the multiply-add
loop, and its bytes at the read bandwidth of the memory that holds what they are a part of. All
rates and times are those of `threads` workers together, each training members of its own.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from compfast import _native
from compfast.config import MemberSpec
from compfast.engines.arithmetic import Traffic, op_flops, step_flops, step_traffic
from compfast.engines.native import NativeEngine
from compfast.engines.native_plan import NativePlan
from compfast.engines.profile import Profile
from compfast.ensembles.schedule import make_tables
from compfast.errors import CompfastError, UsageError

ASSUMED_CACHES = (32 * 1024, 1024 * 1024)  # where the system does not say
LEAST_MEMORY = 64 * 1024 * 1024  # bytes read, all threads together, to be beyond any cache
BFLOAT16 = ("linear",)  # kinds whose products are bfloat16 in that mode
STEPS = 4000  # of the schedule; a longer measurement starts afresh
ROUNDS, ROUND_SECONDS = 7, 0.3


@dataclass(frozen=True, slots=True)
class Level:
    """One memory: `capacity` bytes are one worker's (None: no end).

    All workers together read `bandwidth` GB/s where each goes over `read` bytes of its own.
    """

    name: str
    capacity: int | None
    read: int
    bandwidth: float


@dataclass(frozen=True, slots=True)
class Ceilings:
    """GFLOP/s and GB/s of `threads` threads together."""

    isa: str
    threads: int
    fma: float
    bf16: float | None  # None: the instruction set has none, its emulation uses the FMA units
    levels: tuple[Level, ...]  # nearest first, the last without end
    caches_known: bool

    def peak(self, kind: str, precision: str) -> float:
        """GFLOP/s that a kind of op could reach."""
        if precision == "bf16" and kind in BFLOAT16 and self.bf16 is not None:
            return self.bf16
        return self.fma

    def level_of(self, held: int) -> str:
        """The name of the nearest memory that holds so many bytes of each worker."""
        return next(x.name for x in self.levels if x.capacity is None or held <= x.capacity)


@dataclass(frozen=True, slots=True)
class Stage:
    """Bytes of one stage of a step, the memory that holds its data, and ms at that bandwidth."""

    traffic: Traffic
    level: str
    bandwidth: float  # GB/s over as many bytes as the stage holds
    ms: float


@dataclass(frozen=True, slots=True)
class Floor:
    """ms of one model-step that cannot be undercut."""

    flops: dict[str, int]  # kind -> operations
    arithmetic: float  # ms
    stages: tuple[Stage, ...]

    @property
    def memory(self) -> float:
        return sum(stage.ms for stage in self.stages)

    @property
    def ms(self) -> float:
        return max(self.arithmetic, self.memory)

    @property
    def bound(self) -> str:
        return "arithmetic" if self.arithmetic >= self.memory else "bytes"


def measure_ceilings(threads: int) -> Ceilings:
    """Takes some seconds; raises UsageError for a COMPFAST_ISA that this machine cannot run, and
    where memory does not suffice.
    """
    try:
        isa = _native.selected_isa()
    except ValueError as error:
        raise UsageError(str(error)) from None
    found = _native.cache_bytes()
    known = all(found[:2])
    first, second, third = found if known else (*ASSUMED_CACHES, found[2])
    sizes: list[tuple[str, int | None, int]] = [
        ("L1", first, first // 2),
        ("L2", second, second // 2),
    ]
    share = third // threads
    if share > 2 * second:
        # Not half of it: what a virtual machine calls L3 may be more than one core reaches.
        sizes.append(("L3", share, min(share // 2, 4 * second)))
    beyond = max(LEAST_MEMORY, 2 * third) // threads
    _require_memory(beyond * threads)
    sizes.append(("memory", None, beyond))
    levels = [Level(*size, _native.read_bandwidth(size[2], threads)) for size in sizes]
    return Ceilings(
        isa=isa,
        threads=threads,
        fma=_native.fma_peak(threads),
        bf16=_native.bf16_peak(threads),
        levels=tuple(levels),
        caches_known=known,
    )


def one_thread(ceilings: Ceilings) -> Ceilings:
    """The arithmetic of one thread alone; memories are not measured again and left out."""
    fma, bf16 = _native.fma_peak(1), _native.bf16_peak(1)
    return dataclasses.replace(ceilings, threads=1, fma=fma, bf16=bf16, levels=())


def step_floor(
    native: NativePlan,
    ceilings: Ceilings,
    precision: str,
    bandwidth: Callable[[int], float],
    moments: int = 2,
) -> Floor:
    """The floor of one member's step, when every worker trains one.

    `bandwidth`: GB/s of all workers when each goes over so many bytes. `moments`: the optimiser's.
    """
    flops = step_flops(native.plan, native.positions, native.batch)
    arithmetic = sum(count / ceilings.peak(kind, precision) / 1e6 for kind, count in flops.items())
    stages = []
    for traffic in step_traffic(native, moments):
        rate = bandwidth(traffic.held)
        level = ceilings.level_of(traffic.held)
        stages.append(Stage(traffic, level, rate, traffic.moved / rate / 1e6))
    return Floor(flops, arithmetic, tuple(stages))


def make_engine(spec: MemberSpec, threads: int) -> NativeEngine:
    """A member a worker, alike but for the seed, trained from their initial weights."""
    training = dataclasses.replace(spec.training, steps=STEPS)
    specs = [dataclasses.replace(spec, seed=seed, training=training) for seed in range(threads)]
    engine = NativeEngine(specs, make_tables(specs), threads=threads)
    engine.initialise()
    return engine


def measure_step(engine: NativeEngine, seconds: float = ROUND_SECONDS) -> list[float]:
    """ms of a model-step, one figure a round of about `seconds` each."""
    members = len(engine.specs)
    done, steps = 0, 1
    while (took := _advance(engine, 0, steps)) < seconds / 2 and steps < STEPS:
        steps = min(STEPS, 2 * steps)
    steps = max(1, min(STEPS, round(steps * seconds / took)))
    samples = []
    for _ in range(ROUNDS):
        if done + steps > STEPS:
            done = 0
        samples.append(1e3 * _advance(engine, done, steps) / (steps * members))
        done += steps
    return samples


def measure_profile(engine: NativeEngine, ms: float, seconds: float = ROUND_SECONDS) -> Profile:
    """Counters of one member on one thread from its first step, for about `seconds` at `ms`."""
    engine.initialise()
    engine.profile(0, 2)  # memory that was never touched is touched here
    steps = max(2, min(STEPS, round(1e3 * seconds / ms)))
    profile = engine.profile(0, steps)
    if profile.steps < steps:
        raise DivergedError(profile.steps)
    return profile


@dataclass(frozen=True, slots=True)
class Row:
    """Seconds of one op, or of all of a kind, over a profile; operations of one step."""

    name: str
    kind: str
    forward: float
    backward: float
    flops: int


def op_rows(native: NativePlan, profile: Profile) -> list[Row]:
    """A row an op, in the order of the plan."""
    rows = []
    for op, forward, backward in zip(
        native.plan.ops, profile.forward, profile.backward, strict=True
    ):
        flops = sum(op_flops(native.plan, op, native.positions, native.batch))
        name = f"{op.kind} {op.output.buffer}" if op.output else op.kind
        rows.append(Row(name, op.kind, forward, backward, flops))
    return rows


def kind_rows(rows: Sequence[Row]) -> list[Row]:
    """Sums of the rows of each kind, in the order in which the kinds appear."""
    kinds = list(dict.fromkeys(row.kind for row in rows))
    return [
        Row(
            kind,
            kind,
            sum(row.forward for row in rows if row.kind == kind),
            sum(row.backward for row in rows if row.kind == kind),
            sum(row.flops for row in rows if row.kind == kind),
        )
        for kind in kinds
    ]


class DivergedError(CompfastError):
    """The network that was to be timed did not stay finite."""

    def __init__(self, step: int) -> None:
        super().__init__(f"a member diverged at step {step}; lower optimizer.lr")


def _advance(engine: NativeEngine, done: int, steps: int) -> float:
    """Seconds for steps done .. done + steps of every member."""
    if done == 0:
        engine.initialise()
    begin = time.perf_counter()
    engine.advance(done + steps)
    took = time.perf_counter() - begin
    reached = engine.state().step
    if (reached < done + steps).any():
        raise DivergedError(int(reached.min()))
    return took


def _require_memory(needed: int) -> None:
    """Raises UsageError where fewer bytes are free; says nothing where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return
    free = next((int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable")), needed)
    if free < needed:
        raise UsageError(
            f"{needed >> 20} MiB must be free to measure beyond the last cache;"
            f" {free >> 20} MiB are"
        )
