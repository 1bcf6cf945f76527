"""Faults inside a run: a clock that jumps, a member that diverges, a callback that raises."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import numpy as np
from fault_tools import Missed, check, check_resumed, fast_disk, short_config, undisturbed
from small_runs import numbers, saved_arrays

import compfast
from compfast.cli.live import Lines, Reports
from compfast.cli.output import Output
from compfast.engines import make_engine

HOOKS = ("on_start", "on_tick", "on_metrics", "on_verdicts", "on_checkpoint")


class _Silent(Output):
    def say(self, line: str = "") -> None:
        pass


def _watchers(clock: Callable[[], float]) -> list[compfast.Callback]:
    return [Lines(_Silent(False), clock), Reports(4)]


def clock_backwards(folder: Path, random: Random) -> None:
    """Every look at any clock may show an hour less, and files seem to be from any time."""
    path, config = folder / "run", short_config()
    now = 2e9

    def look() -> float:
        nonlocal now
        now += random.choice((-3600.0, -1.0, 0.001, 5.0))
        return now

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime.fromtimestamp(look(), tz)

    class Stop(compfast.Callback):
        def on_checkpoint(self, saved: Path) -> None:
            if len(numbers(path)) == 2:
                raise LookupError

    clocks: dict[str, Any] = dict.fromkeys(("time", "monotonic", "perf_counter"), look)
    with (
        fast_disk(),
        mock.patch.multiple(time, **clocks),
        mock.patch.object(datetime, "datetime", Clock),
    ):
        try:
            compfast.train(config, path, [*_watchers(look), Stop()])
        except LookupError:
            for file in path.rglob("*"):
                os.utime(file, (random.random() * 2e9,) * 2)
        run = compfast.train(None, path, _watchers(look), resume=True)
    check(config, run)


def diverging_member(folder: Path, random: Random) -> None:
    """One tensor of one member is not finite from step k on, in the middle of a run."""
    config = short_config()
    step, member = random.randrange(config.training.steps), random.randrange(3)
    wrong = random.choice((np.nan, np.inf, -np.inf))

    def made(*arguments: Any, **options: Any) -> Any:
        engine = make_engine(*arguments, **options)
        advance = engine.advance

        def broken(until: int, tick: Any = None) -> Any:
            state = engine.state()
            if not (state.step[member] <= step < until) or state.status[member]:
                return advance(until, tick)
            first = advance(step, tick)
            state = engine.state()
            state.params["blocks.0.ffn.up.weight"][member, 0] = wrong
            engine.load(state)
            second = advance(until, tick)
            assert second.base == step
            loss, norm = (
                np.concatenate([getattr(first, n), getattr(second, n)], axis=1)
                for n in ("loss", "grad_norm")
            )
            return type(first)(min(first.base, step), loss, norm, second.stopped)

        engine.advance = broken  # type: ignore[method-assign]
        return engine

    with fast_disk(), mock.patch("compfast.training.runs.make_engine", made):
        run = compfast.train(config, folder / "run")
    whole = undisturbed(config)
    row = run.members.row(member, named=True)
    assert (row["verdict"], row["steps"]) == ("diverged", step), row
    last = run.metrics.filter(member=member).row(-1, named=True)
    assert (last["step"], last["verdict"]) == (step + 1, "diverged"), last
    for table, other in ((run.members, whole.members), (run.metrics, whole.metrics)):
        one, two = (t.filter(t["member"] != member) for t in (table, other))
        assert one.equals(two), "a neighbour's row changed"
    mine, theirs = saved_arrays(run), saved_arrays(whole)
    rest = [i for i in range(3) if i != member]
    for name, array in theirs.items():
        assert mine[name][rest].tobytes() == array[rest].tobytes(), name


def failing_callback(folder: Path, random: Random) -> None:
    """Any hook raises at any time; the run is saved, and the exception comes out as it is."""
    hook, left = random.choice(HOOKS), random.randrange(5)
    error = random.choice((LookupError, KeyboardInterrupt, SystemExit))("callback")

    class Failing(compfast.Callback):
        pass

    def fail(*arguments: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise error

    setattr(Failing, hook, fail)
    path = folder / "run"
    came: BaseException | None = None
    with fast_disk():
        try:
            compfast.train(short_config(), path, [Failing()])
        except BaseException as caught:
            came = caught
    if came is None:
        raise Missed
    assert came is error
    assert numbers(path), "nothing was saved"
    check_resumed(short_config(), path)
