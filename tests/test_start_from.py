"""A run that starts from another's members: the bits of never having stopped, and what changes."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import (
    assert_same_run,
    interrupted_at,
    numbers,
    resumed,
    saved_arrays,
    small_config,
)
from sweeps import SWEEP, Fake

import compfast
from compfast.cluster import sweep
from compfast.config import Config
from compfast.runs import checkpoints
from compfast.runs.reading import Run
from compfast.storage import durable
from compfast.training import inherited

pytestmark = pytest.mark.usefixtures("fast_disk")

# Two shapes; a stop rule, so that members freeze; one learning rate at which they diverge.
MIXED: Any = (("model.layers", (1, 2)), ("optimizer.lr", (1e-3, 1e30)), ("seed", (0, 1)))
RULES: Any = {"sweep": MIXED, "stop_stable": 2, "evaluation": {"fitted": 0.0}}


def stopped_at(folder: Path, step: int, **changes: Any) -> tuple[Run, Run]:
    """A run that was never stopped, and one of the same config that was at `step`."""
    config = small_config(**changes)
    return compfast.train(config, folder / "whole"), interrupted_at(folder / "stop", config, step)


def assert_goes_on(whole: Run, child: Run, step: int) -> None:
    """The child ends as the whole did, and its metrics are the whole's after `step`."""
    assert child.finished
    assert child.members.equals(whole.members)
    assert child.metrics.equals(whole.metrics.filter(whole.metrics["step"] > step))
    ours, theirs = saved_arrays(child), saved_arrays(whole)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].tobytes() == array.tobytes(), name


def test_its_own_step_unchanged_gives_the_bits_of_never_having_stopped(
    engine: str, tmp_path: Path
) -> None:
    whole, stopped = stopped_at(tmp_path, 15, engine=engine)

    child = compfast.train(stopped.config, tmp_path / "child", start_from=stopped.path)

    assert_goes_on(whole, child, 15)
    start = compfast.load(child.path).config.start
    manifest = stopped.path / "checkpoints" / "000003" / "manifest.json"
    assert start.digest == durable.digest_of(manifest).sha256
    assert (start.run, start.step, start.mode) == (str(stopped.path), 15, "go_on")
    assert numbers(child.path)[-1] > 1


def test_a_window_goes_along(tmp_path: Path) -> None:
    """Step 25 is the middle of a window of ten."""
    whole, stopped = stopped_at(tmp_path, 15, eval_every=5)
    child = compfast.train(None, tmp_path / "child", start_from=f"{stopped.path}@15")
    assert_goes_on(whole, child, 15)


def test_frozen_and_diverged_members_stay_so(engine: str, tmp_path: Path) -> None:
    whole, stopped = stopped_at(tmp_path, 15, engine=engine, **RULES)
    child = compfast.train(None, tmp_path / "child", start_from=stopped.path)
    assert_goes_on(whole, child, 15)
    assert child.members["steps"].n_unique() > 1
    assert (child.members["verdict"] == "diverged").sum() == 4


def test_what_was_forgotten_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = stopped_at(tmp_path, 15)
    monkeypatch.setattr(inherited, "_WINDOWS", ())
    child = compfast.train(None, tmp_path / "child", start_from=stopped.path)
    with pytest.raises(AssertionError):
        assert_goes_on(whole, child, 15)


def test_a_longer_training_stretches_the_schedule(engine: str, tmp_path: Path) -> None:
    """A constant rate is the same for any number of steps: then nothing else changes."""
    long = small_config(engine=engine, steps=60)
    steady = dataclasses.replace(long.optimizer, schedule="constant")
    long = dataclasses.replace(long, optimizer=steady)
    short = dataclasses.replace(long, training=dataclasses.replace(long.training, steps=40))
    whole = compfast.train(long, tmp_path / "whole")
    parent = compfast.train(short, tmp_path / "short")

    child = compfast.train({"training": {"steps": 60}}, tmp_path / "child", start_from=parent.path)

    assert child.metrics["loss"].equals(whole.metrics.filter(whole.metrics["step"] > 40)["loss"])
    for member in range(3):
        for name, array in whole.params(member).items():
            assert array.tobytes() == child.params(member)[name].tobytes(), name


def test_the_first_row_of_a_window_that_began_before_is_of_its_own_steps(tmp_path: Path) -> None:
    whole = compfast.train(small_config(log_every=1, steps=50), tmp_path / "whole")
    parent = compfast.train(small_config(steps=46), tmp_path / "parent")
    changes = {"training": {"steps": 50}}
    child = compfast.train(changes, tmp_path / "child", start_from=parent.path)
    loss = child.metrics.filter(child.metrics["step"] == 50)["loss"]
    assert loss.is_not_null().all()
    assert np.isfinite(loss.to_numpy()).all()
    assert whole.finished


