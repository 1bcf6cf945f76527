"""A sweep's parts and the places they are kept: a folder, fsspec's memory, an S3 server."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small_runs import assert_same_run, interrupted_at, small_config
from sweeps import SWEEP, Died, folders, go_on, job_at, stop_after

import compfast
from compfast.cluster import store as stores
from compfast.cluster.part import _Reporter, here, probe, run_part
from compfast.cluster.store import commit, committed, fetch, open_store
from compfast.config.settings import to_dict
from compfast.runs.reading import Run

pytestmark = pytest.mark.usefixtures("unhurried")


def test_files_of_a_store(place: str, tmp_path: Path) -> None:
    store = open_store(place)
    assert store.read("a.json") is None
    store.write("a.json", b"one")
    store.write("a.json", b"two")
    assert store.read("a.json") == b"two"
    (tmp_path / "file").write_bytes(b"x" * 9)
    store.put(tmp_path / "file", "folder/deep/file")
    store.get("folder/deep/file", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"x" * 9
    with pytest.raises(compfast.StorageError, match="cannot read"):
        store.get("folder/none", tmp_path / "none")
    store.remove("folder")
    store.remove("folder")
    assert store.read("folder/deep/file") is None
    store.remove("")
    assert store.read("a.json") is None


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(compfast.UsageError, match="the storage nowhere://x cannot be used"):
        open_store("nowhere://x")


def test_a_part_is_trained_once(place: str, whole_sweep: Run, tmp_path: Path) -> None:
    job, store = job_at(place), open_store(place)
    outcome = run_part(job, 1, go_on)
    assert (outcome.state, outcome.work) == ("done", 2 * 46)
    found = committed(store, 1)
    assert found is not None
    assert found.finished
    assert (
        found.verdicts == outcome.verdicts == Counter(whole_sweep.members["verdict"].to_list()[2:4])
    )
    assert run_part(job, 1, stop_after(0)) == outcome
    assert committed(store, 1) == found
    fetch(store, found, tmp_path / "copy")
    run = compfast.load(tmp_path / "copy")
    assert run.finished
    assert run.metrics.equals(
        whole_sweep.metrics.filter(whole_sweep.metrics["member"].is_in([2, 3]))
    )
    assert folders(store) == [found.folder]
    assert not (tmp_path / "scratch").is_dir() or not list((tmp_path / "scratch").iterdir())


def test_a_stopped_part_goes_on_where_it_was(place: str, whole_sweep: Run, tmp_path: Path) -> None:
    job, store = job_at(place, parts=1, save_seconds=1e9), open_store(place)
    outcome = run_part(job, 0, stop_after(3))
    assert outcome.state == "stopped"
    before = committed(store, 0)
    assert before is not None
    assert not before.finished
    assert 0 < before.work < 6 * 46
    assert run_part(job, 0, go_on).state == "done"
    found = committed(store, 0)
    assert found is not None
    assert folders(store) == [found.folder]
    fetch(store, found, tmp_path / "copy")
    assert_same_run(whole_sweep, compfast.load(tmp_path / "copy"))


def test_a_part_whose_worker_died_goes_on_from_its_last_upload(
    whole_sweep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "parts")
    job, store = job_at(place, parts=1), open_store(place)
    with monkeypatch.context() as patch:
        patch.setattr(
            "compfast.storage.durable.discard", lambda path: None
        )  # the dead clean up nothing
        with pytest.raises(Died):
            run_part(job, 0, stop_after(9, death=True))
    before = committed(store, 0)
    assert before is not None
    assert 0 < before.work < 6 * 46
    resumed: list[bool] = []
    original = compfast.train

    def train(config: Any, out: Path, callbacks: Any, resume: bool) -> Run:
        resumed.append(resume)
        return original(config, out, callbacks, resume)

    monkeypatch.setattr("compfast.cluster.part.train", train)
    # Its scratch folder goes by a process that is gone.
    base = tmp_path / "scratch" / f"compfast-{job.name}"
    (left,) = base.iterdir()
    left.rename(base / "00000-4194305")
    assert run_part(job, 0, go_on).state == "done"
    assert resumed == [True]
    assert not base.exists()
    found = committed(store, 0)
    assert found is not None
    assert_same_run(whole_sweep, compfast.load(tmp_path / "parts" / found.folder))


def test_a_finished_part_is_never_replaced(whole_sweep: Run, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    commit(store, 0, whole_sweep)
    first = committed(store, 0)
    commit(store, 0, whole_sweep)
    assert committed(store, 0) == first


def test_a_slow_upload_does_not_replace_a_finished_part(
    whole_sweep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a worker that was given up and lives on."""
    store = open_store(str(tmp_path / "parts"))
    stopped = interrupted_at(tmp_path / "stopped", small_config(sweep=SWEEP), 20)
    put = stores.LocalStore.put

    def slow(*arguments: Any) -> None:
        monkeypatch.setattr(stores.LocalStore, "put", put)
        commit(store, 0, whole_sweep)
        put(*arguments)

    monkeypatch.setattr(stores.LocalStore, "put", slow)
    commit(store, 0, stopped)
    found = committed(store, 0)
    assert found is not None
    assert found.finished
    assert folders(store) == [found.folder]


def test_a_damaged_part_is_not_gone_on_with(place: str, tmp_path: Path) -> None:
    job, store = job_at(place, parts=1), open_store(place)
    assert run_part(job, 0, stop_after(5)).state == "stopped"
    found = committed(store, 0)
    assert found is not None
    name = next(name for name in found.files if name.endswith("params.safetensors"))
    store.write(f"{found.folder}/{name}", b"\0" * found.files[name].bytes)
    outcome = run_part(job, 0, go_on)
    assert (outcome.state, outcome.exit_code) == ("failed", 4)
    assert "params.safetensors is damaged" in outcome.sentence


def test_a_node_that_would_give_other_bits_trains_nothing(tmp_path: Path) -> None:
    job = job_at(str(tmp_path / "parts"))
    other = dataclasses.replace(job, facts=dataclasses.replace(job.facts, versions="compfast 9"))
    outcome = run_part(other, 0, go_on)
    assert (outcome.state, outcome.exit_code) == ("failed", 2)
    assert "would train with native" in outcome.sentence
    assert not (tmp_path / "parts").exists()


def test_a_node_that_does_not_see_the_place(tmp_path: Path) -> None:
    config = to_dict(small_config())
    answer = probe(config, str(tmp_path), "absent", None)
    assert answer.facts is None
    assert "does not see" in str(answer.problem)
    (tmp_path / "token").write_bytes(b"")
    assert probe(config, str(tmp_path), "token", None).facts == here(small_config())


def test_a_worker_reports_and_uploads_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now, saved = 0.0, 0
    monkeypatch.setattr("compfast.cluster.part._REPORT_SECONDS", 0.5)
    monkeypatch.setattr("time.monotonic", lambda: now)
    said: list[int] = []

    def report(done: int, total: int, verdicts: dict[str, int]) -> bool:
        said.append(done)
        return False

    def save() -> Any:
        nonlocal saved
        saved += 1

    reporter = _Reporter(report, save, 60.0)
    for tick in range(600):
        now = tick / 4
        reporter.on_tick(tick, 600)
        reporter.on_checkpoint(Path())
    assert said == list(range(2, 600, 2))
    assert saved == 2


def test_a_process_says_one_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody commits during a sweep, this process still runs what it had loaded."""
    first = here(small_config())

    def asked(*command: object, **how: object) -> None:
        raise AssertionError("git was asked again")

    monkeypatch.setattr("subprocess.run", asked)
    assert here(small_config()) == first
