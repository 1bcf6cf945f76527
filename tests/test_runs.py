"""The run folder as a user meets it: what it holds, what load gives, what is refused."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from small_runs import assert_same_run, interrupted_at, numbers, small_config

import compfast
from compfast.config import Config
from compfast.engines import make_engine
from compfast.ensembles.schedule import make_tables
from compfast.runs import folder
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run
from compfast.storage import durable, tensorfile
from compfast.storage.durable import Lock
from compfast.tasks.scoring import AnswerExam

SWEEP: Any = (("init.gamma", (0.4, 0.8)), ("seed", (5, 6, 7)))


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compfast.storage.durable.sync", lambda descriptor: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = small_config(sweep=SWEEP, run={"snapshots": (0, 33)})
    return compfast.train(config, tmp_path_factory.mktemp("runs") / "run")


def test_the_folder_holds_what_the_contract_says(run: Run) -> None:
    entries = sorted(p.relative_to(run.path).as_posix() for p in run.path.iterdir())
    assert entries == [
        ".lock",
        "checkpoints",
        "config.json",
        "members.parquet",
        "metrics",
        "report",
        "snapshots",
        "tables.safetensors",
    ]
    assert numbers(run.path) == [6, 7]
    checkpoint = run.path / "checkpoints" / "000007"
    files = sorted(p.relative_to(checkpoint).as_posix() for p in checkpoint.rglob("*.*"))
    assert files == [
        "group-000/optimizer.safetensors",
        "group-000/params.safetensors",
        "group-000/progress.safetensors",
        "manifest.json",
        "state.json",
    ]
    assert not list(run.path.rglob("*.pkl")) + list(run.path.rglob("*.pt"))


def test_config_json_says_what_ran(run: Run) -> None:
    info = json.loads((run.path / "config.json").read_text())
    assert compfast.load(run.path).config == run.config
    assert info["engine"] == "native"
    assert info["isa"]
    assert info["versions"]["torch"] == torch.__version__
    assert info["versions"]["python"].split(".")[:2] == [str(n) for n in sys.version_info[:2]]
    assert info["command"] == sys.argv
    assert info["commit"] is None or len(info["commit"]) == 40


def test_config_json_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets: list[str] = []
    original = durable.rename

    def rename(source: Path, target: Path) -> None:
        targets.append(target.name)
        original(source, target)

    monkeypatch.setattr("compfast.storage.durable.rename", rename)
    compfast.train(small_config(), tmp_path / "run")
    assert targets[:2] == ["config.json", "tables.safetensors"]


def test_members_carry_their_spec_and_their_result(run: Run) -> None:
    members = run.members
    assert members.columns[:3] == ["member", "gamma", "seed"]
    columns = ["verdict", "seen", "inferential", "symmetric", "other", "steps", "group", "row"]
    assert members.columns[-8:] == columns
    assert members.select("member", "gamma", "seed").rows() == [
        (i, gamma, seed)
        for i, (gamma, seed) in enumerate((g, s) for g in (0.4, 0.8) for s in (5, 6, 7))
    ]
    for name, value in {"task": "anchor", "layers": 1, "d_model": 8, "total_steps": 46}.items():
        assert members[name].unique().to_list() == [value]
    assert members["d_k"].to_list() == [8] * 6
    assert not [name for name, kind in members.schema.items() if kind == pl.Null]


def test_parameters_come_by_member_name_and_step(run: Run) -> None:
    file = run.path / "checkpoints" / "000007" / "group-000" / "params.safetensors"
    stacked = tensorfile.read(file)
    params = run.params(4)
    assert params.keys() == stacked.keys()
    assert all(np.array_equal(params[name], stacked[name][4]) for name in stacked)
    assert run.snapshots == [0, 33]
    start = run.params(4, step=0)
    specs = run.groups[0]
    engine = make_engine("native", specs, make_tables(specs), threads=1)
    engine.initialise()
    fresh = engine.state().params
    assert all(np.array_equal(start[name], fresh[name][4]) for name in start)


def test_a_model_answers_as_its_engine_did(run: Run) -> None:
    exam = exams_of(run.groups)[0]
    model = run.model(2)
    assert not model.training
    tokens = torch.from_numpy(exam.inputs).long()
    with torch.no_grad():
        logits = model(tokens)
    assert logits.shape == (*tokens.shape, 112)
    answers = logits[:, -1].argmax(-1).numpy()
    assert isinstance(exam, AnswerExam)
    seen = (answers[exam.seen] == exam.seen_targets).mean()
    assert seen == run.members["seen"][2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.params(6), "member 6 is not in .*; it holds 0 to 5"),
        (lambda run: run.params(0, step=10), "no snapshot of step 10; it has 0, 33"),
        (lambda run: compfast.load(run.path / "metrics"), "is not a run folder"),
        (lambda run: compfast.train(run.config, run.path), "is not empty; .* --resume"),
        (lambda run: compfast.train(run.config, run.path / "config.json"), "is a file"),
        (lambda run: compfast.train(None, run.path), "needs a config"),
        (lambda run: compfast.train(run.config, resume=True), "needs the folder"),
    ],
)
def test_misuse_is_one_sentence(run: Run, call: Any, message: str) -> None:
    with pytest.raises(compfast.UsageError, match=message):
        call(run)


def test_a_snapshot_after_the_end_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(
        compfast.UsageError, match="snapshots has step 47; training ends at step 46"
    ):
        compfast.train(small_config(run={"snapshots": (47,)}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("path", ["/dev/null/run", "/proc/run"])
def test_a_place_that_cannot_be_written_is_a_storage_error(path: str) -> None:
    with pytest.raises(compfast.StorageError, match=f"cannot create {path}: "):
        compfast.train(small_config(), path)


def test_a_finished_run_is_left_untouched(run: Run) -> None:
    def listing() -> list[tuple[str, int, int]]:
        files = [p for p in sorted(run.path.rglob("*")) if p.is_file()]
        return [(str(p), p.stat().st_mtime_ns, p.stat().st_ino) for p in files]

    before = listing()
    again = compfast.train(None, run.path, resume=True)
    assert listing() == before
    assert_same_run(run, again)


def _with_run(**changes: Any) -> Any:
    return lambda c: dataclasses.replace(c, run=dataclasses.replace(c.run, **changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: dataclasses.replace(c, model=dataclasses.replace(c.model, layers=2)),
            r"another \[model\]: layers 1, not 2",
        ),
        (lambda c: dataclasses.replace(c, sweep=(("seed", (1,)),)), r"another \[sweep\]"),
        (_with_run(engine="eager"), "started with engine native; it cannot go on with eager"),
        (_with_run(shard=(0, 2)), "started with shard"),
    ],
)
def test_a_contradiction_on_resume_is_refused(run: Run, change: Any, message: str) -> None:
    with pytest.raises(compfast.UsageError, match=message):
        compfast.train(change(run.config), run.path, resume=True)


def test_what_may_change_on_resume(run: Run) -> None:
    free = _with_run(threads=2, checkpoint_every=9, quiet=True, snapshots=(5,), report_every=3)
    assert compfast.train(free(run.config), run.path, resume=True).finished


def test_a_run_in_use_is_refused(tmp_path: Path) -> None:
    started = interrupted_at(tmp_path / "run", small_config(), 20)
    lock = Lock(started.path)
    with pytest.raises(compfast.StorageError, match="in use by another process"):
        compfast.train(None, started.path, resume=True)
    lock.release()
    assert compfast.train(None, started.path, resume=True).finished


def test_another_instruction_set_is_refused(tmp_path: Path) -> None:
    started = interrupted_at(tmp_path / "run", small_config(), 20)
    info = json.loads((started.path / "config.json").read_text())
    (started.path / "config.json").write_text(json.dumps({**info, "isa": "other"}))
    with pytest.raises(compfast.StorageError, match=r"config\.json .*its manifest says"):
        compfast.train(None, started.path, resume=True)
    for saved in (started.path / "checkpoints").iterdir():
        for file in sorted(saved.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        saved.rmdir()
    with pytest.raises(compfast.UsageError, match="set COMPFAST_ISA=other"):
        compfast.train(None, started.path, resume=True)


def test_many_parts_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compfast.train(small_config(), tmp_path / "whole")
    monkeypatch.setattr(folder, "MERGE_AT", 3)
    run = compfast.train(small_config(), tmp_path / "run")
    assert_same_run(whole, run)
    parts = sorted(p.name for p in (run.path / "metrics").iterdir())
    assert len(parts) < len(list((whole.path / "metrics").iterdir()))
    assert len(parts) <= 5


def test_before_the_first_checkpoint_there_is_little_to_load(tmp_path: Path) -> None:
    class Look(compfast.Callback):
        def on_start(self, run: Run, outline: Any) -> None:
            here = compfast.load(run.path)
            assert (here.finished, here.step, here.snapshots) == (False, 0, [])
            with pytest.raises(compfast.UsageError, match="no metrics yet"):
                _ = here.metrics
            with pytest.raises(compfast.UsageError, match="no checkpoint yet"):
                here.params(0)
            assert here.members["verdict"].to_list() == [None] * 3

    assert compfast.train(small_config(), tmp_path / "run", [Look()]).finished


def test_to_xarray_has_the_sweep_s_axes(run: Run) -> None:
    pytest.importorskip("xarray")
    data = run.to_xarray()
    assert dict(data.sizes) == {"gamma": 2, "seed": 3}
    assert data["gamma"].values.tolist() == [0.4, 0.8]
    row = run.members.row(4, named=True)
    cell = data.sel(gamma=0.8, seed=6)
    for name in ("member", "seen", "inferential", "verdict", "steps"):
        assert cell[name].item() == row[name]


def test_without_xarray_a_sentence_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = importlib.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if name == "xarray":
            raise ImportError(name)
        return original(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(compfast.UsageError, match="pip install xarray"):
        run.to_xarray()


def test_the_default_folder_names_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = (compfast.train(small_config(steps=2)) for _ in range(2))
    assert one.path != two.path
    assert one.path.parent == tmp_path / "runs"
    assert one.path.name.startswith("anchor-2")


def test_importing_and_native_training_load_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, compfast\n"
        "assert not {'torch', 'polars', 'numpy'} & set(sys.modules)\n"
        "assert set(compfast.__all__) <= set(dir(compfast))\n"
        "assert compfast.Config().run.engine == 'auto'\n"
        "import small_runs\n"
        f"compfast.train(small_runs.small_config(steps=2), {str(tmp_path / 'run')!r}).metrics\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=_environment())


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = compfast.trian
    assert all(hasattr(compfast, name) for name in compfast.__all__)
    assert compfast.Config is Config


@pytest.mark.parametrize("over", [False, True])
def test_two_that_begin_at_once_do_not_share_a_folder(
    over: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other comes, and may be over, between our look at the folder and our lock."""
    make_root, others = durable.make_root, []

    def late(path: Path) -> None:
        monkeypatch.setattr(durable, "make_root", make_root)
        others.append(folder.RunFolder.create(path, {"whose": "theirs"}))
        if over:
            others[0].close()
        make_root(path)

    monkeypatch.setattr(durable, "make_root", late)
    with pytest.raises(compfast.CompfastError, match="not empty" if over else "in use by another"):
        folder.RunFolder.create(tmp_path / "run", {"whose": "ours"})
    assert durable.read_json(tmp_path / "run" / "config.json") == {"whose": "theirs"}
    others[0].close()


def _environment() -> dict[str, str]:
    here = Path(__file__).parent
    return {**os.environ, "PYTHONPATH": f"{here.parent}{os.pathsep}{here}", "OMP_NUM_THREADS": "1"}
