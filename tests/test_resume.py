"""Stopped anywhere, in any way, a resumed run gives the bits of one that was never stopped."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_disk import Crash, failing
from small_runs import (
    ENGINES,
    assert_same_run,
    interrupted_at,
    numbers,
    resumed,
    small_config,
)

import compfast
from compfast.config import Config
from compfast.runs import checkpoints
from compfast.runs.reading import Run
from compfast.training.callbacks import Outline
from compfast.training.progress import Progress

pytestmark = pytest.mark.usefixtures("fast_disk")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The short run, never stopped."""
    return compfast.train(small_config(), tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize("engine", ENGINES)
def test_resume_from_a_checkpoint(engine: str, whole: Run, tmp_path: Path) -> None:
    config = small_config(engine=engine)
    if engine != "native":
        whole = compfast.train(config, tmp_path / "whole")
    for step in (0, 15, 40) if engine == "native" else (15,):
        stopped = interrupted_at(tmp_path / f"run{step}", config, step)
        assert not stopped.finished
        assert stopped.step == step
        assert_same_run(whole, compfast.train(None, stopped.path, resume=True))


@pytest.mark.parametrize("changes", [{"checkpoint_every": 3}, {"checkpoint_every": 40}])
def test_resume_with_other_cadence_and_threads(
    changes: dict[str, int], whole: Run, tmp_path: Path
) -> None:
    stopped = interrupted_at(tmp_path / "run", small_config(), 20)
    assert_same_run(whole, resumed(stopped.path, threads=2, **changes))


def test_a_stop_rule_counts_on_across_a_stop(tmp_path: Path) -> None:
    # Everybody passes the exam, so verdicts are candidates', mixed or other and may repeat.
    lenient = {"fitted": 0.0}
    config = small_config(
        stop_stable=3, evaluation=lenient, eval_every=4, sweep=(("init.gamma", (0.2, 0.5, 0.9)),)
    )
    whole = compfast.train(config, tmp_path / "whole")
    assert whole.members["steps"].min() == 8
    for step in (0, 4):
        stopped = interrupted_at(tmp_path / f"run{step}", config, step)
        assert_same_run(whole, resumed(stopped.path))


def _moments_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    original = checkpoints.read_state

    def broken(*arguments: Any) -> Any:
        state = original(*arguments)
        for array in state.exp_avg_sq.values():
            array[:] = 0
        return state

    monkeypatch.setattr(checkpoints, "read_state", broken)


def _window_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Progress.restore

    def broken(self: Progress, *arguments: Any) -> None:
        original(self, *arguments)
        self.grad_norm[:] = 0

    monkeypatch.setattr(Progress, "restore", broken)


@pytest.mark.parametrize("damage", [_moments_lost, _window_lost])
def test_a_restore_that_forgets_something_is_noticed(
    damage: Callable[[pytest.MonkeyPatch], None],
    whole: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped = interrupted_at(tmp_path / "run", small_config(), 15)
    damage(monkeypatch)
    run = resumed(stopped.path)
    with pytest.raises(AssertionError):
        assert_same_run(whole, run)


@pytest.mark.parametrize("kind", ["crash", "full"])
@pytest.mark.parametrize("stride", [31, pytest.param(1, marks=pytest.mark.slow)])
def test_a_crash_or_a_full_disk_at_any_operation(kind: str, stride: int, tmp_path: Path) -> None:
    """Every `stride`-th operation on disk, until the run gets through."""
    config = small_config(steps=24, run={"checkpoint_every": 8, "snapshots": (12,)})
    whole = compfast.train(config, tmp_path / "whole")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    error, expected, said = (
        (full, compfast.StorageError, "No space left on device")
        if kind == "full"
        else (Crash(), Crash, "")
    )
    count = 7 if kind == "full" else 0
    while True:
        path = tmp_path / f"run{count}"
        with failing(count, error):
            try:
                compfast.train(config, path)
                break
            except expected as caught:
                sentence = str(caught)
        assert said in sentence
        if (path / "config.json").exists():
            compfast.load(path)  # whatever stands is readable
            assert_same_run(whole, compfast.train(None, path, resume=True))
            assert [p.name for p in path.rglob(".*")] == [".lock"]
        else:
            assert_same_run(whole, compfast.train(config, path))
        shutil.rmtree(path)
        count += stride
    assert count > 100


def test_the_checkpoint_before_a_full_disk_still_loads(whole: Run, tmp_path: Path) -> None:
    path, full = tmp_path / "run", contextlib.ExitStack()

    class FullAfter(compfast.Callback):
        def on_checkpoint(self, folder: Path) -> None:
            if folder.name == "000003":
                error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                full.enter_context(failing(0, error, ("write",)))

    with (
        full,
        pytest.raises(compfast.StorageError, match=r"cannot write .*: No space left on device"),
    ):
        compfast.train(small_config(), path, [FullAfter()])
    run = compfast.load(path)
    assert run.step == 21
    assert run.metrics["step"].max() == 20
    assert run.params(2)
    assert_same_run(whole, resumed(path))


def test_a_damaged_checkpoint_is_skipped_and_named(whole: Run, tmp_path: Path) -> None:
    stopped = interrupted_at(tmp_path / "run", small_config(), 20)
    assert numbers(stopped.path) == [2, 3]
    file = stopped.path / "checkpoints" / "000003" / "group-000" / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    outlines: list[Outline] = []

    class Look(compfast.Callback):
        def on_start(self, run: Run, outline: Outline) -> None:
            outlines.append(outline)

    run = compfast.train(None, stopped.path, [Look()], resume=True)
    assert_same_run(whole, run)
    assert outlines[0].resumed_at == 14
    assert len(outlines[0].skipped) == 1
    assert "checkpoint 000003 was skipped" in outlines[0].skipped[0]
    assert "optimizer.safetensors is damaged" in outlines[0].skipped[0]
    assert min(numbers(run.path)) > 3  # numbers are not used twice


def test_no_usable_checkpoint_is_an_error_and_nothing_is_removed(tmp_path: Path) -> None:
    stopped = interrupted_at(tmp_path / "run", small_config(), 20)
    for folder in (stopped.path / "checkpoints").iterdir():
        (folder / "state.json").unlink()
    before = sorted(stopped.path.rglob("*"))
    with pytest.raises(compfast.StorageError, match="start again from step 0"):
        resumed(stopped.path)
    assert sorted(stopped.path.rglob("*")) == before
    shutil.rmtree(stopped.path / "checkpoints")
    assert resumed(stopped.path).finished


def test_metrics_that_no_checkpoint_names_are_removed(whole: Run, tmp_path: Path) -> None:
    stopped = interrupted_at(tmp_path / "run", small_config(), 20)
    stray = stopped.path / "metrics" / "part-000099.parquet"
    shutil.copy(stopped.path / "metrics" / "part-000001.parquet", stray)
    assert compfast.load(stopped.path).metrics.height == 3 * 4
    there: list[bool] = []

    class Look(compfast.Callback):
        def on_start(self, run: Run, outline: Outline) -> None:
            there.append(stray.exists())

    assert_same_run(whole, compfast.train(None, stopped.path, [Look()], resume=True))
    assert there == [False]


def test_stored_tables_are_read_and_not_made_again(
    whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = interrupted_at(tmp_path / "run", small_config(), 20)

    def refuse(specs: Any) -> Any:
        raise AssertionError("tables were computed again")

    monkeypatch.setattr("compfast.training.runs.make_tables", refuse)
    assert_same_run(whole, resumed(stopped.path))


@pytest.mark.parametrize("hook", ["on_start", "on_tick", "on_metrics", "on_verdicts"])
def test_an_exception_in_a_callback_saves_and_comes_out(
    hook: str, whole: Run, tmp_path: Path
) -> None:
    class Failing(compfast.Callback):
        pass

    def fail(*arguments: Any) -> None:
        raise LookupError(hook)

    setattr(Failing, hook, fail)
    with pytest.raises(LookupError, match=hook) as caught:
        compfast.train(small_config(), tmp_path / "run", [Failing()])
    assert caught.traceback[-1].name == "fail"
    assert len(numbers(tmp_path / "run")) == 1
    assert_same_run(whole, resumed(tmp_path / "run"))


def test_a_stop_between_the_last_step_and_the_last_exam(tmp_path: Path) -> None:
    config = small_config(engine="eager", sweep=(("seed", (0,)),))
    whole = compfast.train(config, tmp_path / "whole")

    class Failing(compfast.Callback):
        def on_tick(self, done: int, total: int) -> None:
            if done == total:
                raise LookupError

    with pytest.raises(LookupError):
        compfast.train(config, tmp_path / "run", [Failing()])
    stopped = compfast.load(tmp_path / "run")
    assert (stopped.step, stopped.members["steps"].to_list(), stopped.finished) == (45, [46], False)
    assert_same_run(whole, resumed(stopped.path))


def test_an_exception_at_the_end_leaves_a_finished_run(whole: Run, tmp_path: Path) -> None:
    class Failing(compfast.Callback):
        def on_end(self, run: Run) -> None:
            raise LookupError("end")

    with pytest.raises(LookupError, match="end"):
        compfast.train(small_config(), tmp_path / "run", [Failing()])
    assert_same_run(whole, compfast.load(tmp_path / "run"))


def test_outside_the_main_thread_no_handler_is_installed(whole: Run, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    results: list[Run] = []
    seen: list[Any] = []

    class Look(compfast.Callback):
        def on_start(self, run: Run, outline: Outline) -> None:
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(
        target=lambda: results.append(compfast.train(small_config(), tmp_path / "run", [Look()]))
    )
    thread.start()
    thread.join()
    assert seen == [before]
    assert_same_run(whole, results[0])


def test_a_resumed_run_without_checkpoint_starts_at_its_stored_config(
    whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(compfast.Callback):
        def on_start(self, run: Run, outline: Outline) -> None:
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("compfast.training.loop.Loop._save", lambda self: None)
        with pytest.raises(Crash):
            compfast.train(small_config(), tmp_path / "run", [Stop()])
    assert numbers(tmp_path / "run") == []
    assert_same_run(whole, compfast.train(None, tmp_path / "run", resume=True))


def test_runs_that_differ_are_told_apart(whole: Run, tmp_path: Path) -> None:
    config: Config = small_config(sweep=(("seed", (0, 1, 3)),))
    with pytest.raises(AssertionError):
        assert_same_run(whole, compfast.train(config, tmp_path / "run"))
    assert np.any(whole.params(0)["head.weight"] != whole.params(1)["head.weight"])
