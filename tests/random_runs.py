"""Random runs through `compfast.train`: each member as it is when a run trains it alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import strategies as st
from small_runs import saved_arrays, small_config

import compfast
from compfast.config import Config
from compfast.runs.reading import Run

_HUGE = 1e20  # a learning rate at which a member is not finite after a few steps


@dataclass(frozen=True)
class Journey:
    """A run, and where it is stopped and taken up again on its way."""

    config: Config
    stops: tuple[tuple[int, int, int], ...]  # (metrics rows to wait for, threads, cadence)


class _Stop(compfast.Callback):
    """Ends the run at the n-th metrics event."""

    def __init__(self, left: int) -> None:
        self.left = left

    def on_metrics(self, rows: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def travel(journey: Journey, path: Path) -> Run:
    """The finished run; a stop after the end of training stops nothing."""
    config, resume = journey.config, False
    for left, threads, cadence in journey.stops:
        try:
            return _train(config, path, [_Stop(left)], resume)
        except KeyboardInterrupt:
            resume = True
            own = dataclasses.replace(config.run, threads=threads, checkpoint_every=cadence)
            config = dataclasses.replace(config, run=own)
    return _train(config, path, [], resume)


def _train(config: Config, path: Path, callbacks: Any, resume: bool) -> Run:
    try:
        return compfast.train(config, path, callbacks, resume=resume)
    except compfast.AllDivergedError:
        return compfast.load(path)


def by_itself(config: Config, member: int) -> Config:
    """The config of a run that trains this member only, saved as seldom as can be."""
    sweep = []
    for path, values in reversed(config.sweep):
        member, i = divmod(member, len(values))
        sweep.append((path, (values[i],)))
    run = dataclasses.replace(config.run, threads=1, checkpoint_every=config.training.steps)
    return dataclasses.replace(config, sweep=tuple(reversed(sweep)), run=run)


def check_journey(journey: Journey, member: int, folder: Path) -> None:
    """Fails unless the member's table rows, metrics and saved arrays are those it has alone."""
    among = travel(journey, folder / "among")
    single = _train(by_itself(journey.config, member), folder / "alone", [], False)
    assert among.finished
    assert single.finished
    for one, other in (
        (_of(among.members, member), _of(single.members, 0)),
        (_of(among.metrics, member), _of(single.metrics, 0)),
    ):
        assert one.equals(other), f"{one}\n{other}"
    group, row = among.members.row(member, named=True)["group"], _row(among, member)
    left, right = saved_arrays(among), saved_arrays(single)
    own = f"group-{group:03d}/"
    names = [name.removeprefix(own) for name in left if name.startswith(own)]
    assert len(names) == len(right)
    for name in names:
        mine, wanted = left[own + name][row], right[f"group-000/{name}"][0]
        assert mine.tobytes() == wanted.tobytes(), name
    for step in single.snapshots:
        mine, wanted = among.params(member, step), single.params(0, step)
        assert all(mine[name].tobytes() == wanted[name].tobytes() for name in wanted), step


def _of(table: pl.DataFrame, member: int) -> pl.DataFrame:
    places = ("member", "group", "row")
    rows = table.filter(member=member)
    assert rows.height
    return rows.drop([name for name in places if name in table.columns])


def _row(run: Run, member: int) -> int:
    group = run.groups[run.members.row(member, named=True)["group"]]
    return [spec.member for spec in group].index(member)


@st.composite
def journeys(draw: Any) -> tuple[Journey, int]:
    """A run of 1 to 16 members, in up to four shapes, and one of its members."""

    def some(values: tuple[Any, ...], most: int) -> tuple[Any, ...]:
        return tuple(draw(st.permutations(values)))[: draw(st.integers(1, most))]

    sweep: list[tuple[str, tuple[Any, ...]]] = [
        ("init.gamma", some((0.1, 0.4, 0.8, 1.3), 2)),
        ("seed", some((0, 1, 7, 2**53 - 1), 2)),
        ("optimizer.lr", some((1e-4, 3e-3, 0.05, _HUGE), 2)),
    ]
    if draw(st.booleans()):
        sweep.append(("optimizer.weight_decay", some((0.0, 0.3), 2)))
    if draw(st.booleans()):
        sweep.append(("model.d_model", some((4, 8, 20), 2)))
    sweep = draw(st.permutations(sweep))
    steps = draw(st.integers(1, 30))
    cadence, threads = st.integers(1, steps), st.integers(1, 3)
    config = small_config(
        sweep=tuple(sweep),
        steps=steps,
        batch_size=draw(st.integers(1, 8)),
        precision=draw(st.sampled_from(("fp32", "bf16"))),
        log_every=draw(st.integers(1, 11)),
        eval_every=draw(st.integers(1, 11)),
        stop_loss=draw(st.sampled_from((0.0, 4.6, 4.72, 5.5))),
        stop_stable=draw(st.sampled_from((0, 0, 2))),
        evaluation={"fitted": draw(st.sampled_from((0.0, 0.9)))},
        run={
            "threads": draw(threads),
            "checkpoint_every": draw(cadence),
            "snapshots": tuple(draw(st.sets(st.integers(0, steps), max_size=2))),
        },
    )
    stops = draw(st.lists(st.tuples(st.integers(1, 4), threads, cadence), max_size=2))
    members = 1
    for _, values in sweep:
        members *= len(values)
    return Journey(config, tuple(stops)), draw(st.integers(0, members - 1))
