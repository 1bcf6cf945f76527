"""The driver of a sweep: hands parts out, counts what comes back, merges them at the end.

Everything that lasts is in the run folder and in the store, so the driver may be stopped or die
at any time: `--resume` asks the store which parts are finished and trains the others.
"""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from compfast.cluster.merging import join, verified_parts
from compfast.cluster.part import Answer, Facts, Job, Outcome, threads_of
from compfast.cluster.store import LocalStore, Store, committed, fetch, open_store
from compfast.config import Config, StartConfig
from compfast.config.paths import user_path
from compfast.config.settings import to_dict
from compfast.ensembles.grid import member_count, shard_range
from compfast.ensembles.groups import Groups, member_groups
from compfast.errors import AllDivergedError, Interrupted, StorageError, UsageError
from compfast.models.params import parameter_count
from compfast.runs.description import describe, resumed_config
from compfast.runs.folder import RunFolder, refuse_used
from compfast.runs.layouts import run_layouts
from compfast.runs.reading import Run, load
from compfast.solutions import DIVERGED
from compfast.storage import durable
from compfast.training.callbacks import Callback, Outline, as_callbacks
from compfast.training.interrupts import StopSignals
from compfast.training.runs import check_snapshots
from compfast.training.start import resolved

PARTS_A_SLOT = 8  # so that at the end of a sweep about 1/16 of its time is lost to idle slots
MOST_MEMBERS = 256  # a part
TRIES = 10  # of a part, before the sweep gives up
_WAIT_SECONDS = 0.5
_STOP_SECONDS = 60.0  # that running parts have to save themselves


class Cluster(Protocol):
    """Machines that run tasks. Ray is one; see on_ray.py."""

    def probe(
        self, config: dict[str, Any], place: str, token: str, isa: str | None
    ) -> list[Answer]:
        """`part.probe` on every node."""

    def slots(self, threads: int) -> int:
        """Tasks of so many CPUs that run at once, now."""

    def submit(self, job: Job, part: int, threads: int) -> None:
        """Start `part.run_part` somewhere, once."""

    def wait(self, seconds: float) -> dict[int, Outcome | None]:
        """Parts that ended, at once or within `seconds`; None: its worker or node died."""

    def progress(self) -> dict[int, tuple[int, int, dict[str, int]]]:
        """The last report of each part."""

    def stop(self) -> None:
        """Ask all tasks to save and leave; may be called again."""


def sweep(
    config: Config | None,
    out: str | Path,
    cluster: Cluster,
    callbacks: Callback | Iterable[Callback] | None = (),
    resume: bool = False,
    place: str | None = None,
) -> Run:
    """Train on a cluster what `compfast.train` trains here, to the same bits, into `out`.

    `place` is where parts are put: a folder or URL that all nodes see (default: OUT.parts-NAME,
    beside the run folder); they are removed once they are merged. Raises what `train` raises,
    UsageError also for nodes that would give different bits, and StorageError for a part that
    failed too often.
    """
    path, hooks = user_path(out), as_callbacks(callbacks)
    known = load(path) if resume else None
    if known is not None:
        if "cluster" not in known.info:
            raise UsageError(f"{path} was not started on a cluster; go on without --cluster")
        config = resumed_config(known, config)
        given = _record(known).storage
        if known.finished:
            remove_parts(known)
            return known
        if place is not None and place != given:
            raise UsageError(f"{path} was started with its parts in {given}, not {place}")
    elif config is None:
        raise UsageError("a sweep needs a config; only a resumed one brings its own")
    else:
        refuse_used(path)
    if config.run.shard != (0, 1):
        raise UsageError("a cluster makes its own shards; give --shard or --cluster, not both")
    if known is None:
        config = resolved(config)
    groups = member_groups(config)
    check_snapshots(config, groups)
    if known is None:
        job = _new_job(config, path, cluster, place)
        document = describe(config, job.facts.engine, job.facts.isa)
        document["cluster"] = dataclasses.asdict(_Record(job.name, job.parts, job.storage))
        folder = RunFolder.create(path, document)
    else:
        job = _known_job(config, known, cluster)
        folder = RunFolder.reopen(path, run_layouts(groups))
    with folder:
        for callback in hooks:
            callback.on_start(load(path), _outline(config, groups, job, known is not None))
        _Sweep(cluster, job, config, path, hooks).run()
        _merge(folder, config, job)
    run = load(path)
    for callback in hooks:
        callback.on_end(run)
    if (run.members["verdict"] == DIVERGED).all():
        count = len(run.members)
        raise AllDivergedError(f"every member ({count} of {count}) diverged; lower the rate")
    return run


