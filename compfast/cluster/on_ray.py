"""A Ray cluster as the driver sees it: tasks, a board for reports, and nodes that die."""

from __future__ import annotations

import importlib
import os
import socket
import time
from typing import Any

from compfast.cluster.part import Answer, Job, Outcome, probe, run_part
from compfast.errors import UsageError

_PROBE_SECONDS = 180.0  # to start a worker on every node and hear from it
_BOARD_SECONDS = 5.0
_CONNECT_SECONDS = 10.0

Reports = dict[int, tuple[int, int, dict[str, int]]]


def cluster_address(text: str) -> str | None:
    """The address in "ray[:ADDRESS]"; None without one."""
    name, colon, address = text.partition(":")
    if name != "ray" or (colon and not address):
        raise UsageError(f"--cluster is {text!r}; it must be ray or ray:ADDRESS")
    if "://" in address:
        raise UsageError(
            f"--cluster is {text!r}; ADDRESS is HOST:PORT or auto, and the driver runs on a node"
            " of the cluster"
        )
    return address or None


class Board:
    """The actor that workers report to; lives on the driver's node."""

    def __init__(self) -> None:
        self._reports: Reports = {}
        self._stop = False

    def report(self, part: int, done: int, total: int, verdicts: dict[str, int]) -> bool:
        """Take a report; tells whether to stop."""
        self._reports[part] = (done, total, verdicts)
        return self._stop

    def stopping(self) -> bool:
        return self._stop

    def take(self) -> Reports:
        taken, self._reports = self._reports, {}
        return taken

    def stop(self) -> None:
        self._stop = True


class RayCluster:
    """Use as a context manager: at its end this driver's tasks are gone from the cluster.

    Without an address: that of RAY_ADDRESS, else the cluster that runs on this machine, else a
    new one of this machine alone. Raises UsageError without Ray, and where none answers.
    """

    def __init__(self, address: str | None = None) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ImportError:
            raise UsageError(
                "--cluster ray needs the package ray, which is not installed:"
                " pip install 'compfast[ray]'"
            ) from None
        _refuse_silence(address or os.environ.get("RAY_ADDRESS", ""))
        try:
            self._ray.init(address=address, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            shown = address or "RAY_ADDRESS"
            raise UsageError(f"no Ray cluster answers at {shown}: {error}") from None
        self._errors: Any = importlib.import_module("ray.exceptions")
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        self._on_node: Any = strategies.NodeAffinitySchedulingStrategy
        self._board = self._new_board()
        self._parts: dict[Any, int] = {}  # reference -> part

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *error: object) -> None:
        self._ray.shutdown()

    def probe(
        self, config: dict[str, Any], place: str, token: str, isa: str | None
    ) -> list[Answer]:
        needed = config["run"]["threads"] or 1
        task = self._ray.remote(num_cpus=0, max_retries=2)(probe)
        asked = {
            node: task.options(scheduling_strategy=self._on_node(node, soft=False)).remote(
                config, place, token, isa
            )
            for node, cpus in self._alive().items()
            if cpus >= needed
        }
        answers: list[Answer] = []
        until = time.monotonic() + _PROBE_SECONDS
        for node, reference in asked.items():
            try:
                answers.append(self._ray.get(reference, timeout=max(0, until - time.monotonic())))
            except self._errors.RayTaskError as error:
                reason = str(error).strip().splitlines()[-1]
                raise UsageError(f"a node cannot take part: {reason}") from None
            except self._errors.RayError as error:
                if node not in self._alive():
                    continue  # it died, which the list of nodes had not told yet
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UsageError(f"a node does not answer: {reason}") from None
        return answers

    def slots(self, threads: int) -> int:
        return sum(int(cpus // threads) for cpus in self._alive().values())

    def _alive(self) -> dict[str, float]:
        """CPUs by node."""
        nodes = self._ray.nodes()
        return {n["NodeID"]: n["Resources"].get("CPU", 0) for n in nodes if n["Alive"]}

    def submit(self, job: Job, part: int, threads: int) -> None:
        # The driver counts tries itself: it can say so, and a part goes on where it was saved.
        task = self._ray.remote(num_cpus=threads, max_retries=0)(train_task)
        self._parts[task.remote(job, part, self._board)] = part

    def wait(self, seconds: float) -> dict[int, Outcome | None]:
        waiting = list(self._parts)
        ready, _ = self._ray.wait(waiting, num_returns=1, timeout=seconds)
        if ready:
            ready, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
        return {self._parts.pop(reference): self._outcome(reference) for reference in ready}

    def progress(self) -> Reports:
        return self._ask("take") or {}

    def stop(self) -> None:
        self._ask("stop")

    def _outcome(self, reference: Any) -> Outcome | None:
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._errors.RayTaskError:
            raise  # a bug in the task
        except self._errors.RayError:
            return None
        return outcome

    def _ask(self, method: str) -> Any:
        """An answer of the board; None while it is being restarted or too busy."""
        try:
            return self._ray.get(getattr(self._board, method).remote(), timeout=_BOARD_SECONDS)
        except (self._errors.GetTimeoutError, self._errors.RayActorError):
            return None

    def _new_board(self) -> Any:
        own = self._ray.get_runtime_context().get_node_id()
        options = {
            "num_cpus": 0,
            "max_restarts": -1,
            "scheduling_strategy": self._on_node(own, soft=False),
        }
        return self._ray.remote(**options)(Board).remote()


def _refuse_silence(address: str) -> None:
    """Raise UsageError where nothing listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        return  # none, or a word that Ray knows
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"no Ray cluster answers at {address}: {error}") from None


def train_task(job: Job, part: int, board: Any) -> Outcome:
    """Runs in a worker of the cluster."""
    ray: Any = importlib.import_module("ray")
    lost: Any = importlib.import_module("ray.exceptions").RayActorError
    pending: list[Any] = [board.stopping.remote()]

    def answer() -> bool:
        try:
            return bool(ray.get(pending.pop()))
        except lost:
            return False  # the board is being restarted; the driver asks again

    def report(done: int, total: int, verdicts: dict[str, int]) -> bool:
        # Training never waits for the board: the answer to one report is read at the next.
        ready = bool(pending) and bool(ray.wait(pending, timeout=0)[0])
        stop = ready and answer()
        if not pending:
            pending.append(board.report.remote(part, done, total, verdicts))
        return stop

    return Outcome("stopped") if answer() else run_part(job, part, report)
