"""What a user may hook into a training run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from compfast.errors import UsageError

if TYPE_CHECKING:
    from compfast.runs.reading import Run


@dataclass(frozen=True, slots=True)
class Outline:
    """What is about to be trained."""

    members: int
    groups: int  # of one shape each
    parameters: int  # of all members together
    engine: str
    isa: str
    steps: int
    resumed_at: int | None  # the step that a resumed run goes on from; None for a new run
    skipped: tuple[str, ...]  # checkpoints that could not be used, a sentence each


class Callback:
    """Override what is of interest; an exception saves a checkpoint, then ends the run.

    Hooks are called between steps, in the thread that trains, and change no bit of it. Any object
    with some of them will do.
    """

    def on_start(self, run: Run, outline: Outline) -> None:
        """Before the first step; the folder holds config.json and the tables."""

    def on_tick(self, done: int, total: int) -> None:
        """A few times a second: member steps done and to be done, frozen members left out."""

    def on_metrics(self, rows: pl.DataFrame) -> None:
        """New rows of the metrics table, with the columns of `Run.metrics`."""

    def on_verdicts(self, counts: dict[str, int]) -> None:
        """After an exam: how many members carry each label."""

    def on_parts(self, done: int, total: int, verdicts: dict[str, int]) -> None:
        """On a cluster, a few times a second: parts done, and the labels reported so far."""

    def on_note(self, sentence: str) -> None:
        """On a cluster: something went wrong and was put right."""

    def on_checkpoint(self, path: Path) -> None:
        """A checkpoint is complete."""

    def on_end(self, run: Run) -> None:
        """The run folder is complete, apart from the report."""


HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))


def as_callbacks(given: Any) -> tuple[Callback, ...]:
    """The callbacks that `given` holds: none (None), one, or any iterable of them.

    An object that has some of the hooks is a callback too. Raises UsageError for a class in place
    of an object, and for an object with no hook.
    """
    if given is None:
        return ()
    if isinstance(given, (type, str)) or _hooks(given) or not isinstance(given, Iterable):
        return (_callback(given),)
    return tuple(_callback(one) for one in given)


class _Partial(Callback):
    """An object with some of the hooks; the others do nothing."""

    def __init__(self, wrapped: Any) -> None:
        for hook in _hooks(wrapped):
            setattr(self, hook, getattr(wrapped, hook))


def _callback(one: Any) -> Callback:
    if isinstance(one, Callback):
        return one
    if isinstance(one, type):
        raise UsageError(
            f"callbacks holds the class {one.__name__}; give an object, {one.__name__}()"
        )
    if not _hooks(one):
        raise UsageError(f"callbacks holds {one!r}, which has none of the hooks {', '.join(HOOKS)}")
    return _Partial(one)


def _hooks(one: Any) -> list[str]:
    return [hook for hook in HOOKS if callable(getattr(one, hook, None))]
