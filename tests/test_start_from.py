"""A run that starts from another's members: the bits of never having stopped, and what changes."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_disk import Crash, failing
from fault_tools import fast_disk
from small_runs import assert_same_run, interrupted_at, numbers, resumed, saved_arrays, small_config
from sweeps import SWEEP, Fake

import compfast
from compfast.cluster import sweep
from compfast.config import Config
from compfast.runs import checkpoints, parents
from compfast.runs.reading import Run
from compfast.storage import durable
from compfast.training import inherited

pytestmark = pytest.mark.usefixtures("fast_disk")

LAST = 26
PLAIN: Any = {"steps": LAST, "sweep": (("seed", (0, 1)),)}
# Of six members two freeze (after steps 10 and 20), two diverge at once, two go to the end.
RULES: Any = {
    "steps": LAST,
    "stop_loss": 5.0,
    "sweep": (("optimizer.lr", (1e-3, 3e-2, 1e30)), ("seed", (0, 1))),
}
Runs = Callable[..., tuple[Run, Run]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """(a run that was never stopped, one of the same config stopped at a step); each made once."""
    made: dict[str, tuple[Run, Run]] = {}

    def find(step: int, **changes: Any) -> tuple[Run, Run]:
        key = f"{step} {sorted(changes.items())}"
        if key not in made:
            folder, config = tmp_path_factory.mktemp("runs"), small_config(**changes)
            with fast_disk():
                whole = compfast.train(config, folder / "whole")
                made[key] = whole, interrupted_at(folder / "stopped", config, step)
        return made[key]

    return find


def copied(run: Run, path: Path) -> Run:
    """A run that a test may harm."""
    shutil.copytree(run.path, path)
    return compfast.load(path)


def starting(run: Run, **start: Any) -> Config:
    """A run's own config, which starts from that run."""
    place: Any = {"run": str(run.path), **start}
    return dataclasses.replace(run.config, start=place)


def assert_goes_on(whole: Run, child: Run, step: int) -> None:
    """The child ends as the whole did, and its metrics are the whole's after `step`."""
    assert child.finished
    assert child.members.equals(whole.members)
    assert child.metrics.equals(whole.metrics.filter(whole.metrics["step"] > step))
    ours, theirs = saved_arrays(child), saved_arrays(whole)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].tobytes() == array.tobytes(), name


def assert_same_weights(one: Run, other: Run) -> None:
    """Parameters, moments, steps and status, not what was measured."""
    ours, theirs = saved_arrays(one), saved_arrays(other)
    for name in (n for n in theirs if "/progress/" not in n):
        assert ours[name].tobytes() == theirs[name].tobytes(), name


def test_its_own_step_unchanged_gives_the_bits_of_never_having_stopped(
    engine: str, runs: Runs, tmp_path: Path
) -> None:
    """Step 15 is in the middle of a window of ten."""
    whole, stopped = runs(15, engine=engine, **PLAIN)

    child = compfast.train(None, tmp_path / "child", start_from=stopped.path)

    assert_goes_on(whole, child, 15)
    start = compfast.load(child.path).config.start
    assert stopped.checkpoint is not None
    assert start.digest == durable.digest_of(stopped.checkpoint.path / "manifest.json").sha256
    assert (start.run, start.step, start.mode) == (str(stopped.path), 15, "go_on")


def test_a_stop_between_two_events(runs: Runs, tmp_path: Path) -> None:
    """Members stand at steps of their own then."""
    whole, _ = runs(15, **PLAIN)

    class Stop(compfast.Callback):
        def on_tick(self, done: int, total: int) -> None:
            if done > 30:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compfast.train(whole.config, tmp_path / "stopped", [Stop()])
    child = compfast.train(None, tmp_path / "child", start_from=tmp_path / "stopped")
    assert child.config.start.step is not None
    assert_goes_on(whole, child, child.config.start.step)


def test_frozen_and_diverged_members_stay_so(engine: str, runs: Runs, tmp_path: Path) -> None:
    whole, stopped = runs(15, engine=engine, **RULES)
    child = compfast.train(None, tmp_path / "child", start_from=stopped.path)
    assert_goes_on(whole, child, 15)
    assert child.members["steps"].to_list() == [26, 26, 10, 20, 1, 1]
    assert child.metrics["member"].unique().sort().to_list() == [0, 1, 3]


