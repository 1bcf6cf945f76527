"""Batches that a task's own `batch` draws, for an engine that takes buffers.

A thread fills one buffer while the engine trains on the other. Chunks of steps grow from one step
up to what a buffer holds, so that the first is soon there; where they end changes no bit. Members
of one seed share a slot, and nothing is drawn for members that do not train.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compfast.config import MemberSpec, Ports
from compfast.engines.base import ACTIVE, Float32, Inputs, Int32, Int64, Targets
from compfast.engines.checks import check_inputs, check_targets
from compfast.ensembles.room import require_room
from compfast.errors import UsageError

ROOM = 2**25  # bytes of a buffer; one step of all members may take more
TICK = 0.1  # seconds between two calls of `tick`
PATIENCE = 1.0  # seconds that a stop waits for a batch that is being drawn

Record = dict[str, Any]
Span = tuple[int, int]  # steps [first, last)


class HostTask(Protocol):
    """What a task must have: batch t is a function of (seed, t). It is called by one thread at a
    time, which is not the caller's.
    """

    @property
    def ports(self) -> Ports: ...

    def batch(self, seed: int, step: int, size: int, /) -> tuple[Any, Any]:
        """Inputs and targets, see compfast.tasks.base."""


class Trainer(Protocol):
    """What trains on the batches: a native group, or another engine's members."""

    def feed(self, stream: Record, /) -> None:
        """Draw from this record from now on; it is not written to before the next one."""

    def advance(
        self,
        until: int,
        base: int,
        loss: Float32,
        grad_norm: Float32,
        tick: Callable[[int], None] | None,
        /,
    ) -> bool:
        """Fills loss and grad_norm [M, until - base]; True when a stop left members behind."""

    def request_stop(self) -> None:
        """Ask `advance` to return soon."""


@dataclass(slots=True)
class _Buffer:
    inputs: NDArray[Any]  # [sequences, ..]
    targets: NDArray[Any]

    @classmethod
    def of(cls, sequences: int, ports: Ports) -> _Buffer:
        made: list[NDArray[Any]]
        made = [np.zeros((sequences, *shape), kind) for shape, kind in _shapes(ports)]
        return cls(*made)


@dataclass(frozen=True, slots=True)
class _Slots:
    """Whose batches are drawn: seeds with the first step that a member of theirs still needs."""

    of: Int32  # [M] a member's slot; 0 for those who do not train
    starts: dict[int, int]  # seed -> step, in the order of the slots

    @classmethod
    def for_members(cls, seeds: Sequence[int], step: Int64, moving: NDArray[np.bool_]) -> _Slots:
        starts: dict[int, int] = {}
        for row in np.flatnonzero(moving).tolist():
            starts[seeds[row]] = min(int(step[row]), starts.get(seeds[row], int(step[row])))
        place = {seed: slot for slot, seed in enumerate(starts)}
        return cls(np.array([place.get(seed, 0) for seed in seeds], np.int32), starts)


