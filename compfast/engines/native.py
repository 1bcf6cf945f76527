"""The native engine: fused C++ on the CPU, one worker thread owns one member at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compfast import _native
from compfast.config import MemberSpec, Prompts
from compfast.engines.base import (
    ACTIVE,
    FROZEN,
    Advance,
    Float32,
    Inputs,
    Int32,
    Named,
    State,
    Targets,
)
from compfast.engines.checks import (
    check_group,
    check_inputs,
    check_members,
    check_prompts,
    check_state,
    check_targets,
    check_until,
)
from compfast.engines.cores import usable_cores
from compfast.engines.decays import weight_decays
from compfast.engines.decoding import Decoder
from compfast.engines.host_batches import HostBatches
from compfast.engines.native_plan import NativePlan
from compfast.engines.profile import Profile
from compfast.ensembles.room import has_room, require_room
from compfast.ensembles.schedule import Tables
from compfast.errors import UsageError
from compfast.models.init import initial_values, is_gaussian
from compfast.models.params import parameter_count, parameter_table
from compfast.tasks import make_task

_OPTIMIZERS = {"adamw": 0, "sgd": 1}  # csrc/plan.h


class NativeEngine:
    """See engines/base.py; bits are the same for any M, order, chunk and thread count.

    Raises UsageError for a COMPFAST_ISA this machine cannot run.
    """

    name = "native"

    def __init__(
        self, specs: Sequence[MemberSpec], tables: Tables, *, threads: int | None = None
    ) -> None:
        check_group(specs)
        first = specs[0]
        require_room(12 * len(specs) * parameter_count(first.model))
        self.specs = list(specs)
        task = make_task(first.task)
        self._ports = task.ports
        self.plan = NativePlan(
            first.model,
            task.length,
            first.training.batch_size,
            first.optimizer.decay,
            first.training.precision,
        )
        self._flat = self.plan.flat
        self._decoder: Decoder | None = None  # made when first asked
        members = len(specs)
        stream = task.stream()
        self._host = None
        if stream is None:
            self._host = HostBatches(task, specs)
            stream = self._host.empty()
        held = 12 * members * self._flat.size + (self._host.bytes if self._host else 0)
        self._params = _aligned(members, self._flat.size)
        self._exp_avg = _aligned(members, self._flat.size)
        self._exp_avg_sq = _aligned(members, self._flat.size)
        self._touched = False  # the moments may be other than zero
        self._step = np.zeros(members, np.int64)
        self._status = np.zeros(members, np.uint8)
        self._tables = tables
        arrays = {
            "params": self._params,
            "m": self._exp_avg,
            "v": self._exp_avg_sq,
            "step": self._step,
            "status": self._status,
            "seed": np.array([spec.data_seed for spec in specs], np.uint64),
            "dropout_seed": np.array([spec.init_seed for spec in specs], np.uint64),
            "lr": np.array([spec.optimizer.lr for spec in specs], np.float64),
            "weight_decay": weight_decays(specs),
            "clip": np.array([spec.optimizer.clip for spec in specs], np.float64),
        }
        optimizer = {
            "beta1": first.optimizer.beta1,
            "beta2": first.optimizer.beta2,
            "eps": first.optimizer.eps,
            "scale": tables.scale,
            "offset": tables.offset,
            "correction1": tables.bias_correction1,
            "correction2": tables.bias_correction2,
            "decay": tables.decay,
            "kind": _OPTIMIZERS[first.optimizer.kind],
            "momentum": first.optimizer.momentum,
            "nesterov": int(first.optimizer.nesterov),
        }
        workers = min(threads or usable_cores().count, 2 * members)
        while workers > 1 and not has_room(held + workers * self.plan.worker_bytes):
            workers //= 2
        require_room(held + workers * self.plan.worker_bytes)
        record = self.plan.record()
        while True:
            try:
                self._group = _native.Group(record, optimizer, stream, arrays, workers)
                break
            except ValueError as error:
                raise UsageError(str(error)) from None
            except MemoryError:  # each worker has a workspace; fewer of them give the same bits
                if workers == 1:
                    raise
                workers //= 2
        self._workers = workers
        self.isa: str = self._group.isa()

    def initialise(self) -> None:
        # In threads of C++ that raise nothing: a Python thread that meets the end of memory may
        # end the process or never answer.
        seeds = np.array([spec.init_seed for spec in self.specs], np.uint64)
        table = parameter_table(self.specs[0].model)
        for column, tensor in zip(self._tables.std.T, table, strict=True):
            where = self._flat.view(tensor.name, self._params)  # [M, rows, columns]
            if not all(is_gaussian(tensor, spec.init) for spec in self.specs):
                for values, spec, own in zip(where, self.specs, column, strict=True):
                    values[:] = initial_values(tensor, spec, float(own)).reshape(values.shape)
                continue
            std = np.ascontiguousarray(column)
            strides = [step // where.itemsize for step in where.strides[:2]]
            data = [array.ctypes.data for array in (seeds, std, where)]
            _native.normals(*where.shape, *strides, tensor.id, self._workers, *data)
        if self._touched:  # fresh memory is zero, and costs nothing until a member trains
            self._exp_avg[:] = 0
            self._exp_avg_sq[:] = 0
        self._step[:] = 0
        self._status[:] = ACTIVE

    def load(self, state: State) -> None:
        check_state(state, self.specs)
        self._touched = True
        self._flat.pack(state.params, self._params)
        self._flat.pack(state.exp_avg, self._exp_avg)
        self._flat.pack(state.exp_avg_sq, self._exp_avg_sq)
        self._step[:] = state.step
        self._status[:] = state.status

    def state(self) -> State:
        return State(
            self._flat.unpack(self._params),
            self._flat.unpack(self._exp_avg),
            self._flat.unpack(self._exp_avg_sq),
            self._step.copy(),
            self._status.copy(),
        )

    def advance(self, until: int, tick: Callable[[int], None] | None = None) -> Advance:
        check_until(until, self._tables)
        self._touched = True
        moving = self._step[(self._status == ACTIVE) & (self._step < until)]
        base = int(moving.min()) if moving.size else until
        shape = (len(self.specs), until - base)
        loss, norm = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
        if self._host is None:
            stopped = self._group.advance(until, base, loss, norm, tick)
        else:
            progress = self._step, self._status
            stopped = self._host.advance(self._group, *progress, until, base, (loss, norm), tick)
        return Advance(base, loss, norm, stopped)

    def request_stop(self) -> None:
        if self._host is not None:
            self._host.request_stop()
        self._group.request_stop()

    def freeze(self, members: NDArray[np.bool_]) -> None:
        self._status[members & (self._status == ACTIVE)] = FROZEN

    def predict(self, inputs: Inputs) -> Int32:
        given = check_inputs(inputs, self.specs[0])
        best: Int32 = self._asked(self._group.predict(np.arange(len(self.specs)), given))
        return best

    def outputs(self, inputs: Inputs, members: Sequence[int]) -> Float32:
        rows = check_members(members, len(self.specs))
        given = check_inputs(inputs, self.specs[0])
        found: Float32 = self._asked(self._group.outputs(rows, given))
        return found

    def generate(self, prompts: Prompts, members: Sequence[int]) -> Int32:
        rows = check_members(members, len(self.specs))
        given = check_prompts(prompts, self.specs[0], len(rows))
        if self._decoder is None:
            first = self.specs[0]
            self._decoder = Decoder(first.model, self._flat, first.training.precision)
        return self._decoder.generate(self._group, rows, given)

    def gradients(self, inputs: Inputs, targets: Targets) -> tuple[Float32, Named]:
        """Mean loss [M] over a batch as the task gives it, and its gradient by name [M, *shape]."""
        given = check_inputs(inputs, self.specs[0])
        answers = check_targets(targets, len(given), self.specs[0])
        if answers.ndim == 1:
            answers = answers[:, None]
        loss, flat = self._group.gradients(given, answers)
        return loss, self._flat.unpack(flat)

    def _asked(self, found: NDArray[Any]) -> NDArray[Any]:
        """[M, N, asked, ..]; of tokens without a mask, their one position's."""
        return found if self._ports.several else found[:, :, 0]

    def profile(self, member: int, steps: int) -> Profile:
        """Train a copy of one member for `steps` steps on one thread, with counters.

        The member itself stays as it is. Raises UsageError for a member that is not there, and
        for steps past the end of its training; fewer steps come back where one is not finite.
        """
        if not 0 <= member < len(self.specs):
            raise UsageError(f"member is {member}; it must be in 0..{len(self.specs) - 1}")
        left = len(self._tables.scale) - int(self._step[member])
        if not 1 <= steps <= left:
            raise UsageError(f"steps is {steps}; member {member} has {left} left to train")
        if self._host is not None:
            self._host.feed(self._group, member, int(self._step[member]), steps)
        return Profile.of(self._group.profile(member, steps))


def _aligned(members: int, size: int) -> Float32:
    """Zeroed float32 [members, size] whose first element is 64-byte aligned."""
    raw: Float32 = np.zeros(members * size + 16, np.float32)
    skip = -raw.ctypes.data % 64 // 4
    return raw[skip : skip + members * size].reshape(members, size)