@pytest.mark.parametrize("forgotten", ["_WINDOWS", "_EXAMINED"])
def test_what_is_forgotten_is_noticed(
    forgotten: str, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = runs(15, **RULES)
    monkeypatch.setattr(inherited, forgotten, ())
    child = compfast.train(None, tmp_path / "child", start_from=stopped.path)
    with pytest.raises(AssertionError):
        assert_goes_on(whole, child, 15)


def test_a_longer_training_stretches_the_schedule(engine: str, tmp_path: Path) -> None:
    """A constant rate is the same for any number of steps: then nothing else changes."""
    config = small_config(engine=engine, **{**PLAIN, "steps": 30})
    config = dataclasses.replace(config, optimizer={"schedule": "constant", "lr": 1e-3})  # type: ignore[arg-type]
    whole = compfast.train(config, tmp_path / "whole")
    short = dataclasses.replace(config.training, steps=20)
    parent = compfast.train(dataclasses.replace(config, training=short), tmp_path / "short")

    child = compfast.train({"training": {"steps": 30}}, tmp_path / "child", start_from=parent.path)

    assert child.metrics["loss"].equals(whole.metrics.filter(whole.metrics["step"] > 20)["loss"])
    assert_same_weights(child, whole)


def test_a_window_that_began_before_the_run_is_of_the_steps_it_has(
    runs: Runs, tmp_path: Path
) -> None:
    """The parent ended with step 26; the window of the row of step 30 began with step 20."""
    parent, _ = runs(15, **PLAIN)
    made = [
        compfast.train(
            {"training": {"steps": 30, "log_every": every}},
            tmp_path / str(every),
            (),
            False,
            parent.path,
        ).metrics
        for every in (10, 1)
    ]
    rows, each = ([f.filter(f["member"] == m)["loss"].drop_nulls() for f in made] for m in (0, 1))
    for one, four in (rows, each):
        assert len(four) == 4
        assert one.to_list() == [pytest.approx(four.mean())]


CHANGES: list[dict[str, Any]] = [
    {"optimizer": {"lr": 1e-4, "weight_decay": 0.0, "schedule": "linear", "clip": 0.5}},
    {"training": {"batch_size": 6, "log_every": 7, "eval_every": 4, "precision": "bf16"}},
    {"task": {"item_high": 30}},
    {"evaluation": {"seen_items": 30}},
    {"sweep": {"data_seed": [9]}},
    {"model": {"activation": "relu"}},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_what_may_change(changes: dict[str, Any], runs: Runs, tmp_path: Path) -> None:
    _, parent = runs(15, **PLAIN)
    child = compfast.train(changes, tmp_path / "child", start_from=parent.path)
    assert child.finished
    assert child.members["steps"].to_list() == [LAST] * 2
    assert child.metrics["step"].to_numpy().min() > 15
    assert child.members["verdict"].null_count() == 0
    # Fewer items need fewer words than the network has.
    assert child.config.model.vocab_size == (112 if "task" in changes else None)
    asked = parents.starting(changes, parent.path)
    assert_same_run(child, compfast.train(asked, child.path, resume=True))


def test_a_stop_rule_that_changed_lets_the_frozen_go_on_where_they_stood(
    runs: Runs, tmp_path: Path
) -> None:
    _, parent = runs(15, **RULES)
    whole, _ = runs(15, **{**RULES, "stop_loss": 0.0})
    assert 10 in parent.members["steps"]
    changes = {"training": {"stop_loss": 0.0}}
    assert_same_weights(compfast.train(changes, tmp_path / "b", start_from=parent.path), whole)


def test_a_snapshot_has_weights_only(engine: str, tmp_path: Path) -> None:
    """Moments begin at zero, and bias corrections with them: the first step is as long as ever."""
    config = small_config(engine=engine, **PLAIN, run={"snapshots": (12,)})
    parent = compfast.train(config, tmp_path / "parent")
    steady = {"lr": 1e-3, "schedule": "constant", "weight_decay": 0.0}
    changes = {"optimizer": steady, "training": {"log_every": 1}, "run": {"snapshots": (5, 13)}}

    child = compfast.train(changes, tmp_path / "child", start_from=f"{parent.path}@12")

    assert child.metrics["step"].to_list()[0] == 13
    assert child.snapshots == list(child.config.run.snapshots) == [13]
    moved = np.abs(child.params(0, 13)["head.weight"] - parent.params(0, 12)["head.weight"])
    assert np.quantile(moved, 0.9) == pytest.approx(1e-3, rel=0.01)
    # Who starts from that one has moments of the same age.
    half = interrupted_at(tmp_path / "half", child.config, 20)
    assert_goes_on(child, compfast.train(None, tmp_path / "grand", start_from=half.path), 20)


def test_members_that_had_stopped_before_a_snapshot(tmp_path: Path) -> None:
    config = small_config(**RULES, run={"snapshots": (0, 15)})
    parent = compfast.train(config, tmp_path / "parent")
    child = compfast.train(None, tmp_path / "b", start_from=f"{parent.path}@15")
    assert child.members["steps"].to_list()[2:] == [10, child.members["steps"][3], 1, 1]
    assert child.members[[2, 4, 5]].equals(parent.members[[2, 4, 5]])
    early = compfast.train(None, tmp_path / "c", start_from=f"{parent.path}@0")
    assert early.metrics.equals(parent.metrics.filter(parent.metrics["step"] > 0))


def test_restart_takes_the_weights_alone(engine: str, runs: Runs, tmp_path: Path) -> None:
    parent, _ = runs(15, engine=engine, **RULES)
    changes: Any = {
        "start": {"mode": "restart"},
        "optimizer": {"kind": "sgd"},
        "training": {"stop_loss": 0.0},
        "run": {"snapshots": [0]},
    }
    child = compfast.train(changes, tmp_path / "child", start_from=parent.path)
    assert child.members["steps"].to_list() == [26, 26, 26, 26, 0, 0]
    assert child.members["verdict"].to_list()[4:] == ["diverged"] * 2
    assert child.metrics["step"].to_list()[0] == 0
    assert child.metrics["member"].unique().sort().to_list() == [0, 1, 2, 3]
    for name, array in parent.params(0).items():
        assert child.params(0, 0)[name].tobytes() == array.tobytes(), name


def test_another_engine_may_go_on(runs: Runs, tmp_path: Path) -> None:
    whole, parent = runs(15, engine="eager", **PLAIN)
    child = compfast.train({"run": {"engine": "native"}}, tmp_path / "b", start_from=parent.path)
    for name, array in whole.params(1).items():
        assert np.allclose(child.params(1)[name], array, atol=1e-4), name


@pytest.mark.edge(
    "the run that was started from is deleted after the first checkpoint", "goes on, the same bits"
)
def test_a_stopped_child_goes_on_without_its_parent(
    engine: str, runs: Runs, tmp_path: Path
) -> None:
    whole, stopped = runs(15, engine=engine, **PLAIN)
    parent = copied(stopped, tmp_path / "parent")
    child = interrupted_at(tmp_path / "child", starting(parent), 20)
    config = starting(parent)
    shutil.rmtree(parent.path)
    assert_goes_on(whole, compfast.train(config, child.path, resume=True), 15)


@pytest.mark.edge(
    "the run that was started from is deleted after the first checkpoint", "goes on, the same bits"
)
def test_before_its_first_step_the_child_has_everything(runs: Runs, tmp_path: Path) -> None:
    whole, stopped = runs(15, **PLAIN)
    parent = copied(stopped, tmp_path / "parent")

    class Stop(compfast.Callback):
        def on_start(self, run: Run, outline: Any) -> None:
            saved.extend(numbers(run.path))
            shutil.rmtree(parent.path)
            raise KeyboardInterrupt

    saved: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        compfast.train(None, tmp_path / "child", [Stop()], start_from=parent.path)
    assert saved == [1]
    assert_goes_on(whole, compfast.train(None, tmp_path / "child", resume=True), 15)


def test_killed_before_that_it_needs_the_same_parent(runs: Runs, tmp_path: Path) -> None:
    whole, stopped = runs(15, **PLAIN)
    parent = copied(stopped, tmp_path / "parent")
    child = interrupted_at(tmp_path / "child", starting(parent), 20)
    (child.path / "tables.safetensors").unlink()
    shutil.rmtree(child.path / "checkpoints")
    other = copied(child, tmp_path / "other")
    assert_goes_on(whole, compfast.train(None, child.path, resume=True), 15)

    assert parent.checkpoint is not None
    manifest = parent.checkpoint.path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b" ")
    with pytest.raises(compfast.StorageError, match="another step 15 than this run started from"):
        compfast.train(None, other.path, resume=True)
    shutil.rmtree(parent.path)
    with pytest.raises(compfast.UsageError, match="parent is not a run folder"):
        compfast.train(None, other.path, resume=True)


@pytest.mark.parametrize("count", [*range(2, 60, 8), 100])
def test_a_crash_at_any_operation(count: int, runs: Runs, tmp_path: Path) -> None:
    """What stands then goes on, from the parent or without it."""
    whole, stopped = runs(15, **PLAIN)
    path = tmp_path / "child"
    with failing(count, Crash()), pytest.raises(Crash):
        compfast.train(None, path, start_from=stopped.path)
    if (path / "config.json").exists():
        assert_goes_on(whole, compfast.train(None, path, resume=True), 15)
    else:
        assert_goes_on(whole, compfast.train(None, path, start_from=stopped.path), 15)


def test_shards_of_a_child_are_merged(runs: Runs, tmp_path: Path) -> None:
    """In two of four nobody is left to train."""
    two_shapes = (("model.layers", (1, 2)), *RULES["sweep"])
    rules = {**RULES, "sweep": two_shapes}
    whole, stopped = runs(20, **rules, run={"snapshots": (25,)})
    parts = []
    for i in range(4):
        path = tmp_path / str(i)
        changes = {"run": {"shard": [i, 4]}}
        parts.append(compfast.train(changes, path, start_from=stopped.path).path)
    assert [compfast.load(p).members["steps"].max() for p in parts] == [26, 20, 26, 20]
    merged = compfast.merge(parts, tmp_path / "merged")
    assert_goes_on(whole, merged, 20)
    assert merged.config.start.run == str(stopped.path)
    for member in range(12):
        for name, array in whole.params(member, 25).items():
            assert merged.params(member, 25)[name].tobytes() == array.tobytes(), name


def test_a_shard_is_a_parent_of_its_own_members(tmp_path: Path) -> None:
    config = small_config(sweep=SWEEP, run={"shard": (1, 3)})
    parent = interrupted_at(tmp_path / "parent", config, 20)
    child = compfast.train(None, tmp_path / "child", start_from=parent.path)
    with pytest.raises(compfast.UsageError, match="holds members 2 to 3, not member 0"):
        compfast.train({"run": {"shard": [0, 1]}}, tmp_path / "b", start_from=parent.path)
    assert_goes_on(resumed(parent.path), child, 20)


@pytest.mark.usefixtures("unhurried")
def test_a_sweep_on_a_cluster_starts_from_a_run(runs: Runs, tmp_path: Path) -> None:
    """One worker dies; the parent is gone when the driver comes back."""
    whole, stopped = runs(20, sweep=SWEEP)
    run = sweep(starting(stopped), tmp_path / "sweep", Fake({1: 1}))
    assert_goes_on(whole, run, 20)
    assert run.config.start.step == 20


def test_the_newest_checkpoint_or_the_step_that_is_named(runs: Runs, tmp_path: Path) -> None:
    _, stopped = runs(20, **PLAIN)
    parent = copied(stopped, tmp_path / "a@7")
    steps = [checkpoints.event_of(p) for p in checkpoints.numbered(parent.path / "checkpoints")]
    assert steps == [14, 20]
    child = compfast.train(None, tmp_path / "b", start_from=parent.path)
    older = compfast.train(None, tmp_path / "c", start_from=f"{parent.path}@14")
    assert [run.config.start.step for run in (child, older)] == [20, 14]
    assert_same_weights(child, older)