class HostBatches:
    """The batches of one group's members.

    `room`: bytes of one buffer, of which there are two; at least one step fits.
    """

    def __init__(self, task: HostTask, specs: Sequence[MemberSpec], room: int = ROOM) -> None:
        self._task, self._spec = task, specs[0]
        self._seeds = [spec.data_seed for spec in specs]
        self._size, self._ports = self._spec.training.batch_size, task.ports
        slots, steps = len(set(self._seeds)), self._spec.training.steps
        batch_bytes = self._size * _bytes(self._ports)
        self._batches = min(max(room // batch_bytes, slots), slots * steps)  # in a buffer
        self.sequences = self._batches * self._size  # that a buffer holds
        self.bytes = 2 * self._batches * batch_bytes
        self._buffers: list[_Buffer] = []
        self._drawing: _Drawing | None = None
        self._stop = False

    def empty(self) -> Record:
        """A record without a step, for members that are not trained yet."""
        slots = np.zeros(len(self._seeds), np.int32)
        return self._record(_Buffer.of(0, self._ports), _Slots(slots, {0: 0}), (0, 0))

    def request_stop(self) -> None:
        """Ask `advance` to return after the step at hand (signal-safe)."""
        self._stop = True

    def advance(
        self,
        group: Trainer,
        step: Int64,
        status: NDArray[np.uint8],
        until: int,
        base: int,
        results: tuple[Float32, Float32],
        tick: Callable[[int], None] | None,
    ) -> bool:
        """`advance` of the group, which changes `step` and `status`, chunk by chunk.

        Fills both `results` (loss, grad_norm) [M, until - base]; returns True where a stop left
        members behind. What `batch` raises comes out as it is, after the chunks before it were
        trained; raises UsageError for what is no batch.
        """
        self._stop = False
        before, told = int(step.sum()), time.monotonic()

        def moving() -> NDArray[np.bool_]:
            left: NDArray[np.bool_] = (status == ACTIVE) & (step < until)
            return left

        def tell(more: int = 0) -> None:
            nonlocal told
            told = time.monotonic()
            if tick is not None:
                tick(done + more)
            if self._stop:
                group.request_stop()

        def stopped() -> bool:
            if time.monotonic() - told >= TICK:
                tell()
            return self._stop or not moving().any()

        done = 0
        slots = _Slots.for_members(self._seeds, step, moving())
        spans = list(_spans(base, until, self._batches // max(1, len(slots.starts))))
        if not self._settled(stopped):
            return bool(moving().any())
        drawing = self._draw(slots, spans)
        try:
            for span in spans:
                record = None if stopped() else drawing.next(stopped)
                if record is None:
                    break
                group.feed(record)
                first, last = span
                shape = (len(step), last - first)
                loss, norm = np.full((2, *shape), np.nan, np.float32)
                stopped_inside = group.advance(last, first, loss, norm, tell)
                for whole, part in zip(results, (loss, norm), strict=True):
                    whole[:, first - base : last - base] = part
                done = int(step.sum()) - before
                if stopped_inside:
                    break
                drawing.release()
        finally:
            drawing.cancel()
        return bool(moving().any())

    def feed(self, group: Trainer, row: int, first: int, steps: int) -> None:
        """Give a group the next `steps` batches of one of its members, drawn now."""
        require_room(steps * self._size * _bytes(self._ports))
        self._settled(lambda: False)
        moving = np.arange(len(self._seeds)) == row
        slots = _Slots.for_members(self._seeds, np.full(len(moving), first, np.int64), moving)
        buffer = _Buffer.of(steps * self._size, self._ports)
        group.feed(self._filled(buffer, slots, (first, first + steps), lambda: False))

    def _settled(self, stopped: Callable[[], bool]) -> bool:
        """Wait for a batch that an earlier call left behind; False where a stop came first."""
        while self._drawing is not None and self._drawing.busy(TICK):
            if stopped():
                return False
        self._drawing = None
        return True

    def _draw(self, slots: _Slots, spans: list[Span]) -> _Drawing:
        while len(self._buffers) < 2:
            self._buffers.append(_Buffer.of(self.sequences, self._ports))

        def fill(index: int, cancelled: Callable[[], bool]) -> Record:
            return self._filled(self._buffers[index % 2], slots, spans[index], cancelled)

        self._drawing = _Drawing(fill, len(spans))
        return self._drawing

    def _filled(
        self, buffer: _Buffer, slots: _Slots, span: Span, cancelled: Callable[[], bool]
    ) -> Record:
        """The record of steps [first, last), all slots of a step before the next step."""
        record = self._record(buffer, slots, span)
        for step in range(*span):
            for slot, (seed, start) in enumerate(slots.starts.items()):
                if step >= start and not cancelled():
                    place = slot, step - span[0]
                    record["inputs"][place], record["targets"][place] = self._batch(seed, step)
        return record

    def _record(self, buffer: _Buffer, slots: _Slots, span: Span) -> Record:
        shape = len(slots.starts), span[1] - span[0], self._size
        sequences = int(np.prod(shape))
        return {
            "kind": "host",
            "inputs": buffer.inputs[:sequences].reshape(*shape, *buffer.inputs.shape[1:]),
            "targets": buffer.targets[:sequences].reshape(*shape, *buffer.targets.shape[1:]),
            "width": self._ports.width,
            "numbers": int(self._ports.loss == "squared_error"),
            "masked": int(self._ports.masked),
            "slots": slots.of,
            "first": span[0],
        }

    def _batch(self, seed: int, step: int) -> tuple[Inputs, Targets]:
        """Raises UsageError, which names the task, unless inputs and targets of its ports came."""
        given: Any = self._task.batch(seed, step, self._size)
        asked = f"task {self._spec.task.name}, batch({seed}, {step}, {self._size})"
        pair = given if isinstance(given, tuple | list) else [given]
        if len(pair) != 2 or not all(isinstance(part, np.ndarray) for part in pair):
            kinds = ", ".join(type(part).__name__ for part in pair)
            raise UsageError(f"{asked}: it gave {kinds}; two NumPy arrays are needed")
        inputs, targets = pair
        named = "inputs" if self._ports.width else "tokens"
        shape = self._size, *_shapes(self._ports)[0][0]
        if inputs.shape != shape:
            raise UsageError(f"{asked}: {named} have shape {inputs.shape}; {shape} is needed")
        try:
            found = check_inputs(inputs, self._spec)
            wanted = check_targets(targets, self._size, self._spec)
        except UsageError as error:
            raise UsageError(f"{asked}: {error}") from None
        return found, wanted.reshape(self._size, *_shapes(self._ports)[1][0])


_Part = tuple[tuple[int, ...], type[Any]]


def _shapes(ports: Ports) -> tuple[_Part, _Part]:
    """Shape and type of one sequence's inputs and of its targets."""
    vectors, numbers = ports.width > 0, ports.loss == "squared_error"
    inputs = (ports.length, ports.width) if vectors else (ports.length,)
    targets = (ports.asked, ports.vocabulary) if numbers else (ports.asked,)
    return (inputs, np.float32 if vectors else np.int32), (
        targets,
        np.float32 if numbers else np.int32,
    )


def _bytes(ports: Ports) -> int:
    """Of one sequence."""
    return 4 * sum(int(np.prod(shape)) for shape, _ in _shapes(ports))


class _Drawing:
    """A thread that calls `fill(index, cancelled)` for one chunk after the other, at most two
    ahead of `release`.

    Raises MemoryError where the system grants no thread.
    """

    def __init__(self, fill: Callable[[int, Callable[[], bool]], Record], chunks: int) -> None:
        self._fill, self._chunks = fill, chunks
        self._free = threading.Semaphore(2)
        self._ready: queue.SimpleQueue[Record | BaseException] = queue.SimpleQueue()
        self._cancelled = False
        # A daemon: a batch that never comes must not keep the process from its end.
        self._thread = threading.Thread(target=self._run, name="compfast batches", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise MemoryError from error

    def next(self, stopped: Callable[[], bool]) -> Record | None:
        """The next chunk, or None where a stop came first; raises what `fill` raised."""
        while True:
            try:
                found = self._ready.get(timeout=TICK)
                break
            except queue.Empty:
                if stopped():
                    return None
        if isinstance(found, BaseException):
            raise found
        return found

    def release(self) -> None:
        """The oldest chunk was used; its buffer may be filled again."""
        self._free.release()

    def cancel(self) -> None:
        """Draw no further; waits a little for the batch at hand."""
        self._cancelled = True
        self._free.release()
        self._thread.join(PATIENCE)

    def busy(self, seconds: float) -> bool:
        """Whether the thread is still at work after so many seconds."""
        self._thread.join(seconds)
        return self._thread.is_alive()

    def _run(self) -> None:
        for index in range(self._chunks):
            self._free.acquire()
            if self._cancelled:
                return
            try:
                self._ready.put(self._fill(index, lambda: self._cancelled))
            except BaseException as error:  # the caller's to see
                self._ready.put(error)
                return


def _spans(first: int, until: int, most: int) -> Iterator[Span]:
    """Steps [first, until) in chunks of 1, 2, 4 ... `most` steps."""
    size = 1
    while first < until:
        size = min(size, most, until - first)
        yield first, first + size
        first, size = first + size, 2 * size
