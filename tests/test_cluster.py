"""The driver of a sweep over workers that die on cue; Ray itself is in test_ray.py."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from small_runs import assert_same_run, small_config
from sweeps import SWEEP, Died, Fake, Notes, answer, beside

import compfast
from compfast.cluster import driver, sweep
from compfast.cluster import store as stores
from compfast.cluster.on_ray import _refuse_silence
from compfast.cluster.part import Answer
from compfast.ensemble import main
from compfast.runs.reading import Run
from compfast.storage import durable

pytestmark = pytest.mark.usefixtures("unhurried")


@pytest.mark.parametrize("by_hand", [False, True])
def test_parts_that_a_killed_driver_left_are_removed(
    by_hand: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the merge and the removal."""
    out = tmp_path / "sweep"
    with monkeypatch.context() as patch:
        patch.setattr(stores.LocalStore, "remove", _die_at_the_whole)
        with pytest.raises(Died):
            sweep(small_config(sweep=SWEEP), out, Fake())
    assert len(beside(out)) == 2
    if by_hand:
        assert sweep(None, out, Fake(), resume=True).finished
    else:
        assert main(["--resume", str(out), "--cluster", "ray", "--quiet"]) == 0
    assert beside(out) == ["sweep"]


def _die_at_the_whole(store: Any, name: str) -> None:
    if name == "":
        raise Died
    durable.discard(store.folder / name)


def test_a_sweep_is_one_process_s_run(place: str, whole_sweep: Run, tmp_path: Path) -> None:
    cluster, notes = Fake({0: 2, 3: 1}), Notes()
    out = tmp_path / "sweep"
    run = sweep(small_config(sweep=SWEEP), out, cluster, [notes], place=place)
    assert_same_run(whole_sweep, run)
    assert sorted(cluster.started) == [0, 0, 0, 1, 2, 3, 3, 4, 5]
    assert sorted(notes.notes) == ["part 0 is tried again: its worker died"] * 2 + [
        "part 3 is tried again: its worker died"
    ]
    assert notes.ticks[-1] == (6 * 46, 6 * 46)
    assert beside(out) == ["sweep"]
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) == [
        "checkpoints", "config.json", "members.parquet", "metrics", "report", "snapshots",
        "tables.safetensors",
    ]  # fmt: skip
    assert sweep(None, out, cluster, resume=True).path == out  # finished: nothing is done
    assert len(cluster.started) == 9


def test_a_stopped_sweep_goes_on(whole_sweep: Run, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    with pytest.raises(compfast.Interrupted, match=r"stopped with 3 of 6 parts done; continue"):
        sweep(small_config(sweep=SWEEP), out, Fake(signal_at=2))
    assert not compfast.load(out).finished
    with pytest.raises(compfast.UsageError, match="was started on a cluster"):
        compfast.train(None, out, resume=True)
    with pytest.raises(compfast.UsageError, match="was started with its parts in"):
        sweep(None, out, Fake(), resume=True, place="elsewhere")
    rest = Fake()
    assert_same_run(whole_sweep, sweep(None, out, rest, resume=True))
    assert sorted(rest.started) == [3, 4, 5]
    assert beside(out) == ["sweep"]


def test_a_part_that_always_fails_ends_the_sweep(
    whole_sweep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "TRIES", 3)
    out = tmp_path / "sweep"
    with pytest.raises(compfast.StorageError, match=r"part 2 of .* failed 3 times.*worker died"):
        sweep(small_config(sweep=SWEEP), out, Fake({2: 99}))
    assert_same_run(whole_sweep, sweep(None, out, Fake(), resume=True))


def test_every_member_diverged(tmp_path: Path) -> None:
    config = small_config(sweep=(("optimizer.lr", (1e30, 2e30)),))
    with pytest.raises(compfast.AllDivergedError, match=r"every member \(2 of 2\)"):
        sweep(config, tmp_path / "sweep", Fake())
    assert compfast.load(tmp_path / "sweep").finished


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([], "no node of the cluster has 1 CPU"),
        ([answer("a", "", (), "it is full")], "node a cannot take part: it is full"),
        (
            [answer("a", "v4", ("generic", "v3", "v4")), answer("b", "v3", ("generic", "v3"))],
            r"different bits: 1 with native v3, .* b \(CPU\); 1 with native v4, compfast 1, e.g. a"
            r" \(CPU\); set COMPFAST_ISA=v3, which all run",
        ),
    ],
)
def test_clusters_that_cannot_promise_the_bits(
    answers: list[Answer], said: str, tmp_path: Path
) -> None:
    cluster = Fake()
    cluster.answers = answers
    with pytest.raises(compfast.UsageError, match=said):
        sweep(small_config(sweep=SWEEP), tmp_path / "sweep", cluster)
    assert beside(tmp_path / "sweep") == []
    sharded = small_config(sweep=SWEEP, run={"shard": (0, 2)})
    with pytest.raises(compfast.UsageError, match="--shard or --cluster, not both"):
        sweep(sharded, tmp_path / "sweep", cluster)


def test_a_sweep_goes_on_with_its_own_instruction_set(tmp_path: Path) -> None:
    out, cluster = tmp_path / "sweep", Fake(signal_at=1)
    with pytest.raises(compfast.Interrupted):
        sweep(small_config(sweep=SWEEP), out, cluster)
    rest = Fake()
    rest.answers = [answer("a", "other", ("other",))]
    with pytest.raises(compfast.UsageError, match=r"with native \(other\), which gives other bits"):
        sweep(None, out, rest, resume=True)


def test_flags(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    argv = ["--models", "2", "--gamma-range", "0.3:0.7", "--out", str(tmp_path / "run")]
    for more, said in (
        (["--cluster", "slurm"], "--cluster is 'slurm'; it must be ray or ray:ADDRESS"),
        (["--cluster", "ray:"], "--cluster is 'ray:'"),
        (["--cluster", "ray:ray://head:10001"], "the driver runs on a node of the cluster"),
        (["--storage", "/x"], "it needs --cluster ray"),
    ):
        assert main([*argv, *more]) == 2
        assert said in capsys.readouterr().err


def test_an_address_where_nothing_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, so nobody else's, but it does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(compfast.UsageError, match=f"no Ray cluster answers at {address}"):
            _refuse_silence(address)
        taken.listen()
        _refuse_silence(address)
    _refuse_silence("auto")


def test_without_ray(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    argv = ["--models", "2", "--gamma-range", "0.3:0.7", "--out", str(tmp_path / "run")]
    assert main([*argv, "--cluster", "ray", "--quiet"]) == 2
    assert "pip install 'compfast[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
