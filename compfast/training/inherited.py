"""What members take over from those of another run, each from the one of its own row.

    go_on    weights, moments, step, and how it stood. A window, verdict or count goes along where
             it means the same as before. Who had been frozen stays so while the rule that froze it
             is the same, else it goes on where it stood; who diverged stays so.
    restart  the weights alone: step 0, zero moments, nobody frozen. Who diverged stays so.

A snapshot has no moments: they begin at zero, and their bias corrections count from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from compfast.config import Config, MemberSpec
from compfast.engines.base import ACTIVE, DIVERGED, FROZEN, Engine, Int64, State
from compfast.ensembles.groups import Groups
from compfast.ensembles.schedule import Tables
from compfast.runs.layouts import exams_of
from compfast.runs.parents import Parent, Status
from compfast.solutions import DIVERGED as DIVERGED_LABEL
from compfast.storage.tensorfile import Array
from compfast.tasks import Exam
from compfast.training.progress import Bool, Progress

Same = Callable[[MemberSpec, MemberSpec], bool]

_WINDOWS = ("loss", "grad_norm")
_EXAMINED = ("verdict", "stable", "scores")


@dataclass(frozen=True, slots=True)
class Taken:
    """Members that their engines hold, as another run had settled `event`; -1: nothing yet."""

    event: int
    progress: list[Progress]


class Start(Protocol):
    """What members begin with that draw nothing."""

    @property
    def moments_from(self) -> int:
        """The step from which their moments count."""

    def take(self, engines: Sequence[Engine], groups: Groups, tables: Sequence[Tables]) -> Taken:
        """Load the members into the engine of each group."""


class Inheritance:
    """The members of a parent, seen from a config that starts from them."""

    def __init__(self, parent: Parent, config: Config) -> None:
        self.parent = parent
        self.restart = config.start.mode == "restart"
        self.event = -1 if self.restart else parent.event
        self.with_moments = not (self.restart or parent.snapshot)
        self.moments_from = 0 if self.restart else parent.moments_from

    def standing(self, specs: Sequence[MemberSpec]) -> tuple[Int64, Status]:
        """Step [M] and status [M] that members start with."""
        step, status = self.parent.standing(specs)
        if self.restart:
            kept = np.where(status == DIVERGED, DIVERGED, ACTIVE).astype(np.uint8)
            return np.zeros_like(step), kept
        freed = (status == FROZEN) & ~self._each(specs, _same_rule)
        return (
            np.where(freed, np.maximum(step, self.moments_from), step),
            np.where(freed, ACTIVE, status).astype(np.uint8),
        )

    def take(self, engines: Sequence[Engine], groups: Groups, tables: Sequence[Tables]) -> Taken:
        """Load the members into the engine of each group."""
        parts = zip(engines, groups, exams_of(groups), tables, strict=True)
        return Taken(self.event, [self._take(*part) for part in parts])

    def _take(
        self, engine: Engine, specs: Sequence[MemberSpec], exam: Exam, tables: Tables
    ) -> Progress:
        step, status = self.standing(specs)
        params = self.parent.params(specs)
        first, second = (
            self.parent.moment(which, specs)
            if self.with_moments
            else {name: np.zeros_like(array) for name, array in params.items()}
            for which in ("exp_avg", "exp_avg_sq")
        )
        state = State(params, first, second, step, status)
        engine.load(state)
        progress = Progress.fresh(specs, exam, tables)
        self._tell(progress, specs, status)
        progress.restore(progress.arrays(), state)
        return progress

    def _tell(self, progress: Progress, specs: Sequence[MemberSpec], status: Status) -> None:
        """Fill in what was known of the members: of a snapshot, of those only that had stopped."""
        stopped = status != ACTIVE
        over = np.ones(len(specs), np.bool_)
        if not self.restart and stopped.any():
            over[stopped] = self._of(specs, stopped, ("closed",))["closed"] == 1
        progress.closed[stopped & over] = 1
        diverged = (status == DIVERGED) & over
        progress.verdict[diverged] = progress.labels.index(DIVERGED_LABEL)
        if self.restart:
            return
        known = stopped | (not self.parent.snapshot)
        for names, same in ((_WINDOWS, _same_window), (_EXAMINED, _same_exam)):
            chosen = known & self._each(specs, same)
            if chosen.any():
                for name, values in self._of(specs, chosen, names).items():
                    getattr(progress, name)[chosen] = values

    def _of(
        self, specs: Sequence[MemberSpec], chosen: Bool, names: Sequence[str]
    ) -> dict[str, Array]:
        return self.parent.progress([s for s, c in zip(specs, chosen, strict=True) if c], names)

    def _each(self, specs: Sequence[MemberSpec], same: Same) -> Bool:
        return np.array([same(self.parent.specs[s.member], s) for s in specs], np.bool_)


def _same_window(old: MemberSpec, new: MemberSpec) -> bool:
    return old.task == new.task and old.training.log_every == new.training.log_every


def _same_exam(old: MemberSpec, new: MemberSpec) -> bool:
    return old.task == new.task and old.evaluation == new.evaluation


def _same_rule(old: MemberSpec, new: MemberSpec) -> bool:
    rules = ((s.training.stop_loss, s.training.stop_stable) for s in (old, new))
    return _same_exam(old, new) and len(set(rules)) == 1