CHANGES: list[dict[str, Any]] = [
    {"optimizer": {"lr": 1e-4, "weight_decay": 0.0, "schedule": "linear", "clip": 0.5}},
    {"training": {"batch_size": 6, "log_every": 7, "eval_every": 4}},
    {"task": {"item_high": 30}},
    {"evaluation": {"seen_items": 30}},
    {"sweep": {"data_seed": [9]}},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_what_may_change(changes: dict[str, Any], engine: str, tmp_path: Path) -> None:
    parent = interrupted_at(tmp_path / "parent", small_config(engine=engine), 20)
    child = compfast.train(changes, tmp_path / "child", start_from=parent.path)
    assert child.finished
    assert child.members["steps"].to_list() == [46] * 3
    assert child.metrics["step"].min() > 20
    assert child.members["verdict"].null_count() == 0
    assert child.config.model.vocab_size == (48 if "task" in changes else None)
    again = compfast.train(child.config, child.path, resume=True)
    assert_same_run(child, again)


def test_a_stop_rule_that_changed_lets_the_frozen_go_on_where_they_stood(tmp_path: Path) -> None:
    whole = compfast.train(small_config(**{**RULES, "stop_stable": 0}), tmp_path / "whole")
    parent = interrupted_at(tmp_path / "parent", small_config(**RULES), 30)
    assert 15 in parent.members["steps"].to_list()
    changes = {"training": {"stop_stable": 0}}
    child = compfast.train(changes, tmp_path / "child", start_from=parent.path)
    ours, theirs = saved_arrays(child), saved_arrays(whole)
    for name in (n for n in theirs if "/progress/" not in n):
        assert ours[name].tobytes() == theirs[name].tobytes(), name


def test_a_snapshot_has_weights_only(engine: str, tmp_path: Path) -> None:
    """Moments begin at zero, and bias corrections with them: the first step is as long as ever."""
    config = small_config(engine=engine, run={"snapshots": (20,)})
    parent = compfast.train(config, tmp_path / "parent")
    steady = {"lr": 1e-3, "schedule": "constant", "weight_decay": 0.0}
    changes = {"optimizer": steady, "training": {"log_every": 1}, "run": {"snapshots": (21,)}}

    child = compfast.train(changes, tmp_path / "child", start_from=f"{parent.path}@20")

    assert child.metrics["step"].min() == 21
    moved = np.abs(child.params(0, 21)["head.weight"] - parent.params(0, 20)["head.weight"])
    assert np.quantile(moved, 0.9) == pytest.approx(1e-3, rel=0.01)
    # One that starts from there has moments of the same age.
    half = interrupted_at(tmp_path / "half", child.config, 30)
    assert_goes_on(child, compfast.train(None, tmp_path / "grand", start_from=half.path), 30)


def test_members_that_had_stopped_before_a_snapshot(tmp_path: Path) -> None:
    config = small_config(**RULES, run={"snapshots": (0, 20)})
    parent = compfast.train(config, tmp_path / "parent")
    before = [steps if steps < 20 else 46 for steps in parent.members["steps"]]
    child = compfast.train(
        {"training": {"eval_every": 40}}, tmp_path / "b", start_from=f"{parent.path}@20"
    )
    assert child.members["steps"].to_list() == before
    stayed = [i for i, steps in enumerate(before) if steps < 20]
    assert child.members[stayed, "verdict"].equals(parent.members[stayed, "verdict"])
    assert compfast.train(None, tmp_path / "c", start_from=f"{parent.path}@0").finished


def test_restart_takes_the_weights_alone(engine: str, tmp_path: Path) -> None:
    parent = compfast.train(small_config(engine=engine, **RULES), tmp_path / "parent")
    changes = {
        "start": {"mode": "restart"},
        "optimizer": {"kind": "sgd"},
        "run": {"snapshots": [0]},
    }
    child = compfast.train(changes, tmp_path / "child", start_from=parent.path)
    lost = (parent.members["verdict"] == "diverged").to_list()
    assert child.members["steps"].to_list() == [0 if gone else 30 for gone in lost]
    assert (child.members["verdict"] == "diverged").to_list() == lost
    assert set(child.metrics["member"]) == {i for i, gone in enumerate(lost) if not gone}
    assert child.metrics["step"].min() == 0
    for name, array in parent.params(0).items():
        assert child.params(0, 0)[name].tobytes() == array.tobytes(), name


def test_another_engine_may_go_on(tmp_path: Path) -> None:
    parent = interrupted_at(tmp_path / "parent", small_config(engine="eager"), 40)
    child = compfast.train({"run": {"engine": "native"}}, tmp_path / "b", start_from=parent.path)
    whole = resumed(parent.path)
    for name, array in whole.params(1).items():
        assert np.allclose(child.params(1)[name], array, atol=1e-4), name


def test_a_killed_child_goes_on_without_its_parent(engine: str, tmp_path: Path) -> None:
    whole, stopped = stopped_at(tmp_path, 15, engine=engine)
    config = dataclasses.replace(stopped.config, start={"run": str(stopped.path)})  # type: ignore[arg-type]
    child = interrupted_at(tmp_path / "child", config, 20)
    shutil.rmtree(stopped.path)
    assert_goes_on(whole, compfast.train(config, child.path, resume=True), 15)


def test_killed_before_its_first_checkpoint_it_needs_the_same_parent(tmp_path: Path) -> None:
    whole, stopped = stopped_at(tmp_path, 15)
    child = interrupted_at(
        tmp_path / "child",
        dataclasses.replace(whole.config, start={"run": str(stopped.path)}),
        20,  # type: ignore[arg-type]
    )
    (child.path / "tables.safetensors").unlink()
    shutil.rmtree(child.path / "checkpoints")
    shutil.copytree(child.path, tmp_path / "other")
    assert_goes_on(whole, compfast.train(None, child.path, resume=True), 15)

    manifest = stopped.path / "checkpoints" / "000003" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b" ")
    with pytest.raises(compfast.StorageError, match="another step 15 than this run started from"):
        compfast.train(None, tmp_path / "other", resume=True)
    shutil.rmtree(stopped.path)
    with pytest.raises(compfast.UsageError, match="stop is not a run folder"):
        compfast.train(None, tmp_path / "other", resume=True)


