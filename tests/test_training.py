"""The loop: windows, exams, stop rules, divergence, shards, callbacks; on every engine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from small_runs import ENGINES, assert_same_run, small_config

import compfast
from compfast.config import Config
from compfast.engines.base import ACTIVE, DIVERGED, FROZEN, Advance, State
from compfast.ensembles.groups import member_groups
from compfast.ensembles.schedule import Tables, make_tables
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run
from compfast.tasks.scoring import AnswerExam
from compfast.training.progress import Progress


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compfast.storage.durable.sync", lambda descriptor: None)


engines = pytest.mark.parametrize("engine", ENGINES)


class FirstAnswer:
    """Stands where a group's engine would: answers every exam item right, freezes nothing."""

    def __init__(self, progress: Progress) -> None:
        exam = progress.exam
        assert isinstance(exam, AnswerExam)
        right = np.concatenate([exam.seen_targets, exam.answers["inferential"]])
        self.answer = np.tile(right, (len(progress.specs), 1))
        self.frozen = np.zeros(len(progress.specs), bool)

    def predict(self, tokens: Any) -> Any:
        return self.answer

    def freeze(self, members: Any) -> None:
        self.frozen |= members


def progress_of(config: Config) -> tuple[Progress, Any]:
    groups = member_groups(config)
    progress = Progress.fresh(groups[0], exams_of(groups)[0], make_tables(groups[0]))
    return progress, FirstAnswer(progress)


def feed(progress: Progress, loss: Any, until: int) -> None:
    """What an engine would report of the steps up to `until`; loss is [M, steps of the run]."""
    base = int(progress.step[progress.active].min())
    part = np.where(np.arange(base, until) < progress.step[:, None], np.nan, loss[:, base:until])
    progress.observe(Advance(base, part, part * 2, False), until, None)


@pytest.mark.parametrize("events", [(10, 20), (3, 10, 13, 19, 20), (1, 2, 9, 10, 15, 20)])
def test_a_window_is_the_float64_mean_whatever_the_chunks(events: tuple[int, ...]) -> None:
    progress, engine = progress_of(small_config())
    loss = np.random.Generator(np.random.Philox(1)).random((3, 20), np.float32)
    rows = []
    for event in events:
        feed(progress, loss, event)
        rows.append(progress.settle(event, engine))
    metrics = pl.concat(rows).filter(pl.col("loss").is_not_null()).sort("member", "step")
    assert metrics["step"].to_list() == [10, 20] * 3
    wide = loss.astype(np.float64).reshape(3, 2, 10)
    expected = np.zeros((3, 2))
    for column in range(10):
        expected += wide[:, :, column]
    expected /= 10
    assert metrics["loss"].to_list() == expected.ravel().tolist()
    assert metrics["grad_norm"].to_list() == (2 * expected).ravel().tolist()


def test_a_stop_midway_leaves_members_at_their_own_steps() -> None:
    progress, engine = progress_of(small_config())
    loss = np.random.Generator(np.random.Philox(2)).random((3, 10), np.float32)
    steps = np.array([4, 10, 0])
    part = np.where(np.arange(10) < steps[:, None], loss, np.nan)
    state = State({}, {}, {}, steps, np.full(3, ACTIVE, np.uint8))
    progress.observe(Advance(0, part, part, True), 10, state)
    assert progress.step.tolist() == [4, 10, 0]
    feed(progress, loss, 10)
    rows = progress.settle(10, engine)
    assert rows["loss"].to_list() == pytest.approx(loss.mean(1, dtype=np.float64), rel=1e-12)
    assert np.isnan(progress.loss).all()


def test_the_first_step_that_is_not_finite_ends_a_member() -> None:
    progress, engine = progress_of(small_config())
    progress.settle(0, engine)
    loss = np.ones((3, 10), np.float32)
    loss[1, 6:] = np.nan
    progress.observe(Advance(0, loss, loss, False), 10, None)
    assert progress.status.tolist() == [ACTIVE, DIVERGED, ACTIVE]
    assert progress.step.tolist() == [10, 6, 10]
    rows = progress.settle(10, engine)
    assert rows["member"].to_list() == [0, 1, 2]
    assert rows["step"].to_list() == [10, 7, 10]
    assert rows["verdict"].to_list() == [None, "diverged", None]
    assert rows["loss"].to_list() == [1.0, None, 1.0]
    assert progress.settle(12, engine).height == 0