@dataclass(frozen=True, slots=True)
class _Record:
    """What config.json says of a sweep. Folders are removed by it, and it may be from anybody."""

    name: str  # 12 hexadecimal digits, the end of the storage's own name
    parts: int
    storage: str


def _record(run: Run) -> _Record:
    """The sweep of a run folder; raises StorageError where no driver can have written it."""
    try:
        found = _Record(**run.info["cluster"])
        if not re.fullmatch("[0-9a-f]{12}", found.name):
            raise ValueError(f"the name {found.name!r}")
        if not found.storage.endswith(f"-{found.name}"):
            raise ValueError(f"the storage {found.storage!r}")
        if type(found.parts) is not int or not 1 <= found.parts <= member_count(run.config):
            raise ValueError(f"{found.parts!r} parts")
    except (TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{run.path}/config.json describes no sweep: {error}") from None
    return found


def remove_parts(run: Run) -> None:
    """Remove what a driver that was killed after its merge left of a finished sweep."""
    if "cluster" in run.info:
        open_store(_record(run).storage).remove("")


def _new_job(config: Config, path: Path, cluster: Cluster, place: str | None) -> Job:
    name = secrets.token_hex(6)
    given = f"{path.absolute()}.parts-{name}"
    if place is not None:
        shared = place if "://" in place else str(user_path(place))
        given = f"{shared.rstrip('/')}/{path.name}-{name}"
    try:
        facts = _agreed(cluster, config, given, os.environ.get("COMPFAST_ISA"))
    except BaseException:
        open_store(given).remove("")
        raise
    members, slots = member_count(config), max(cluster.slots(threads_of(config)), 1)
    parts = min(members, max(PARTS_A_SLOT * slots, -(-members // MOST_MEMBERS)))
    return Job(name, to_dict(config), parts, given, facts)


def _known_job(config: Config, known: Run, cluster: Cluster) -> Job:
    own, isa = _record(known), known.info["isa"]
    wanted = isa if known.info["engine"] == "native" else None
    # Parts that were saved need no parent any more; the others say it themselves.
    alone = dataclasses.replace(config, start=StartConfig())
    facts = _agreed(cluster, alone, own.storage, wanted)
    if (facts.engine, facts.isa) != (known.info["engine"], isa):
        raise UsageError(
            f"{known.path} was trained with {known.info['engine']} ({isa}), the cluster would go on"
            f" with {facts.engine} ({facts.isa}), which gives other bits"
        )
    return Job(own.name, to_dict(config), own.parts, own.storage, facts)


def _agreed(cluster: Cluster, config: Config, place: str, isa: str | None) -> Facts:
    """The facts that all nodes share; raises UsageError where they differ."""
    store, token = open_store(place), f"probe-{secrets.token_hex(6)}"
    store.write(token, b"")
    try:
        answers = cluster.probe(to_dict(config), place, token, isa)
    finally:
        store.remove(token)
    if not answers:
        needed = threads_of(config)
        raise UsageError(f"no node of the cluster has {needed} CPU{'s' if needed > 1 else ''}")
    for answer in answers:
        if answer.facts is None:
            raise UsageError(f"node {answer.host} cannot take part: {answer.problem}")
    kinds: dict[Facts, list[Answer]] = {}
    for answer in answers:
        assert answer.facts is not None
        kinds.setdefault(answer.facts, []).append(answer)
    if len(kinds) > 1:
        shown = "; ".join(
            f"{len(of)} with {facts}, e.g. {of[0].host} ({of[0].processor})"
            for facts, of in sorted(kinds.items(), key=lambda kind: (-len(kind[1]), str(kind[0])))
        )
        raise UsageError(f"the nodes would give different bits: {shown}{_advice(answers)}")
    return next(iter(kinds))


def _advice(answers: Sequence[Answer]) -> str:
    """What makes the nodes agree, if only their instruction sets differ."""
    common = [isa for isa in answers[0].isas if all(isa in a.isas for a in answers)]
    others = {dataclasses.replace(a.facts, isa="") for a in answers if a.facts is not None}
    return f"; set COMPFAST_ISA={common[-1]}, which all run" if common and len(others) == 1 else ""


class _Sweep:
    """The parts of one sweep and how far each is."""

    def __init__(
        self, cluster: Cluster, job: Job, config: Config, path: Path, callbacks: Sequence[Callback]
    ) -> None:
        self.cluster, self.job, self.path, self.callbacks = cluster, job, path, callbacks
        self.threads = threads_of(config)
        self.store: Store = open_store(job.storage)
        total = member_count(config)
        sizes = [len(shard_range(total, part, job.parts)) for part in range(job.parts)]
        steps = config.training.steps
        self.reports: dict[int, tuple[int, int, dict[str, int]]] = {
            part: (0, size * steps, {}) for part, size in enumerate(sizes)
        }
        self.done: set[int] = set()
        self.running: set[int] = set()
        self.todo: deque[int] = deque()
        self.tries = [0] * job.parts
        self.signals = StopSignals(lambda: None)

    def run(self) -> None:
        """Until every part is finished; raises Interrupted after a signal."""
        for part in range(self.job.parts):
            found = committed(self.store, part)
            if found is not None and found.finished:
                self._finish(part, found.work, found.verdicts)
            else:
                self.todo.append(part)
        with self.signals:
            while (self.todo or self.running) and not self.signals.requested:
                self._submit()
                self._collect()
                self._show()
            if len(self.done) < self.job.parts:
                self._leave()

    def _submit(self) -> None:
        # Twice the slots: a slot that comes free finds its next part waiting.
        while self.todo and len(self.running) < 2 * max(self.cluster.slots(self.threads), 1):
            part = self.todo.popleft()
            self.cluster.submit(self.job, part, self.threads)
            self.running.add(part)

    def _collect(self) -> None:
        for part, outcome in self.cluster.wait(_WAIT_SECONDS).items():
            self.running.discard(part)
            if outcome is not None and outcome.state == "done":
                self._finish(part, outcome.work, outcome.verdicts)
                continue
            self.todo.append(part)
            if not self.signals.requested:
                self._count_try(part, outcome)

    def _count_try(self, part: int, outcome: Outcome | None) -> None:
        said = "its worker died" if outcome is None else outcome.sentence
        if outcome is not None and outcome.exit_code == UsageError.exit_code:
            raise UsageError(f"part {part} of {self.path} was refused: {said}")
        self.tries[part] += 1
        if self.tries[part] >= TRIES:
            raise StorageError(f"part {part} of {self.path} failed {TRIES} times, the last: {said}")
        for callback in self.callbacks:
            callback.on_note(f"part {part} is tried again: {said}")

    def _finish(self, part: int, work: int, verdicts: dict[str, int]) -> None:
        self.done.add(part)
        self.reports[part] = (work, work, verdicts)

    def _show(self) -> None:
        for part, report in self.cluster.progress().items():
            if part not in self.done:
                self.reports[part] = report
        done, total, verdicts = 0, 0, dict[str, int]()
        for own_done, own_total, counts in self.reports.values():
            done, total = done + own_done, total + own_total
            for label, n in counts.items():
                verdicts[label] = verdicts.get(label, 0) + n
        for callback in self.callbacks:
            callback.on_parts(len(self.done), self.job.parts, verdicts)
            callback.on_tick(done, total)

    def _leave(self) -> None:
        """Give running parts time to save themselves, then raise."""
        until = time.monotonic() + _STOP_SECONDS
        while self.running and time.monotonic() < until:
            self.cluster.stop()
            self._collect()
        raise Interrupted(
            f"stopped with {len(self.done)} of {self.job.parts} parts done; continue with"
            f" --resume {self.path} --cluster ray"
        )


def _merge(folder: RunFolder, config: Config, job: Job) -> None:
    """Join the parts where they lie, or from copies of them; then remove them."""
    store = open_store(job.storage)
    copies = folder.path / "fetched"
    durable.discard(copies)
    runs = []
    for part in range(job.parts):
        found = committed(store, part)
        if found is None or not found.finished:
            raise StorageError(f"part {part} is not in {job.storage} any more; resume the sweep")
        if isinstance(store, LocalStore):
            runs.append(load(store.folder / found.folder))
            continue
        fetch(store, found, copies / f"{part:05d}")
        runs.append(load(copies / f"{part:05d}"))
    join(folder, config, verified_parts(runs))
    durable.discard(copies)
    store.remove("")


def _outline(config: Config, groups: Groups, job: Job, resumed: bool) -> Outline:
    return Outline(
        members=sum(len(specs) for specs in groups),
        groups=len(groups),
        parameters=sum(len(specs) * parameter_count(specs[0].model) for specs in groups),
        engine=job.facts.engine,
        isa=job.facts.isa,
        steps=config.training.steps,
        resumed_at=0 if resumed else None,
        skipped=(),
    )
