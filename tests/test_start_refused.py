"""What a run cannot start from, each in one sentence and before anything is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_lines import SMALL, refused
from fault_tools import fast_disk
from small_runs import interrupted_at, small_config

import compfast
from compfast.ensemble import main
from compfast.runs.parents import Parent, parse_start, starting
from compfast.runs.reading import Run
from compfast.training.start import resolved

pytestmark = pytest.mark.usefixtures("fast_disk")


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Stopped at step 20 of 26, with a snapshot of step 12; nobody may change it."""
    config = small_config(steps=26, run={"snapshots": (12,)})
    with fast_disk():
        return interrupted_at(tmp_path_factory.mktemp("parent") / "run", config, 20)


@pytest.fixture
def harmed(parent: Run, tmp_path: Path) -> Run:
    """A copy of it."""
    shutil.copytree(parent.path, tmp_path / "harmed")
    return compfast.load(tmp_path / "harmed")


def sentence(
    kind: type[compfast.CompfastError], place: Any, out: Path, changes: dict[str, Any] | None = None
) -> str:
    with pytest.raises(kind) as caught:
        compfast.train(changes, out, start_from=place)
    assert not out.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"model": {"d_ff": 24}}, "model.d_ff of member 0 is 24, in RUN 16; weights keep"),
    ({"model": {"activation": "relu", "d_model": 12}}, "model.d_model of member 0 is 12, in RUN 8"),
    ({"model": {"heads": 2}}, "model.heads of member 0 is 2, in RUN 1"),
    ({"model": {"tied_head": True}}, "model.tied_head of member 0 is True, in RUN False"),
    ({"task": {"item_high": 200}}, "model.vocab_size of member 0 is 224, in RUN 112"),
    ({"task": {"seq_len": 12}}, "model.max_positions of member 0 is 12, in RUN 9"),
    ({"init": {"gamma": 0.9}}, "init.gamma of member 0 is 0.9, in RUN 0.5; its weights are there"),
    ({"sweep": {"seed": [4, 5, 6]}}, "init_seed of member 0 is 4, in RUN 0"),
    ({"sweep": {"seed": [0, 1]}}, "this run would have 2 members, RUN has 3"),
    ({"optimizer": {"kind": "sgd"}}, "optimizer.kind of member 0 is sgd, in RUN adamw"),
    ({"training": {"steps": 20}}, "training.steps is 20 and RUN stands at step 20, so that noth"),
    ({"run": {"snapshots": [40]}}, "run.snapshots has step 40; training ends at step 26"),
    ({"start": {"mode": "again"}}, "start.mode is 'again'; it must be one of go_on, restart"),
]


@pytest.mark.edge("a run to start from that is damaged, gone, or of other shapes", "one sentence")
@pytest.mark.parametrize(("changes", "said"), CHANGES)
def test_settings_that_do_not_fit(
    changes: dict[str, Any], said: str, parent: Run, tmp_path: Path
) -> None:
    told = sentence(compfast.UsageError, parent.path, tmp_path / "child", changes)
    assert told.replace(str(parent.path), "RUN").startswith(said)


@pytest.mark.edge("a run to start from that is damaged, gone, or of other shapes", "one sentence")
def test_places_that_are_not_there(parent: Run, tmp_path: Path) -> None:
    out = tmp_path / "child"
    told = sentence(compfast.UsageError, f"{parent.path}@13", out)
    assert told.endswith(
        "has nothing of step 13; it has checkpoints of steps 14, 20 and snapshots of steps 12"
    )
    told = sentence(compfast.UsageError, tmp_path / "absent", out)
    assert told == f"{tmp_path}/absent is not a run folder: it has no config.json"
    assert "is not a run folder" in sentence(compfast.UsageError, f"{parent.path}@last", out)
    with pytest.raises(compfast.UsageError, match=r"start\.step is 3, but start\.run names no run"):
        compfast.train({"start": {"step": 3}}, out)
    with pytest.raises(compfast.UsageError, match="64 hexadecimal digits"):
        compfast.train({"start": {"run": "a", "digest": "f00"}}, out)
    with pytest.raises(compfast.UsageError, match="start_from is not needed"):
        compfast.train(None, parent.path, resume=True, start_from=parent.path)


def test_a_run_without_a_checkpoint(harmed: Run, tmp_path: Path) -> None:
    shutil.rmtree(harmed.path / "checkpoints")
    told = sentence(compfast.UsageError, harmed.path, tmp_path / "child")
    assert told.endswith("has no checkpoint yet to start from; "
        f"{harmed.path}@STEP starts from snapshots of steps 12")  # fmt: skip
    assert compfast.train(None, tmp_path / "child", start_from=f"{harmed.path}@12").finished


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)