def test_stop_loss_freezes_a_member_with_its_verdict() -> None:
    progress, engine = progress_of(small_config(stop_loss=0.5))
    loss = np.repeat(np.array([[0.4], [0.5], [0.6]], np.float32), 10, axis=1)
    feed(progress, loss, 10)
    rows = progress.settle(10, engine)
    assert progress.status.tolist() == [FROZEN, ACTIVE, ACTIVE]
    assert engine.frozen.tolist() == [True, False, False]
    assert rows["verdict"].to_list() == ["inferential", None, None]
    assert progress.closed.tolist() == [1, 0, 0]


def test_stop_stable_counts_equal_verdicts_that_are_not_underfit() -> None:
    progress, engine = progress_of(small_config(stop_stable=2))
    exam, right = progress.exam, engine.answer[0].copy()
    assert isinstance(exam, AnswerExam)
    symmetric = np.concatenate([exam.seen_targets, exam.answers["symmetric"]])
    nothing = np.zeros_like(right)
    # Verdicts at the exams 0, 15, 30, 45: a member needs two equal ones in a row.
    answers = {0: [right, right, nothing], 15: [right, symmetric, nothing]}
    answers |= {30: [nothing, symmetric, nothing]}
    loss = np.ones((3, 46), np.float32)
    ended = {}
    for event in (0, 10, 15, 20, 30):
        if event:
            feed(progress, loss, event)
        if event in answers:
            engine.answer = np.stack(answers[event])
        progress.settle(event, engine)
        ended[event] = progress.status.tolist()
    assert ended[10] == [ACTIVE] * 3
    assert ended[15] == [FROZEN, ACTIVE, ACTIVE]
    assert ended[30] == [FROZEN, FROZEN, ACTIVE]
    assert progress.results()["verdict"].to_list() == ["inferential", "symmetric", "underfit"]


def test_the_last_exam_of_a_neighbour_does_not_count_for_the_others() -> None:
    progress, engine = progress_of(small_config(stop_stable=2))
    progress.settle(0, engine)
    loss = np.ones((3, 10), np.float32)
    loss[2, 4] = np.inf
    progress.observe(Advance(0, loss, loss, False), 10, None)
    rows = progress.settle(10, engine)
    assert rows.filter(pl.col("verdict").is_not_null())["member"].to_list() == [2]
    assert progress.stable.tolist()[:2] == [1, 1]
    assert progress.status.tolist() == [ACTIVE, ACTIVE, DIVERGED]


def test_the_rate_in_a_row_is_that_of_the_window_s_last_step() -> None:
    config = dataclasses.replace(small_config(), sweep=(("optimizer.lr", (1e-3, 3e-3)),))
    progress, engine = progress_of(config)
    one = np.ones(46)
    progress.tables = Tables(np.arange(46.0), one / 2, one, one, np.ones((2, 1)), one)
    feed(progress, np.ones((2, 10), np.float32), 10)
    rates = progress.settle(10, engine)["lr"].to_list()
    assert rates == [float(np.float32(1e-3 * 9 + 0.5)), float(np.float32(3e-3 * 9 + 0.5))]


@engines
def test_cadence_threads_and_neighbours_change_no_bit(engine: str, tmp_path: Path) -> None:
    config = small_config(engine=engine)
    whole = compfast.train(config, tmp_path / "whole")
    other = small_config(engine=engine, run={"checkpoint_every": 1000, "threads": 2})
    assert_same_run(whole, compfast.train(other, tmp_path / "other"))
    alone = compfast.train(small_config(engine=engine, sweep=(("seed", (1,)),)), tmp_path / "one")
    mine = whole.metrics.filter(pl.col("member") == 1).drop("member")
    assert mine.equals(alone.metrics.drop("member"))
    for name, array in alone.params(0).items():
        assert array.tobytes() == whole.params(1)[name].tobytes(), name


