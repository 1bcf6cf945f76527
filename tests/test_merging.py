"""Shards trained apart and merged are the run of one process, bit for bit; what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import assert_same_run, interrupted_at, small_config

import compfast
from compfast import merging
from compfast.cluster import merging as joining
from compfast.ensemble import main
from compfast.runs.reading import Run
from compfast.storage import durable, tensorfile

# Two shapes; stop rules and a member that diverges at once (lr 1e30).
SWEEP: Any = (("model.layers", (1, 2)), ("optimizer.lr", (1e-3, 1e30)), ("seed", (0, 1)))
SMALL = [
    "--models", "6", "--gamma-range", "0.3:0.9", "--seeds", "2", "--layers", "1", "--d-model", "8",
    "--batch-size", "4", "--steps", "3000", "--engine", "native",
    "--set", "evaluation.seen_items=16", "--set", "evaluation.unseen_items=16",
]  # fmt: skip
LIMIT = 240.0  # seconds; only to end a test that hangs
SNAPSHOTS = {"snapshots": (0, 12, 46)}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compfast.storage.durable.sync", lambda descriptor: None)


def trained(path: Path, i: int, n: int, **run: Any) -> Run:
    config = small_config(
        sweep=SWEEP,
        stop_stable=2,
        evaluation={"fitted": 0.0},
        run={**SNAPSHOTS, **run, "shard": (i, n)},
    )
    return compfast.train(config, path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("whole") / "run", 0, 1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three of uneven sizes, one with both shapes; saved at other steps than the whole."""
    folder = tmp_path_factory.mktemp("shards")
    runs = [trained(folder / f"{i}", i, 3, checkpoint_every=5 + i) for i in range(3)]
    assert [len(run.members) for run in runs] == [2, 3, 3]
    return [run.path for run in runs]


def test_merged_shards_are_the_whole(whole: Run, shards: list[Path], tmp_path: Path) -> None:
    verdicts = whole.members["verdict"].to_list()
    assert verdicts.count("diverged") == 4
    assert whole.members["steps"].n_unique() > 1
    run = compfast.merge([shards[2], shards[0], shards[1]], tmp_path / "merged")
    assert_same_run(whole, run)
    assert run.step == whole.step
    assert run.snapshots == whole.snapshots == [0, 12, 46]
    for step in run.snapshots:
        for member in range(8):
            one, other = run.params(member, step), whole.params(member, step)
            assert all(one[name].tobytes() == other[name].tobytes() for name in other)
    tables = [tensorfile.read(r.path / "tables.safetensors") for r in (run, whole)]
    assert all(tables[0][name].tobytes() == tables[1][name].tobytes() for name in tables[1])
    assert run.to_xarray()["verdict"].shape == (2, 2, 2)
    assert compfast.train(None, run.path, resume=True).finished


