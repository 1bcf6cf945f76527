"""A sweep without Ray: parts and their places, and the driver over workers that die on cue."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import hostile
import pytest
from small_runs import assert_same_run, interrupted_at, small_config

import compfast
from compfast import storage
from compfast.cluster import driver, sweep
from compfast.cluster import store as stores
from compfast.cluster.on_ray import _refuse_silence
from compfast.cluster.part import Answer, Facts, Job, Outcome, _Reporter, here, probe, run_part
from compfast.cluster.store import Store, commit, committed, fetch, open_store
from compfast.ensemble import main
from compfast.runs import Run
from compfast.settings import to_dict

SWEEP: Any = (("model.layers", (1, 2)), ("seed", (0, 1, 2)))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("compfast.storage.sync", lambda descriptor: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    monkeypatch.setattr("compfast.cluster.part._REPORT_SECONDS", 0.0)
    # A worker sets it for good; here it goes back after the test.
    monkeypatch.setenv("COMPFAST_ISA", here(small_config()).isa)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return compfast.train(small_config(sweep=SWEEP), tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(params=["folder", "file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/parts"
    return f"{'file://' if request.param == 'file' else ''}{tmp_path}/parts"


def job_at(place: str, parts: int = 3, **changes: Any) -> Job:
    config = small_config(sweep=SWEEP)
    job = Job(uuid.uuid4().hex, to_dict(config), parts, place, here(config), save_seconds=0.0)
    return dataclasses.replace(job, **changes)


def go_on(done: int, total: int, verdicts: dict[str, int]) -> bool:
    return False


class Died(BaseException):
    """The worker stops here, as after kill -9: nothing of it runs any more."""


def stop_after(reports: int, death: bool = False) -> Any:
    left = reports

    def report(done: int, total: int, verdicts: dict[str, int]) -> bool:
        nonlocal left
        left -= 1
        if left < 0 and death:
            raise Died
        return left < 0

    return report


def folders(store: Store) -> list[str]:
    """The uploads that stand in a store."""
    if isinstance(store, stores.LocalStore):
        return sorted(path.name for path in store.folder.iterdir() if path.is_dir())
    assert isinstance(store, stores.FsspecStore)
    found = store._files.ls(store._path, detail=True)
    return sorted(f["name"].rpartition("/")[2] for f in found if f["type"] == "directory")


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


def test_a_part_is_trained_once(place: str, whole: Run, tmp_path: Path) -> None:
    job, store = job_at(place), open_store(place)
    outcome = run_part(job, 1, go_on)
    assert (outcome.state, outcome.work) == ("done", 2 * 46)
    found = committed(store, 1)
    assert found is not None
    assert found.finished
    assert found.verdicts == outcome.verdicts == Counter(whole.members["verdict"].to_list()[2:4])
    assert run_part(job, 1, stop_after(0)) == outcome
    assert committed(store, 1) == found
    fetch(store, found, tmp_path / "copy")
    run = compfast.load(tmp_path / "copy")
    assert run.finished
    assert run.metrics.equals(whole.metrics.filter(whole.metrics["member"].is_in([2, 3])))
    assert folders(store) == [found.folder]
    assert not (tmp_path / "scratch").is_dir() or not list((tmp_path / "scratch").iterdir())


def test_a_stopped_part_goes_on_where_it_was(place: str, whole: Run, tmp_path: Path) -> None:
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
    assert_same_run(whole, compfast.load(tmp_path / "copy"))


def test_a_part_whose_worker_died_goes_on_from_its_last_upload(
    whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "parts")
    job, store = job_at(place, parts=1), open_store(place)
    with monkeypatch.context() as patch:
        patch.setattr("compfast.storage.discard", lambda path: None)  # the dead clean up nothing
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
    assert_same_run(whole, compfast.load(tmp_path / "parts" / found.folder))


def test_a_finished_part_is_never_replaced(whole: Run, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    commit(store, 0, whole)
    first = committed(store, 0)
    commit(store, 0, whole)
    assert committed(store, 0) == first


def test_a_slow_upload_does_not_replace_a_finished_part(
    whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a worker that was given up and lives on."""
    store = open_store(str(tmp_path / "parts"))
    stopped = interrupted_at(tmp_path / "stopped", small_config(sweep=SWEEP), 20)
    put = stores.LocalStore.put

    def slow(*arguments: Any) -> None:
        monkeypatch.setattr(stores.LocalStore, "put", put)
        commit(store, 0, whole)
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