@engines
def test_rows_stand_at_windows_exams_and_the_end(engine: str, tmp_path: Path) -> None:
    run = compfast.train(small_config(engine=engine), tmp_path / "run")
    rows = run.metrics.filter(pl.col("member") == 0)
    assert rows["step"].to_list() == [0, 10, 15, 20, 30, 40, 45, 46]
    logged = rows.filter(pl.col("loss").is_not_null())["step"].to_list()
    examined = rows.filter(pl.col("seen").is_not_null())["step"].to_list()
    assert (logged, examined) == ([10, 20, 30, 40, 46], [0, 15, 30, 45, 46])
    assert rows["verdict"].is_null().to_list() == rows["seen"].is_null().to_list()
    last = rows.row(-1, named=True)
    member = run.members.row(0, named=True)
    for name in ("seen", "inferential", "symmetric", "other", "verdict"):
        assert member[name] == last[name]
    assert run.members["steps"].to_list() == [46, 46, 46]


@engines
def test_a_diverging_member_is_labelled_and_its_neighbours_do_not_notice(
    engine: str, tmp_path: Path
) -> None:
    rates = (("optimizer.lr", (1e-3, 1e6, 2e-3)),)
    run = compfast.train(small_config(engine=engine, sweep=rates), tmp_path / "three")
    calm = (("optimizer.lr", (1e-3, 2e-3)),)
    without = compfast.train(small_config(engine=engine, sweep=calm), tmp_path / "two")
    member = run.members.row(1, named=True)
    assert member["verdict"] == "diverged"
    assert 0 < member["steps"] < 46
    assert all(np.isfinite(array).all() for array in run.params(1).values())
    last = run.metrics.filter(pl.col("member") == 1).row(-1, named=True)
    assert (last["step"], last["verdict"]) == (member["steps"] + 1, "diverged")
    for there, here in ((0, 0), (2, 1)):
        one = run.metrics.filter(pl.col("member") == there).drop("member")
        assert one.equals(without.metrics.filter(pl.col("member") == here).drop("member"))
        for name, array in without.params(here).items():
            assert array.tobytes() == run.params(there)[name].tobytes(), name


def test_all_diverged_is_an_error_after_a_complete_run(tmp_path: Path) -> None:
    config = small_config(sweep=(("optimizer.lr", (1e6, 2e6)),))
    with pytest.raises(compfast.AllDivergedError, match="2 of 2"):
        compfast.train(config, tmp_path / "run")
    run = compfast.load(tmp_path / "run")
    assert run.finished
    assert run.members["verdict"].to_list() == ["diverged"] * 2
    assert compfast.train(None, tmp_path / "run", resume=True).finished


@engines
def test_a_frozen_member_keeps_the_parameters_of_its_last_step(engine: str, tmp_path: Path) -> None:
    rates = (("optimizer.lr", (1e-3, 3e-2)),)
    plain = compfast.train(small_config(engine=engine, sweep=rates), tmp_path / "plain")
    means = plain.metrics.filter(pl.col("step") == 30).sort("member")["loss"]
    earlier = plain.metrics.filter(pl.col("step") == 20)["loss"].min()
    limit = float(means.min())  # type: ignore[arg-type]
    assert limit < earlier  # type: ignore[operator]
    first = int(means.arg_min())  # type: ignore[arg-type]
    config = small_config(
        engine=engine,
        sweep=rates,
        stop_loss=float(np.nextafter(limit, 9)),
        run={"snapshots": (30,)},
    )
    run = compfast.train(config, tmp_path / "run")
    frozen = run.members.row(first, named=True)
    assert frozen["steps"] == 30
    assert run.members["steps"].max() == 46 or run.members["steps"].to_list() == [30, 30]
    for name, array in run.params(first).items():
        assert array.tobytes() == run.params(first, step=30)[name].tobytes()
    assert run.metrics.filter(pl.col("member") == first)["step"].max() == 30


