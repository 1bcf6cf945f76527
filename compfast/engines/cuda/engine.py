"""The cuda engine: one launch trains members for many steps, a thread block each (csrc/cuda)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compfast.config import MemberSpec, ModelConfig, Prompts
from compfast.engines.base import (
    ACTIVE,
    FROZEN,
    Advance,
    Float32,
    Inputs,
    Int32,
    Named,
    State,
)
from compfast.engines.checks import check_group, check_state, check_until
from compfast.engines.cuda import driver as drivers
from compfast.engines.cuda.network import find_network
from compfast.engines.cuda.pace import MOST_SEQUENCES, Pace
from compfast.engines.cuda.streams import AnchorStream, HostStream, Stream
from compfast.engines.decays import weight_decays
from compfast.engines.flat import FlatLayout
from compfast.engines.host_batches import HostBatches, Record
from compfast.engines.native import NativeEngine
from compfast.ensembles.schedule import Tables
from compfast.errors import UsageError
from compfast.models.families import model_plan
from compfast.tasks import make_task

TICK = 0.2  # seconds between two calls of `tick`
_FLOATS = ("params", "exp_avg", "exp_avg_sq", "gradient")
KINDS = {"adamw": 0, "sgd": 1}  # csrc/plan.h
Tick = Callable[[int], None]


class CudaEngine:
    """See engines/base.py; bits are the same for any M, order, chunk and length of a launch.

    The anchor task is drawn by the kernel, every other one by the host (engines/host_batches.py).

    Answers (`predict`, `logits`) come from the native engine on a copy of the weights: a library's
    stacked products on the GPU would choose their order of sums by the number of members. So the
    bits hang on the GPU and on the CPU, and `isa` names both. A stop is heard between launches,
    within about 0.1 s where a member's batch is ordinary (engines/cuda/pace.py).

    Raises UsageError for a network that no kernel is compiled for and for a GPU that cannot
    run it, MemoryError where the members do not fit.
    """

    name = "cuda"

    def __init__(
        self, specs: Sequence[MemberSpec], tables: Tables, *, threads: int | None = None
    ) -> None:
        check_group(specs)
        self._driver = drivers.open_driver()
        shapes, first = self._driver.shapes(), specs[0]
        self._network = find_network(specs, shapes)
        plan = model_plan(first.model, absorb=False)
        self._flat = FlatLayout(first.model, plan, first.optimizer.decay)
        built = shapes[self._network]["flat_size"]
        if self._flat.size != built:
            raise RuntimeError(
                f"compfast._cuda has {built} numbers a member, this version {self._flat.size};"
                " build it anew"
            )
        assert isinstance(first.model, ModelConfig)  # find_network refuses other families
        self._epsilon = first.model.norm_eps
        self._specs, self._tables = list(specs), tables
        self._answers = NativeEngine(specs, tables, threads=threads)
        self._stale = True  # the answers' weights are not the members'
        self.isa = f"{self._driver.isa}_{self._answers.isa}"
        self._batch = first.training.batch_size
        self._members = self._allocated()
        self._shared = self._tables_on_device()
        task = make_task(first.task)
        stream = task.stream()
        self._host: HostBatches | None = None
        self._stream: Stream
        if stream is not None and stream["kind"] == "anchor":
            self._stream = AnchorStream(self._driver, stream)
        else:
            self._host = HostBatches(task, specs)
            self._fed = self._stream = HostStream(self._driver, self._host, task.length)
        self._pace = Pace()
        self._stop = False
        self._try_launch()

    def initialise(self) -> None:
        self._answers.initialise()
        self._put("params", self._answers.state().params)
        for name in ("exp_avg", "exp_avg_sq", "step", "status"):
            self._members[name].zero_()
        self._stale = True

    def load(self, state: State) -> None:
        check_state(state, self._specs)
        for name in ("params", "exp_avg", "exp_avg_sq"):
            self._put(name, getattr(state, name))
        self._write("step", state.step)
        self._write("status", state.status)
        self._stale = True

    def state(self) -> State:
        params, first, second = (self._flat.unpack(self._fetch(name)) for name in _FLOATS[:3])
        return State(params, first, second, self._fetch("step"), self._fetch("status"))

    def advance(self, until: int, tick: Tick | None = None) -> Advance:
        check_until(until, self._tables)
        step, moving = self._fetch("step"), self._moving(until)
        base = int(step[moving].min()) if moving.any() else until
        loss = np.full((len(self._specs), until - base), np.nan, np.float32)
        norm = loss.copy()
        self._stale |= bool(moving.any())
        try:
            if self._host is None:
                self._train(until, base, loss, norm, tick)
            elif not self._stop:
                fed = _Fed(self, step, self._fetch("status"))
                self._host.advance(fed, *fed.progress, until, base, (loss, norm), tick)
        finally:
            self._stop = False
        return Advance(base, loss, norm, stopped=bool(self._moving(until).any()))

    def request_stop(self) -> None:
        self._stop = True
        if self._host is not None:
            self._host.request_stop()

    def freeze(self, members: NDArray[np.bool_]) -> None:
        status = self._fetch("status")
        status[members & (status == ACTIVE)] = FROZEN
        self._write("status", status)

    def predict(self, inputs: Inputs) -> Int32:
        return self._answering().predict(inputs)

    def outputs(self, inputs: Inputs, members: Sequence[int]) -> Float32:
        return self._answering().outputs(inputs, members)

    def generate(self, prompts: Prompts, members: Sequence[int]) -> Int32:
        raise UsageError("engine cuda does not go on from prompts; native, triton and eager do")

    def _answering(self) -> NativeEngine:
        """The native engine with the members' weights."""
        if self._stale:
            params = self._flat.unpack(self._fetch("params"))
            self._answers.load(State.fresh(params))
            self._stale = False
        return self._answers

    def _allocated(self) -> dict[str, torch.Tensor]:
        """What lasts of the members, a row each: members of `_cuda.train` but loss and norm."""
        count, zeros = len(self._specs), self._driver.zeros
        length = make_task(self._specs[0].task).length
        made = {name: zeros((count, self._flat.size), torch.float32) for name in _FLOATS}
        made["tokens"] = zeros((count, self._batch, length), torch.int32)
        made["targets"] = zeros((count, self._batch), torch.int32)
        made["step"] = zeros((count,), torch.int64)
        made["status"] = zeros((count,), torch.uint8)
        seeds = np.array(
            [spec.data_seed for spec in self._specs], np.int64
        )  # below 2^53: uint64's bits
        made["seeds"] = self._copied(seeds, torch.int64)
        made["slots"] = zeros((count,), torch.int32)
        for name in ("lr", "clip"):
            values = np.array([getattr(s.optimizer, name) for s in self._specs], np.float64)
            made[name] = self._copied(values, torch.float64)
        made["weight_decay"] = self._copied(weight_decays(self._specs), torch.float64)
        return made

    def _tables_on_device(self) -> dict[str, torch.Tensor]:
        """What members share of the optimiser."""
        tables, shared = self._tables, {}
        for name, table in (
            ("scale", tables.scale),
            ("offset", tables.offset),
            ("correction1", tables.bias_correction1),
            ("correction2", tables.bias_correction2),
            ("decay", tables.decay),
        ):
            shared[name] = self._copied(table, torch.float64)
        columns = [np.full(size, own, np.uint8) for _, size, own in self._flat.segments]
        shared["decay_columns"] = self._copied(np.concatenate(columns), torch.uint8)
        return shared

    def _try_launch(self) -> None:
        """A launch in which nobody moves, so that a GPU that cannot run it is refused at once."""
        self._members["status"].fill_(FROZEN)
        try:
            held = self._launch(slice(0, 1), range(1))
            self._driver.synchronise()
            del held  # the launch wrote there
        except RuntimeError as error:
            raise UsageError(
                f"engine cuda cannot run here ({error}); ask for engine triton or native"
            ) from None
        self._members["status"].zero_()

    def _turns(self) -> Iterator[slice]:
        """Rows that train together, in order."""
        most = max(1, MOST_SEQUENCES // self._batch)
        for start in range(0, len(self._specs), most):
            yield slice(start, min(start + most, len(self._specs)))

    def _moving(self, until: int) -> NDArray[np.bool_]:
        moving: NDArray[np.bool_] = self._fetch("status") == ACTIVE
        return moving & (self._fetch("step") < until)

    def _train(
        self, until: int, base: int, loss: Float32, norm: Float32, tick: Tick | None
    ) -> None:
        """Launches until all stand at `until` or a stop comes; fills loss and norm [M, steps]."""
        before, ticked = self._fetch("step"), time.monotonic()
        for rows in self._turns():
            while not self._stop and (window := self._window(rows, until)) is not None:
                columns = slice(window.start - base, window.stop - base)
                loss[rows, columns], norm[rows, columns] = self._run(rows, window)
                if tick is not None and time.monotonic() - ticked >= TICK:
                    tick(int((self._fetch("step") - before).sum()))
                    ticked = time.monotonic()

    def _window(self, rows: slice, until: int) -> range | None:
        """The steps of the next launch of these rows."""
        steps = self._fetch("step")[rows][self._moving(until)[rows]]
        if not steps.size:
            return None
        low = int(steps.min())
        running = int((steps < low + self._pace.most()).sum())
        return range(low, min(until, low + self._pace.steps(running)))

    def _run(self, rows: slice, window: range) -> tuple[Float32, Float32]:
        """Loss and gradient norm [rows, window]; NaN where a member did not run."""
        before, began = self._fetch("step"), time.monotonic()
        loss, norm = self._launch(rows, window)
        self._driver.synchronise()
        found = _array(loss), _array(norm)
        done = int((self._fetch("step") - before).sum())
        self._pace.saw(len(window), done, time.monotonic() - began)
        return found

    def _launch(self, rows: slice, window: range) -> tuple[torch.Tensor, torch.Tensor]:
        """Starts these rows on their way to the window's end; no row may stand before it."""
        count = rows.stop - rows.start
        loss, norm = (
            self._driver.zeros((count, len(window)), torch.float32).fill_(torch.nan)
            for _ in range(2)
        )
        members = {name: tensor[rows] for name, tensor in self._members.items()}
        options = self._specs[0].optimizer
        self._driver.train(
            self._network,
            self._stream.record(),
            {
                **_addresses(self._shared),
                **{name: getattr(options, name) for name in ("beta1", "beta2", "eps", "momentum")},
                "kind": KINDS[options.kind],
                "nesterov": int(options.nesterov),
            },
            self._batch,
            self._epsilon,
            _addresses({**members, "loss": loss, "grad_norm": norm}),
            count,
            window.start,
            window.stop,
        )
        return loss, norm

    def _copied(self, array: NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
        return drivers.copied(self._driver, array, dtype)

    def _put(self, name: str, named: Named) -> None:
        flat = np.zeros((len(self._specs), self._flat.size), np.float32)
        self._flat.pack(named, flat)
        self._write(name, flat)

    def _write(self, name: str, array: NDArray[Any]) -> None:
        self._members[name].copy_(torch.from_numpy(np.array(array)))

    def _fetch(self, name: str) -> NDArray[Any]:
        return _array(self._members[name])


class _Fed:
    """The engine as HostBatches drives it, chunk by chunk; `progress` are step and status [M]."""

    def __init__(
        self, engine: CudaEngine, step: NDArray[np.int64], status: NDArray[np.uint8]
    ) -> None:
        self._engine, self.progress = engine, (step, status)

    def feed(self, record: Record, /) -> None:
        self._engine._fed.feed(record)
        self._engine._write("slots", record["slots"])

    def advance(
        self, until: int, base: int, loss: Float32, norm: Float32, tick: Tick | None, /
    ) -> bool:
        self._engine._train(until, base, loss, norm, tick)
        step, status = self.progress
        step[:], status[:] = self._engine._fetch("step"), self._engine._fetch("status")
        return bool(self._engine._moving(until).any())

    def request_stop(self) -> None:
        self._engine._stop = True


def _addresses(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in tensors.items()}


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    """A copy on the host."""
    array: NDArray[Any] = tensor.cpu().numpy().copy()
    return array