def test_a_commit_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "parts"))
    digest = storage.Digest("0" * 64, 1)
    found = stores.Commit("part-00000-a", True, 1, {}, {"../../evil": digest})
    with pytest.raises(compfast.StorageError, match="outside of it"):
        fetch(store, found, tmp_path / "copy")
    store.write("part-00000.json", b"{}")
    with pytest.raises(compfast.StorageError, match="lacks or misuses 'files'"):
        committed(store, 0)


HEX = "0123456789ab"


@pytest.mark.parametrize(
    "change",
    [
        {"folder": "../../victim"},
        {"folder": "/victim"},
        {"folder": ""},
        {"folder": 5},
        {"folder": f"part-00001-{HEX}"},
        {"finished": "yes"},
        {"work": -1},
        {"work": "9"},
        {"verdicts": {"symmetric": float("nan")}},
        {"verdicts": 3},
        {"files": {"a": {}}},
        {"files": [1]},
    ],
)
def test_a_commit_from_somebody_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "parts"))
    known = {"folder": f"part-00000-{HEX}", "finished": False, "work": 1}
    document = {**known, "verdicts": {"symmetric": 1}, "files": {}}
    store.write("part-00000.json", hostile.as_json(document))
    assert committed(store, 0) is not None
    store.write("part-00000.json", hostile.as_json({**document, **change}))
    with pytest.raises(compfast.StorageError, match=r"part-00000\.json lacks or misuses"):
        committed(store, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "x/../../victim"},
        {"name": 7},
        {"storage": "."},
        {"storage": "/"},
        {"storage": None},
        {"storage": "victim"},
        {"parts": 0},
        {"parts": 7},
        {"parts": "3"},
        {"parts": True},
        {"more": 1},
    ],
)
def test_a_sweep_from_somebody_removes_nothing_of_ours(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name and the storage in config.json say what a sweep writes, and removes at its end."""
    out, victim = tmp_path / "sweep", tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("mine")
    with pytest.raises(compfast.Interrupted):
        sweep(small_config(sweep=SWEEP), out, Fake(signal_at=1))
    monkeypatch.chdir(tmp_path)
    info = storage.read_json(out / "config.json")
    info["cluster"] |= change
    (out / "config.json").write_bytes(hostile.as_json(info))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(compfast.StorageError, match=r"config\.json describes no sweep"):
        sweep(None, out, Fake(), resume=True)
    assert sorted(tmp_path.rglob("*")) == before
    info["cluster"] = None
    (out / "config.json").write_bytes(hostile.as_json(info))
    with pytest.raises(compfast.StorageError, match=r"config\.json describes no sweep"):
        sweep(None, out, Fake(), resume=True)


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
    storage.discard(store.folder / name)


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


class Fake:
    """A cluster of this process: tasks run when they are waited for, or die as `deaths` say."""

    def __init__(self, deaths: dict[int, int] | None = None, signal_at: int = -1) -> None:
        self.deaths = dict(deaths or {})  # part -> how many times its worker dies
        self.signal_at = signal_at  # task number that finds the driver stopped
        self.answers: list[Answer] | None = None
        self.tasks: list[tuple[Job, int]] = []
        self.started: list[int] = []
        self.stopping = False

    def probe(self, config: Any, place: str, token: str, isa: str | None) -> list[Answer]:
        return [probe(config, place, token, isa)] if self.answers is None else self.answers

    def slots(self, threads: int) -> int:
        return 1

    def submit(self, job: Job, part: int, threads: int) -> None:
        often = self.deaths.get(part, 0) > 0
        self.tasks.append((dataclasses.replace(job, save_seconds=0.0) if often else job, part))
        assert len(self.tasks) <= 2

    def wait(self, seconds: float) -> dict[int, Outcome | None]:
        job, part = self.tasks.pop(0)
        if len(self.started) == self.signal_at:
            os.kill(os.getpid(), signal.SIGINT)
        self.started.append(part)
        if self.stopping:
            return {part: Outcome("stopped")}
        if self.deaths.get(part, 0) > 0:
            self.deaths[part] -= 1
            with pytest.raises(Died):
                run_part(job, part, stop_after(4, death=True))
            return {part: None}
        return {part: run_part(job, part, go_on)}

    def progress(self) -> dict[int, tuple[int, int, dict[str, int]]]:
        return {}

    def stop(self) -> None:
        self.stopping = True


class Notes(compfast.Callback):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.ticks: list[tuple[int, int]] = []

    def on_note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def on_tick(self, done: int, total: int) -> None:
        self.ticks.append((done, total))


def beside(path: Path) -> list[str]:
    """What a sweep left beside its run folder."""
    return sorted(p.name for p in path.parent.iterdir() if p.name.startswith(path.name))


@pytest.mark.parametrize("place", ["", "folder", "memory"], indirect=False)
def test_a_sweep_is_one_process_s_run(place: str, whole: Run, tmp_path: Path) -> None:
    given = {"": None, "folder": str(tmp_path / "shared"), "memory": "memory://sweeps"}[place]
    cluster, notes = Fake({0: 2, 3: 1}), Notes()
    out = tmp_path / "sweep"
    run = sweep(small_config(sweep=SWEEP), out, cluster, [notes], place=given)
    assert_same_run(whole, run)
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


def test_a_stopped_sweep_goes_on(whole: Run, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    with pytest.raises(compfast.Interrupted, match=r"stopped with 3 of 6 parts done; continue"):
        sweep(small_config(sweep=SWEEP), out, Fake(signal_at=2))
    assert not compfast.load(out).finished
    with pytest.raises(compfast.UsageError, match="was started on a cluster"):
        compfast.train(None, out, resume=True)
    with pytest.raises(compfast.UsageError, match="was started with its parts in"):
        sweep(None, out, Fake(), resume=True, place="elsewhere")
    rest = Fake()
    assert_same_run(whole, sweep(None, out, rest, resume=True))
    assert sorted(rest.started) == [3, 4, 5]
    assert beside(out) == ["sweep"]


def test_a_part_that_always_fails_ends_the_sweep(
    whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "TRIES", 3)
    out = tmp_path / "sweep"
    with pytest.raises(compfast.StorageError, match=r"part 2 of .* failed 3 times.*worker died"):
        sweep(small_config(sweep=SWEEP), out, Fake({2: 99}))
    assert_same_run(whole, sweep(None, out, Fake(), resume=True))


def test_every_member_diverged(tmp_path: Path) -> None:
    config = small_config(sweep=(("optimizer.lr", (1e30, 2e30)),))
    with pytest.raises(compfast.AllDivergedError, match=r"every member \(2 of 2\)"):
        sweep(config, tmp_path / "sweep", Fake())
    assert compfast.load(tmp_path / "sweep").finished


def answer(host: str, isa: str, isas: tuple[str, ...], problem: str | None = None) -> Answer:
    facts = None if problem else Facts("native", isa, "compfast 1", None)
    return Answer(host, "CPU", facts, isas, problem)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([], "no node of the cluster has 1 CPU"),
        ([answer("a", "", (), "it is full")], "node a cannot take part: it is full"),
        (
            [answer("a", "v4", ("generic", "v3", "v4")), answer("b", "v3", ("generic", "v3"))],
            r"different bits: 1 with native v4, .* a \(CPU\); 1 with native v3, compfast 1, e.g. b"
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