def test_members_that_all_stop_early_end_the_run_and_fill_the_snapshots(tmp_path: Path) -> None:
    config = small_config(stop_loss=1e9, run={"snapshots": (0, 5, 40)})
    run = compfast.train(config, tmp_path / "run")
    assert run.finished
    assert run.members["steps"].to_list() == [10, 10, 10]
    assert run.snapshots == [0, 5, 40]
    for name, array in run.params(1).items():
        assert array.tobytes() == run.params(1, step=40)[name].tobytes()


def test_groups_of_several_shapes_progress_side_by_side(tmp_path: Path) -> None:
    sweep: Any = (("model.layers", (1, 2)), ("seed", (0, 1)))
    run = compfast.train(small_config(sweep=sweep), tmp_path / "both")
    assert run.members.select("member", "layers", "seed", "group", "row").rows() == [
        (0, 1, 0, 0, 0),
        (1, 1, 1, 0, 1),
        (2, 2, 0, 1, 0),
        (3, 2, 1, 1, 1),
    ]
    alone = compfast.train(small_config(sweep=(("seed", (0, 1)),)), tmp_path / "alone")
    assert run.metrics.filter(pl.col("member") < 2).equals(alone.metrics)


def test_shards_make_up_the_whole(tmp_path: Path) -> None:
    sweep: Any = (("model.layers", (1, 2)), ("seed", (0, 1, 2)))
    whole = compfast.train(small_config(sweep=sweep), tmp_path / "whole")
    shards = [
        compfast.train(small_config(sweep=sweep, run={"shard": (i, 4)}), tmp_path / f"{i}")
        for i in range(4)
    ]
    places = ("group", "row")
    members = pl.concat([shard.members.drop(places) for shard in shards])
    assert members.equals(whole.members.drop(places))
    assert pl.concat([shard.metrics for shard in shards]).equals(whole.metrics)
    for shard in shards:
        for member in shard.members["member"]:
            for name, array in shard.params(member).items():
                assert array.tobytes() == whole.params(member)[name].tobytes()
    with pytest.raises(compfast.UsageError, match="shard 0/7 of 6 members is empty"):
        compfast.train(small_config(sweep=sweep, run={"shard": (0, 7)}), tmp_path / "none")


class Recorder(compfast.Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def on_start(self, run: Run, outline: Any) -> None:
        self.seen.append(("start", outline.members, outline.steps, outline.resumed_at))

    def on_tick(self, done: int, total: int) -> None:
        self.seen.append(("tick", done, total))

    def on_metrics(self, rows: pl.DataFrame) -> None:
        self.seen.append(("metrics", rows["step"].max(), rows.height))

    def on_verdicts(self, counts: dict[str, int]) -> None:
        self.seen.append(("verdicts", sum(counts.values())))

    def on_checkpoint(self, path: Path) -> None:
        self.seen.append(("checkpoint", path.name))

    def on_end(self, run: Run) -> None:
        self.seen.append(("end", run.finished))


def test_callbacks_see_the_run_go_by(tmp_path: Path) -> None:
    recorder = Recorder()
    compfast.train(small_config(run={"checkpoint_every": 30}), tmp_path / "run", [recorder])
    calls = [call for call in recorder.seen if call[0] != "tick"]
    assert calls == [
        ("start", 3, 46, None),
        ("metrics", 0, 3),
        ("verdicts", 3),
        ("metrics", 10, 3),
        ("metrics", 15, 3),
        ("verdicts", 3),
        ("metrics", 20, 3),
        ("metrics", 30, 3),
        ("verdicts", 3),
        ("checkpoint", "000001"),
        ("metrics", 40, 3),
        ("metrics", 45, 3),
        ("verdicts", 3),
        ("metrics", 46, 3),
        ("verdicts", 3),
        ("checkpoint", "000002"),
        ("end", True),
    ]
    ticks = [call[1:] for call in recorder.seen if call[0] == "tick"]
    assert ticks[-1] == (138, 138)
    assert ticks == sorted(ticks)
