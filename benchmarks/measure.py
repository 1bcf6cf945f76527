"""Gate every way to run every peer, keep each peer's fastest, then time them in turns."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.fleet import Fleet, Form
from benchmarks.gate import UPDATES, check, reference_losses
from benchmarks.peers import PEERS
from benchmarks.problem import Problem, make_problem
from compfast import _native
from compfast.engines.base import Float32

PROBE_SHARE = 0.3  # of a sample's seconds, twice, to choose the form
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Setting:
    """One comparison: width d, M members, batch size, threads, and how long to measure."""

    d: int
    members: int
    batch_size: int
    threads: int
    rounds: int
    seconds: float  # aimed at, a sample
    cpus: tuple[int, ...]

    def problem(self) -> Problem:
        return make_problem(self.d, self.members, batch_size=self.batch_size)

    def forms(self) -> tuple[Form, ...]:
        """One process with all threads, and one single-threaded process a thread."""
        many = Form(self.threads, 1)
        return (many,) if self.threads == 1 else (Form(1, self.threads), many)


@dataclass(slots=True)
class Outcome:
    """A peer in its fastest form. `samples` are ms a model-step, one a round."""

    peer: str
    variant: str
    form: Form
    difference: float  # largest loss difference to native in the gate
    fall_backs: tuple[str, ...]  # of the fastest form
    slower_fall_backs: tuple[str, ...]  # of the forms that lost
    matmul: str
    samples: list[float] = field(default_factory=list)
    matmul_rates: list[float] = field(default_factory=list)  # one a round, or none

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def matmul_rate(self) -> float | None:
        return statistics.median(self.matmul_rates) if self.matmul_rates else None


@dataclass(slots=True)
class _Candidate:
    fleet: Fleet
    difference: float
    seconds: float  # a step of all members, in the probe
    fall_backs: tuple[str, ...]
    matmul: str


def compare(setting: Setting, peers: Sequence[str], say: Say) -> tuple[list[Outcome], float]:
    """Outcomes in the order of `peers`, and the FMA peak in GFLOP/s (median of all rounds).

    Raises GateError before anything is timed when a peer trains another function, WorkerError
    when one of its processes ends.
    """
    reference = reference_losses(setting.problem())
    with contextlib.ExitStack() as stack:
        chosen: list[tuple[Fleet, Outcome, int]] = []
        for name in peers:
            best, lost = _fastest(setting, name, reference, say)
            stack.enter_context(best.fleet)
            outcome = Outcome(
                name,
                best.fleet.variant,
                best.fleet.form,
                best.difference,
                best.fall_backs,
                lost,
                best.matmul,
            )
            chosen.append((best.fleet, outcome, max(1, round(setting.seconds / best.seconds))))
        peaks = []
        for turn in range(setting.rounds):
            say(f"d {setting.d}: round {turn + 1} of {setting.rounds}")
            peaks.append(_native.fma_peak(setting.threads))
            for fleet, outcome, steps in chosen:
                seconds = fleet.train(steps)
                outcome.samples.append(1e3 * seconds / (steps * setting.members))
                rate = fleet.matmul_rate()
                if rate is not None:
                    outcome.matmul_rates.append(rate)
    return [outcome for _, outcome, _ in chosen], statistics.median(peaks)


def _fastest(
    setting: Setting, name: str, reference: Float32, say: Say
) -> tuple[_Candidate, tuple[str, ...]]:
    """The fastest of all variants and forms, every one gated, and what the others fell back on."""
    best: _Candidate | None = None
    lost: set[str] = set()
    for variant in PEERS[name].variants:
        for form in setting.forms():
            say(f"d {setting.d}: {name}, {variant}, {form}: gate")
            with contextlib.ExitStack() as stack:
                fleet = stack.enter_context(_start(setting, name, variant, form))
                losses = fleet.losses(UPDATES + 1)
                who = f"{name} ({variant}, {form})"
                difference = check(who, losses, reference, PEERS[name].tolerance)
                candidate = _probe(setting, fleet, difference)
                if best is not None and best.seconds <= candidate.seconds:
                    lost.update(candidate.fall_backs)
                    continue
                stack.pop_all()
            if best is not None:
                best.fleet.close()
                lost.update(best.fall_backs)
            best = candidate
    assert best is not None, "every peer has a variant"
    return best, tuple(sorted(lost))


def _start(setting: Setting, name: str, variant: str, form: Form) -> Fleet:
    return Fleet(
        name,
        variant,
        form,
        setting.cpus,
        d=setting.d,
        batch_size=setting.batch_size,
        members=setting.members,
    )


def _probe(setting: Setting, fleet: Fleet, difference: float) -> _Candidate:
    """Warm up, then the better of two short samples."""
    fleet.train(2)
    steps = max(1, round(PROBE_SHARE * setting.seconds / fleet.train(1)))
    seconds = min(fleet.train(steps), fleet.train(steps)) / steps
    told = fleet.describe()
    return _Candidate(fleet, difference, seconds, tuple(told["fall_backs"]), told["matmul"])
