"""Live progress: the meter's numbers, the plain lines, the bar, and a lost terminal."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import polars as pl
import pytest
from small_runs import small_config

import compfast
from compfast.cli.live import Lines, Live, Meter
from compfast.cli.output import Output, aligned, duration
from compfast.training.callbacks import Callback, Outline


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def rows(step: int, losses: list[float | None], seen: list[float | None]) -> pl.DataFrame:
    columns = {"member": range(len(losses)), "step": step, "loss": losses, "seen": seen}
    return pl.DataFrame(columns, schema_overrides={"loss": pl.Float64, "seen": pl.Float64})


def test_meter_takes_the_rate_over_the_last_minute() -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.tick(1000, 10_000)
    assert meter.rate is None
    assert meter.seconds_left is None
    for _ in range(100):
        clock.now += 1.0
        meter.tick(meter.done + 10, 10_000)
    assert meter.rate == pytest.approx(10)
    for _ in range(61):
        clock.now += 1.0
        meter.tick(meter.done + 50, 10_000)
    assert meter.rate == pytest.approx(50)
    assert meter.seconds_left == pytest.approx((10_000 - meter.done) / 50)


def test_a_resumed_run_does_not_count_what_was_done_before() -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.tick(9000, 10_000)
    clock.now += 2.0
    meter.tick(9010, 10_000)
    assert meter.rate == pytest.approx(5)


def test_meter_means_are_over_the_latest_row_of_each_member() -> None:
    meter = Meter(Clock())
    meter.start(100, 0.9, 0)
    meter.rows(rows(10, [4.0, 2.0, None], [0.5, 0.95, None]))
    assert meter.loss == pytest.approx(3.0)
    assert meter.fitted == pytest.approx(0.5)
    meter.rows(rows(20, [1.0, None, float("nan")], [0.9, None, 0.1]))
    assert meter.loss == pytest.approx(1.5)
    assert meter.fitted == pytest.approx(2 / 3)
    assert meter.step == 20
    assert meter.parts() == ["step 20/100", "loss 1.5", "fitted 67%"]


def test_lines_come_with_every_exam_and_at_least_twice_a_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    lines = Lines(Output(), clock)
    lines.meter.start(100, 0.9, 0)
    lines.on_tick(0, 1000)
    clock.now += 10
    lines.on_tick(100, 1000)
    assert capsys.readouterr().out == ""
    clock.now += 25
    lines.on_tick(350, 1000)
    assert capsys.readouterr().out == "step 0/100 | 10 member-steps/s | 65 s left\n"
    lines.on_verdicts({"underfit": 3, "mixed": 0, "inferential": 2})
    assert capsys.readouterr().out.endswith("| underfit 3, inferential 2\n")


def test_the_bar_follows_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with Live(Output()) as live:
        run = compfast.train(small_config(), tmp_path / "run", [live])
        assert live.meter.done == live.meter.total == 46 * 3
    assert run.finished
    assert live.meter.step == 46
    assert sum(live.meter.counts.values()) == 3


@pytest.mark.parametrize("shown", [Lines, Live])
def test_a_sweep_shows_its_parts_and_what_went_wrong(
    shown: type[Lines] | type[Live], capsys: pytest.CaptureFixture[str]
) -> None:
    callback = shown(Output())
    with callback if isinstance(callback, Live) else contextlib.nullcontext():
        callback.on_parts(3, 8, {"symmetric": 20, "mixed": 0})
        callback.on_tick(40, 100)
        callback.on_note("part 2 [x] is tried again: its worker died")
        callback.on_parts(3, 8, {"symmetric": 21, "mixed": 0})
    lines = capsys.readouterr().out.splitlines()
    assert "part 2 [x] is tried again: its worker died" in lines
    assert sum("part 3/8" in line for line in lines) == 1
    assert callback.meter.verdicts == "symmetric 21"


class _Gone(io.StringIO):
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_closed_terminal_silences_the_output(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with open(tmp_path / "file", "w") as file:
        gone = _Gone()
        monkeypatch.setattr(gone, "fileno", file.fileno)
        monkeypatch.setattr("sys.stdout", gone)
        output = Output()
        output.say("first")
        output.say("second")
        monkeypatch.undo()
    assert output.quiet
    assert capfd.readouterr().err.count("standard output cannot be written") == 1


def test_callbacks_are_all_hooks_of_the_protocol() -> None:
    hooks = {name for name in vars(Callback) if name.startswith("on_")}
    for kind in (Lines, Live):
        own = {name for base in kind.__mro__[:-2] for name in vars(base) if name.startswith("on_")}
        assert own <= hooks


def test_lines_name_skipped_checkpoints_and_where_a_run_goes_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = compfast.train(small_config(), tmp_path / "run")
    outline = Outline(3, 1, 30, "native", "v4", 46, 14, ("checkpoint 000002: damaged",))
    Lines(Output()).on_start(run, outline)
    assert capsys.readouterr().out.splitlines() == [
        "skipped checkpoint 000002: damaged",
        "resumed at step 14",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "under 1 s"),
        (45, "45 s"),
        (120, "2 min"),
        (5340, "89 min"),
        (12_600, "3.5 h"),
        (172_800, "2.0 d"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_aligned_columns() -> None:
    assert aligned(["a", "long"], [["12", "3"]]) == [" a  long", "12     3"]