def test_a_row_out_of_place_is_noticed(
    whole: Run, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = joining._sources

    def swapped(*arguments: Any) -> Any:
        sources = original(*arguments)
        rows = sources[0][0].rows
        rows[0], rows[1] = rows[1], rows[0]
        return sources

    monkeypatch.setattr(joining, "_sources", swapped)
    run = compfast.merge(shards, tmp_path / "merged")
    with pytest.raises(AssertionError):
        assert_same_run(whole, run)


def files_of(path: Path) -> dict[str, int]:
    return {str(p.relative_to(path)): p.stat().st_mtime_ns for p in path.rglob("*") if p.is_file()}


def test_merging_again_changes_nothing(shards: list[Path], tmp_path: Path) -> None:
    run = compfast.merge(shards, tmp_path / "merged")
    before = files_of(run.path)
    assert_same_run(run, compfast.merge(shards[::-1], run.path))
    assert files_of(run.path) == before


def test_a_merge_that_was_cut_off_is_ended(
    whole: Run, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    original, renamed = durable.rename, 0

    def rename(source: Path, target: Path) -> None:
        nonlocal renamed
        renamed += 1
        if renamed > survived:
            raise Crash
        original(source, target)

    cut = 0
    for survived in range(1, 12):
        path, renamed = tmp_path / f"{survived}", 0
        with monkeypatch.context() as patch:
            patch.setattr(durable, "rename", rename)
            try:
                compfast.merge(shards, path)
            except Crash:
                cut += 1
        assert_same_run(whole, compfast.merge(shards, path))
    assert cut >= 6


def edited(path: Path, copy: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a part of which config.json, and so what it says of itself, is another."""
    shutil.copytree(path, copy)
    document = json.loads((copy / "config.json").read_text())
    change(document)
    (copy / "config.json").write_text(json.dumps(document))
    return copy


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(engine="eager"), "trained with engine native, .* with eager"),
        (lambda d: d.update(isa="other"), "trained with isa .* with other, which gives other bits"),
        (lambda d: d["versions"].update(compfast="9"), "with compfast .* with 9"),
        (
            lambda d: d["config"]["training"].update(steps=47),
            r"different configs: \[training\]: steps 46, not 47",
        ),
        (lambda d: d["config"]["run"].update(snapshots=[0]), r"different configs: \[run\] snap"),
        (lambda d: d["config"]["run"].update(shard=[1, 2]), "member 4 of .* in another part too"),
    ],
)
def test_parts_that_do_not_belong_together(
    change: Callable[[dict[str, Any]], None], said: str, shards: list[Path], tmp_path: Path
) -> None:
    other = edited(shards[2], tmp_path / "other", change)
    with pytest.raises(compfast.UsageError, match=said):
        compfast.merge([*shards[:2], other], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_gaps_overlaps_and_nothing(shards: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "merged"
    for given, said in (
        ([], "nothing to merge"),
        (shards[:2], "no part holds member 5; the sweep has 8"),
        (shards[1:], "no part holds member 0"),
        ([shards[0], shards[2]], "no part holds member 2"),
        ([*shards, shards[1]], "member 2 of .* is in another part too"),
    ):
        with pytest.raises(compfast.UsageError, match=said):
            compfast.merge(given, out)
    assert not out.exists()


def test_unfinished_and_damaged_parts(shards: list[Path], tmp_path: Path) -> None:
    sweep: Any = (("seed", (0, 1, 2)),)
    config = small_config(sweep=sweep, run={"shard": (0, 3)})
    stopped = interrupted_at(tmp_path / "stopped", config, 20)
    rest = [
        compfast.train(small_config(sweep=sweep, run={"shard": (i, 3)}), tmp_path / f"{i}").path
        for i in (1, 2)
    ]
    with pytest.raises(compfast.UsageError, match=r"stopped is not finished; go on with --resume"):
        compfast.merge([stopped.path, *rest], tmp_path / "out")
    for file in ("metrics/*.parquet", "checkpoints/*/group-000/params.safetensors"):
        copy = tmp_path / "damaged" / file.partition("/")[0]
        shutil.copytree(shards[0], copy)
        for path in copy.glob(file):
            content = bytearray(path.read_bytes())
            content[-9] ^= 1
            path.write_bytes(content)
        with pytest.raises(compfast.StorageError, match=r"cannot be merged: .*SHA-256"):
            compfast.merge([copy, *shards[1:]], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_out_is_another_run(shards: list[Path], whole: Run, tmp_path: Path) -> None:
    with pytest.raises(compfast.UsageError, match="holds another run"):
        compfast.merge(shards, whole.path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(compfast.UsageError, match="is not empty"):
        compfast.merge(shards, tmp_path)


def documented_task() -> str:
    """What docs/cluster.md gives SLURM to run, for four small tasks."""
    text = (Path(__file__).parent.parent / "docs" / "cluster.md").read_text()
    (task,) = re.findall(r"sbatch .* --wrap '(.*)'", text)
    large = "--models 4096 --gamma-range 0.1:1.5 --shard $SLURM_ARRAY_TASK_ID/64"
    assert large in task
    return str(task).replace(large, f"{' '.join(SMALL)} --shard $SLURM_ARRAY_TASK_ID/4")


def test_a_slurm_array_as_plain_processes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The documented line, one task of it killed and requeued, then the documented merge."""
    task = documented_task()
    (tmp_path / "map").mkdir()

    def start(i: int) -> subprocess.Popen[bytes]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        slurm = {"SLURM_ARRAY_TASK_ID": str(i), "SLURM_CPUS_PER_TASK": "1"}
        environment = {**os.environ, **slurm, "SHARED": str(tmp_path), "PATH": path}
        return subprocess.Popen(["sh", "-c", task], env=environment)

    processes = [start(i) for i in range(4)]
    while not (tmp_path / "map" / "part-2" / "tables.safetensors").exists():
        assert processes[2].poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    processes[2].kill()
    assert processes[2].wait(LIMIT) == -signal.SIGKILL
    processes[2] = start(2)
    assert [process.wait(LIMIT) for process in processes] == [0] * 4
    parts = [str(tmp_path / "map" / f"part-{i}") for i in range(4)]
    merged = tmp_path / "map" / "whole"
    command = [sys.executable, "-m", "compfast.merging", str(merged), *parts]
    subprocess.run(command, check=True, timeout=LIMIT)
    assert "leading" in capfd.readouterr().out
    assert (merged / "report" / "index.html").exists()
    assert main([*SMALL, "--threads", "1", "--quiet", "--out", str(tmp_path / "whole")]) == 0
    assert_same_run(compfast.load(tmp_path / "whole"), compfast.load(merged))
    assert merging.main([str(tmp_path / "none"), *parts[:3]]) == 2
    assert capfd.readouterr().err == "compfast: no part holds member 4; the sweep has 6\n"