@pytest.mark.edge("a run to start from that is damaged, gone, or of other shapes", "one sentence")
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda c: _flip(c / "group-000" / "params.safetensors"), "params.safetensors is damaged"),
        (lambda c: _flip(c / "group-000" / "optimizer.safetensors"), "optimizer.safetensors"),
        (lambda c: _flip(c / "manifest.json"), "manifest.json is"),
        (lambda c: (c / "state.json").unlink(), "state.json"),
        (lambda c: _flip(c.parents[1] / "tables.safetensors"), "tables.safetensors is damaged"),
    ],
)
def test_a_damaged_checkpoint(
    harm: Callable[[Path], None], said: str, harmed: Run, tmp_path: Path
) -> None:
    assert harmed.checkpoint is not None
    harm(harmed.checkpoint.path)
    out = tmp_path / "child"
    assert said in sentence(compfast.StorageError, harmed.path, out)
    if "tables" not in said:  # an older one is taken when it is asked for, not instead
        assert compfast.train(None, out, start_from=f"{harmed.path}@14").finished


@pytest.mark.edge("a run to start from that is damaged, gone, or of other shapes", "one sentence")
def test_a_parent_in_training_that_removes_the_checkpoint(
    harmed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = Parent.verify

    def late(self: Parent) -> None:
        shutil.rmtree(self.folder)
        verify(self)

    monkeypatch.setattr(Parent, "verify", late)
    told = sentence(compfast.StorageError, harmed.path, tmp_path / "child")
    assert told.endswith("at step 20: it is being trained and removed this checkpoint")


def test_a_parent_in_training_is_left_alone(tmp_path: Path) -> None:
    made: list[Run] = []

    class Branch(compfast.Callback):
        def on_checkpoint(self, path: Path) -> None:
            if path.name == "000002":
                out = tmp_path / "child"
                made.append(compfast.train(None, out, start_from=tmp_path / "parent"))

    whole = compfast.train(small_config(steps=26), tmp_path / "parent", [Branch()])
    assert made[0].config.start.step == 14
    assert made[0].members.equals(whole.members)


def test_a_parent_in_which_nobody_is_left(tmp_path: Path) -> None:
    config = small_config(steps=26, stop_loss=9.0)
    run = compfast.train(config, tmp_path / "parent")
    told = sentence(compfast.UsageError, run.path, tmp_path / "b")
    assert "has stopped or diverged, so that nothing is left to train" in told


def test_a_folder_s_own_name_may_hold_a_step(parent: Run, tmp_path: Path) -> None:
    shutil.copytree(parent.path, tmp_path / "a@12")
    assert parse_start(tmp_path / "a@12") == (f"{tmp_path}/a@12", None)
    assert parse_start(f"{tmp_path}/a@12@14") == (f"{tmp_path}/a@12", 14)


def test_a_resolved_config_resolves_to_itself(parent: Run) -> None:
    config = resolved(starting(None, f"{parent.path}@12"))
    assert config.start.step == 12
    assert config.run.snapshots == ()
    assert resolved(config) == config


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the command line: 12 steps, checkpoints of 10 and 12, snapshot of 3."""
    out = tmp_path_factory.mktemp("typed") / "run"
    with fast_disk():
        assert main([*SMALL, "--out", str(out), "--snapshots", "3", "--quiet"]) == 0
    return out


def test_the_command_line(typed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The parent's settings hold where no flag says otherwise, and the plan says what is taken."""
    out, common = str(tmp_path / "child"), ["--start-from", str(typed)]
    assert main([*common, "--steps", "20", "--lr", "1e-4", "--out", out]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"starts from {typed} at step 12: weights and moments"
    child, own = compfast.load(out), compfast.load(typed)
    assert child.config.sweep == own.config.sweep
    assert (child.config.training.steps, child.config.optimizer.lr) == (20, 1e-4)
    assert child.config.optimizer.weight_decay == own.config.optimizer.weight_decay
    assert main(["--resume", out, *common, "--quiet"]) == 0
    assert "which was started with 12" in refused(
        capsys, "--resume", out, "--start-from", f"{typed}@10"
    )
    assert "contradicts" in refused(capsys, "--resume", out, "--start-mode", "restart")


def test_what_the_plan_says(
    typed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(*argv: str) -> str:
        assert main([*argv, "--steps", "20", "--dry-run", "--out", str(tmp_path / "b")]) == 0
        return capsys.readouterr().out.splitlines()[1].replace(str(typed), "RUN")

    snapshot = line("--start-from", f"{typed}@3", "--engine", "eager")
    assert snapshot.startswith(
        "starts from RUN at step 3, a snapshot: weights only, so that moments begin at zero;"
        " trained until there by the native engine ("
    )
    fresh = line("--start-from", str(typed), "--start-mode", "restart")
    assert fresh == "starts at step 0 with the weights of RUN at step 12 and zero moments"
    file = tmp_path / "a.toml"
    file.write_text(f'[start]\nrun = "{typed}"\nmode = "restart"\n[optimizer]\nlr = 1e-4\n')
    assert line("--config", str(file)) == fresh
    assert line("--set", f"start.run={typed}", "--set", "start.mode=restart") == fresh


def test_what_the_command_line_refuses(
    typed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--start-from", str(typed), "--out", str(tmp_path / "child")]
    assert "the settings are those of" in refused(capsys, *common, "--preset", "tiny")
    assert "give more steps, or start.mode restart" in refused(capsys, *common)
    assert "this run would have 8 members" in refused(capsys, *common, "--seeds", "4")
    assert "start.run names no run" in refused(
        capsys, *SMALL, "--start-mode", "go_on", "--set", "start.step=3"
    )
