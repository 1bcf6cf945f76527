"""The triton engine: all members of a stack on one GPU, a step in a few launches."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import triton
from numpy.typing import NDArray

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
from compfast.engines.triton import adamw, decoding, memory
from compfast.engines.triton.refusals import check_plan
from compfast.engines.triton.step import HISTORY, Members, Step, flat_layout, program_for
from compfast.ensembles.schedule import Tables
from compfast.errors import UsageError
from compfast.models.families import model_plan
from compfast.models.init import initial_parameters
from compfast.tasks import make_task

TICK = 0.2  # seconds between two calls of `tick`


def isa() -> str:
    """What the bits of this process's engines hang on: sm_<compute capability>, or "interpreter".

    Raises UsageError where PyTorch sees no GPU.
    """
    if triton.knobs.runtime.interpret:
        return "interpreter"
    if not torch.cuda.is_available():
        raise UsageError(
            f"engine triton needs PyTorch to see the GPU, but torch {torch.__version__} sees none"
        )
    return "sm_{}{}".format(*torch.cuda.get_device_capability())


class TritonEngine:
    """See engines/base.py; bits are the same for any M, order, chunk and number of stacks.

    `stacked`: members computed at once; None: as many as the device's memory holds, and half as
    many whenever it proves too small. Under TRITON_INTERPRET=1 the kernels run on the CPU.
    """

    name = "triton"

    def __init__(
        self,
        specs: Sequence[MemberSpec],
        tables: Tables,
        *,
        threads: int | None = None,
        stacked: int | None = None,
    ) -> None:
        check_group(specs)
        plan = model_plan(specs[0].model, absorb=False)
        check_plan(plan, make_task(specs[0].task).length)
        self._several = make_task(specs[0].task).ports.several
        self._single = plan.ops[-1].attributes.get("loss") == "logistic"
        self._interpreted = bool(triton.knobs.runtime.interpret)
        if self._interpreted:
            warnings.warn(
                "TRITON_INTERPRET=1: the triton engine runs in an interpreter on the CPU,"
                " thousands of times slower than on a GPU",
                stacklevel=2,
            )
        self.isa = isa()
        self._device = torch.device("cpu" if self._interpreted else "cuda")
        self._specs, self._tables = list(specs), tables
        self._flat = flat_layout(specs[0])
        self._members = Members.zeros(len(specs), self._flat.size, self._device)
        self._stacked = stacked or memory.stacked(specs[0], self._flat, len(specs), self._device)
        self._step: tuple[range, Step] | None = None
        self._stop = False

    def initialise(self) -> None:
        drawn = [
            initial_parameters(spec, std)
            for spec, std in zip(self._specs, self._tables.std, strict=True)
        ]
        m = self._members
        self._put({name: np.stack([d[name] for d in drawn]) for name in drawn[0]}, m.params)
        for tensor in (m.exp_avg, m.exp_avg_sq, m.step, m.status):
            tensor.zero_()

    def load(self, state: State) -> None:
        check_state(state, self._specs)
        m = self._members
        self._put(state.params, m.params)
        self._put(state.exp_avg, m.exp_avg)
        self._put(state.exp_avg_sq, m.exp_avg_sq)
        m.step.copy_(torch.from_numpy(state.step))
        m.status.copy_(torch.from_numpy(state.status))

    def state(self) -> State:
        m = self._members
        flats = (m.params, m.exp_avg, m.exp_avg_sq)
        params, exp_avg, exp_avg_sq = (self._flat.unpack(_array(x)) for x in flats)
        step, status = _array(m.step).copy(), _array(m.status).copy()
        return State(params, exp_avg, exp_avg_sq, step, status)

    def launches(self) -> int:
        """Kernel launches of one optimiser step."""
        return len(self._step_of(next(self._stacks())).launches)

    def advance(self, until: int, tick: Callable[[int], None] | None = None) -> Advance:
        check_until(until, self._tables)
        before = _array(self._members.step).copy()
        moving = self._moving(until)
        base = int(before[moving].min()) if moving.any() else until
        loss = np.full((len(self._specs), until - base), np.nan, np.float32)
        norm = loss.copy()
        ticked = time.monotonic()
        try:
            for rows in self._stacks():
                while not self._stop and (window := self._window(rows, until)) is not None:
                    self._run(rows, window, loss, norm, base)
                    if tick is not None and time.monotonic() - ticked >= TICK:
                        tick(int((_array(self._members.step) - before).sum()))
                        ticked = time.monotonic()
        finally:
            self._stop = False
        return Advance(base, loss, norm, stopped=bool(self._moving(until).any()))

    def request_stop(self) -> None:
        self._stop = True

    def freeze(self, members: NDArray[np.bool_]) -> None:
        status = self._members.status
        chosen = torch.from_numpy(np.asarray(members)).to(self._device) & (status == ACTIVE)
        status[chosen] = FROZEN

    def predict(self, inputs: Inputs) -> Int32:
        parts = [decoding.first_largest(logits) for _, logits in self._logits(inputs)]
        return np.concatenate([_array(part) for part in parts]).astype(np.int32)

    def outputs(self, inputs: Inputs, members: Sequence[int]) -> Float32:
        every = np.concatenate([_array(logits) for _, logits in self._logits(inputs)])
        wanted: Float32 = every[check_members(members, len(self._specs))]
        return wanted

    def generate(self, prompts: Prompts, members: Sequence[int]) -> Int32:
        rows = check_members(members, len(self._specs))
        given = check_prompts(prompts, self._specs[0], len(rows))
        chosen = self._members.params[torch.from_numpy(rows).to(self._device)]
        self._step = None  # its memory
        return decoding.generate(self._specs[0], self._flat, chosen, given)

    def gradients(self, tokens: Inputs, targets: Targets) -> tuple[Float32, Named]:
        """Mean loss [M] over tokens [B, T], targets [B], and its gradient by name [M, *shape].

        Or over vectors and what is asked of them, as in base.py.
        """
        batch = self._tokens(tokens)
        answers = check_targets(targets, len(batch), self._specs[0])
        losses, flats = [], []
        for rows in self._stacks():
            params = self._members.params[rows.start : rows.stop]
            live = torch.ones(len(rows), dtype=torch.int32, device=self._device)
            program = program_for(self._specs[0], self._flat, params, live, len(tokens))
            program.tokens.copy_(batch)
            program.targets.copy_(torch.from_numpy(answers))
            squares = torch.zeros(
                (len(rows), adamw.programs(self._flat.size)),
                dtype=torch.float32,
                device=self._device,
            )
            last = adamw.reduce(program.gradients, squares, live)
            for launch in (program.embed, *program.train, last):
                launch.run()
            losses.append(_array(program.losses.sum(1)))
            flats.append(_array(program.gradients[:, 0]))
        return np.concatenate(losses), self._flat.unpack(np.concatenate(flats))

    def _put(self, named: Named, target: torch.Tensor) -> None:
        flat = np.zeros(target.shape, np.float32)
        self._flat.pack(named, flat)
        target.copy_(torch.from_numpy(flat))

    def _moving(self, until: int) -> NDArray[np.bool_]:
        m = self._members
        moving: NDArray[np.bool_] = _array((m.status == ACTIVE) & (m.step < until))
        return moving

    def _stacks(self) -> Iterator[range]:
        """Rows computed together, in order. Halved from inside the loop when memory runs out."""
        start = 0
        while start < len(self._specs):
            rows = range(start, min(start + self._stacked, len(self._specs)))
            yield range(start, self._fit(rows))
            start += self._stacked

    def _fit(self, rows: range) -> int:
        """End of what fits in memory from `rows.start` on; keeps its step, halves `_stacked`."""
        while True:
            stop = min(rows.start + self._stacked, len(self._specs))
            try:
                self._step_of(range(rows.start, stop))
            except torch.OutOfMemoryError:
                self._step = None
                if self._stacked == 1:
                    raise
                self._stacked = -(-self._stacked // 2)
            else:
                return stop

    def _step_of(self, rows: range) -> Step:
        """The step of these rows: the last one used is kept, with its workspace and graph."""
        if self._step is None or self._step[0] != rows:
            self._step = None  # its memory first
            specs = self._specs[rows.start : rows.stop]
            members = self._members.rows(rows.start, rows.stop)
            step = Step(specs, self._flat, self._tables, members)
            if not self._interpreted:
                step.capture()
            self._step = rows, step
        return self._step[1]

    def _window(self, rows: range, until: int) -> range | None:
        """The next steps of these rows before the host looks again."""
        moving = self._moving(until)[rows.start : rows.stop]
        if not moving.any():
            return None
        steps = _array(self._members.step)[rows.start : rows.stop][moving]
        return range(int(steps.min()), min(until, int(steps.min()) + HISTORY))

    def _run(self, rows: range, window: range, loss: Float32, norm: Float32, base: int) -> None:
        step = self._step_of(rows)
        step.open_window(window.start, window.stop)
        for _ in window:
            if self._stop:
                break
            step.run()
        columns = slice(window.start - base, window.stop - base)
        for found, kept in ((step.loss, loss), (step.norm, norm)):
            new = _array(found)[:, : len(window)]
            old = kept[rows.start : rows.stop, columns]
            old[:] = np.where(np.isnan(old), new, old)

    def _logits(self, tokens: Inputs) -> Iterator[tuple[range, torch.Tensor]]:
        """(rows, logits [rows, N, V] at the last position), the training batch at a time.

        Of vectors, outputs [rows, N, asked, V]. No attention weight is dropped.
        """
        whole = self._tokens(tokens)
        for rows in self._stacks():
            step = self._step_of(rows)
            program, parts = step.program, []
            step.live.fill_(1)
            program.drop_nothing()
            for start in range(0, len(whole), program.batch):
                part = whole[start : start + program.batch]
                program.tokens.zero_()
                program.tokens[:, : len(part)] = part
                for launch in program.forward:
                    launch.run()
                found = program.logits
                shape = (len(rows), program.batch, found.each, found.ld)
                logits = found.tensor.view(shape)[:, : len(part), :, : found.width]
                parts.append((logits if self._several else logits[:, :, -1]).clone())
            logits = torch.cat(parts, 1)
            if self._single:  # token 0 has logit 0
                logits = torch.cat([torch.zeros_like(logits), logits], -1)
            yield rows, logits

    def _tokens(self, tokens: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(check_inputs(tokens, self._specs[0])).to(self._device)


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.cpu().numpy()
    return array
