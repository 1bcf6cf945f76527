"""What a node does for a sweep: say what it is, and train one part. Knows nothing of Ray."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compfast.cluster.store import Store, commit, committed, fetch, open_store, verdict_counts
from compfast.config import Config
from compfast.config.settings import from_dict
from compfast.engines import resolve_engine
from compfast.engines.processor import processor
from compfast.errors import AllDivergedError, CompfastError, Interrupted, UsageError
from compfast.runs.description import installed_version, source_commit
from compfast.runs.parents import find
from compfast.runs.reading import Run, load
from compfast.storage import durable
from compfast.training.callbacks import Callback
from compfast.training.runs import train

_REPORT_SECONDS = 0.5  # between two reports of a worker

Report = Callable[[int, int, dict[str, int]], bool]  # (done, total, verdicts) -> asked to stop?


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides the bits on a node; nodes with equal facts give equal bits."""

    engine: str
    isa: str
    versions: str  # of the packages that the engine's bits hang on
    commit: str | None  # of the source tree; None where it is no git checkout

    def __str__(self) -> str:
        commit = "" if self.commit is None else f" ({self.commit[:12]})"
        return f"{self.engine} {self.isa}, {self.versions}{commit}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node says of itself."""

    host: str
    processor: str
    facts: Facts | None
    isas: tuple[str, ...]  # what COMPFAST_ISA could be there
    problem: str | None  # why it cannot take part


@dataclass(frozen=True, slots=True)
class Job:
    """One sweep, as every task of it gets it."""

    name: str  # unique, plain letters
    config: dict[str, Any]
    parts: int
    storage: str
    facts: Facts
    save_seconds: float = 60.0  # least time between two uploads of an unfinished part


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended: done, stopped (its progress is saved) or failed with a sentence."""

    state: str
    sentence: str = ""
    exit_code: int = 0
    work: int = 0  # member steps done
    verdicts: dict[str, int] = field(default_factory=dict)


def probe(config: dict[str, Any], place: str, token: str, isa: str | None) -> Answer:
    """This node's answer; `token` is a file in the store that the driver wrote just now."""
    _force(isa)
    host, name = platform.node(), processor()[0]
    try:
        own = from_dict(config)
        facts, isas = here(own), _isas()
        if open_store(place).read(token) is None:
            raise UsageError(
                f"it does not see {place}; give --storage a place that all nodes share"
            )
        if own.start.run is not None:
            find(own.start)  # the run to start from is there, too
    except CompfastError as error:
        return Answer(host, name, None, (), str(error))
    return Answer(host, name, facts, isas, None)


def here(config: Config) -> Facts:
    """The facts of this process; raises UsageError where the engine is not there."""
    engine = resolve_engine(config.run.engine, config.run.device)
    isa = "eager"
    if engine in ("native", "cuda"):
        from compfast import _native

        try:
            isa = _native.selected_isa()
        except (ValueError, RuntimeError) as error:
            raise UsageError(str(error)) from None
    if engine == "cuda":
        from compfast.engines.cuda.driver import open_driver

        isa = f"{open_driver().isa}_{isa}"
    if engine == "triton":
        from compfast.engines.triton.engine import isa as triton_isa

        isa = triton_isa()
    # eager's bits are PyTorch's; Triton brings the compiler of the triton engine's kernels
    names = ("compfast", *{"eager": ("torch",), "triton": ("triton",)}.get(engine, ()))
    versions = [f"{name} {installed_version(name) or 'not installed'}" for name in names]
    return Facts(engine, isa, ", ".join(versions), source_commit())


def run_part(job: Job, part: int, report: Report) -> Outcome:
    """Train part `part` unless it is finished, from where it was last saved; upload it."""
    _force(job.facts.isa if job.facts.engine == "native" else None)
    try:
        store = open_store(job.storage)
        config = part_config(job, part)
        facts = here(config)
        if facts != job.facts:
            raise UsageError(
                f"{platform.node()} would train with {facts}, the others with {job.facts}"
            )
        with _scratch(job, part) as folder:
            return _train(job, part, store, config, folder / "run", report)
    except CompfastError as error:
        return Outcome("failed", str(error), error.exit_code)


def part_config(job: Job, part: int) -> Config:
    """The config of one part, as its worker trains it."""
    run = {
        **job.config["run"],
        "engine": job.facts.engine,
        "threads": job.config["run"]["threads"] or 1,
        "shard": [part, job.parts],
        "report_every": 0,
        "quiet": True,
    }
    return from_dict({**job.config, "run": run})


def threads_of(config: Config) -> int:
    """CPUs a task: one, unless --threads says more.

    Members share nothing, so tasks of one CPU lose nothing against one task with all threads of
    a node; they fill nodes of different sizes evenly, and a worker that dies takes one CPU's
    part with it, not a node's.
    """
    return config.run.threads or 1


def _train(
    job: Job, part: int, store: Store, config: Config, folder: Path, report: Report
) -> Outcome:
    before = committed(store, part)
    if before is not None and before.finished:
        return Outcome("done", work=before.work, verdicts=before.verdicts)
    if before is not None:
        fetch(store, before, folder)

    def save() -> Run:
        run = load(folder)
        commit(store, part, run)
        return run

    try:
        train(
            config, folder, [_Reporter(report, save, job.save_seconds)], resume=before is not None
        )
    except AllDivergedError:
        pass  # a finished part like any other; the driver looks at the whole
    except Interrupted as stop:
        save()
        return Outcome("stopped", str(stop), stop.exit_code)
    run = save()
    return Outcome("done", work=int(run.members["steps"].sum()), verdicts=verdict_counts(run))


class _Reporter(Callback):
    """Says how far it is, asks whether to stop, uploads a checkpoint now and then."""

    def __init__(self, report: Report, save: Callable[[], Run], every: float) -> None:
        self._report, self._save, self._every = report, save, every
        self._verdicts: dict[str, int] = {}
        self._reported = self._saved = time.monotonic()

    def on_tick(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._reported < _REPORT_SECONDS:
            return
        self._reported = now
        if self._report(done, total, self._verdicts):
            raise Interrupted("the driver asked to stop")

    def on_verdicts(self, counts: dict[str, int]) -> None:
        self._verdicts = dict(counts)

    def on_checkpoint(self, path: Path) -> None:
        if time.monotonic() - self._saved >= self._every:
            self._save()
            self._saved = time.monotonic()


def _force(isa: str | None) -> None:
    if isa is not None:
        os.environ["COMPFAST_ISA"] = isa


def _isas() -> tuple[str, ...]:
    try:
        from compfast import _native
    except ImportError:
        return ()  # the eager engine runs without it
    return tuple(_native.supported_isas())


@contextlib.contextmanager
def _scratch(job: Job, part: int) -> Iterator[Path]:
    """A folder of this process; removes those of processes that died on this node."""
    base = Path(tempfile.gettempdir()) / f"compfast-{job.name}"
    own = base / f"{part:05d}-{os.getpid()}"
    durable.make_folder(own)
    for other in base.iterdir():
        if not Path(f"/proc/{other.name.rpartition('-')[2]}").exists():
            durable.discard(other)
    try:
        yield own
    finally:
        durable.discard(own)
        with contextlib.suppress(OSError):  # another part's folder is in it
            base.rmdir()
