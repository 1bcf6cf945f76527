"""A sweep without Ray: workers that die on cue, a cluster of this process, what it says."""

from __future__ import annotations

import dataclasses
import os
import signal
import uuid
from pathlib import Path
from typing import Any

import pytest
from small_runs import small_config

import compfast
from compfast.cluster import store as stores
from compfast.cluster.part import Answer, Facts, Job, Outcome, here, probe, run_part
from compfast.cluster.store import Store
from compfast.config.settings import to_dict

SWEEP: Any = (("model.layers", (1, 2)), ("seed", (0, 1, 2)))


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
    found = store._files.ls(store._path, detail=True, refresh=True)
    return sorted(f["name"].rpartition("/")[2] for f in found if f["type"] == "directory")


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


def answer(host: str, isa: str, isas: tuple[str, ...], problem: str | None = None) -> Answer:
    facts = None if problem else Facts("native", isa, "compfast 1", None)
    return Answer(host, "CPU", facts, isas, problem)