def test_saved_at_once_the_child_needs_nobody(tmp_path: Path) -> None:
    whole, stopped = stopped_at(tmp_path, 15)

    class Stop(compfast.Callback):
        def on_start(self, run: Run, outline: Any) -> None:
            shutil.rmtree(stopped.path)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compfast.train(None, tmp_path / "child", [Stop()], start_from=stopped.path)
    assert numbers(tmp_path / "child") == [1]
    assert_goes_on(whole, compfast.train(None, tmp_path / "child", resume=True), 15)


def test_shards_of_a_child_are_merged(tmp_path: Path) -> None:
    """Of a parent whose members of one shard have all stopped."""
    snapshots = {"run": {"snapshots": (10, 40)}}
    whole, stopped = stopped_at(tmp_path, 30, **RULES, **snapshots)
    parts = []
    for i in range(8):
        changes = {"run": {"shard": [i, 8]}}
        part = (
            compfast.train(changes, tmp_path / f"part{i}", start_from=stopped.path)
            if i not in (2, 3, 6, 7)
            else None
        )
        if part is None:
            with pytest.raises(compfast.AllDivergedError):
                compfast.train(changes, tmp_path / f"part{i}", start_from=stopped.path)
        parts.append(tmp_path / f"part{i}")
    merged = compfast.merge(parts, tmp_path / "merged")
    assert merged.members.equals(whole.members)
    assert merged.config.start.run == str(stopped.path)
    for member in range(8):
        for name, array in whole.params(member, 40).items():
            assert merged.params(member, 40)[name].tobytes() == array.tobytes(), name


def test_a_shard_is_a_parent_of_its_own_members(tmp_path: Path) -> None:
    config = small_config(sweep=SWEEP, run={"shard": (1, 3)})
    parent = interrupted_at(tmp_path / "parent", config, 20)
    child = compfast.train(None, tmp_path / "child", start_from=parent.path)
    assert_goes_on(resumed(parent.path), child, 20)
    with pytest.raises(compfast.UsageError, match="holds members 2 to 3, not member 0"):
        compfast.train({"run": {"shard": [0, 1]}}, tmp_path / "b", start_from=parent.path)


@pytest.mark.usefixtures("unhurried")
def test_a_sweep_on_a_cluster_starts_from_a_run(tmp_path: Path) -> None:
    whole, stopped = stopped_at(tmp_path, 20, sweep=SWEEP)
    config = dataclasses.replace(stopped.config, start={"run": str(stopped.path)})  # type: ignore[arg-type]
    run = sweep(config, tmp_path / "sweep", Fake({1: 1}))
    assert_goes_on(whole, run, 20)
    assert run.config.start.step == 20


def test_the_newest_checkpoint_or_the_step_that_is_named(tmp_path: Path) -> None:
    parent = interrupted_at(tmp_path / "a@7", small_config(), 20)
    steps = [checkpoints.event_of(p) for p in checkpoints.numbered(parent.path / "checkpoints")]
    assert steps == [14, 20]
    child = compfast.train(None, tmp_path / "b", start_from=parent.path)
    older = compfast.train(None, tmp_path / "c", start_from=f"{parent.path}@14")
    assert [run.config.start.step for run in (child, older)] == [20, 14]
    assert older.members.equals(child.members)
    assert older.metrics["step"].min() == 15


def _config(parent: Run, **sections: Any) -> Config:
    start = {"run": str(parent.path), **sections.pop("start", {})}
    return dataclasses.replace(parent.config, start=start, **sections)  # type: ignore[arg-type]
