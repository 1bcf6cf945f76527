"""The oracle engine: plain PyTorch, one `nn.Module` and one optimiser a member, float32.

Every member computes on one intra-op thread that is not the caller's (engines/aside.py), so that
its bits depend on nothing but itself; `threads` > 1 trains that many members at a time.
"""

from __future__ import annotations

import concurrent.futures
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from compfast.config import MemberSpec, Prompts
from compfast.engines.aside import aside, clean_threads, require_exact_products
from compfast.engines.base import (
    ACTIVE,
    DIVERGED,
    FROZEN,
    Advance,
    Float32,
    Inputs,
    Int32,
    Int64,
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
from compfast.engines.greedy import greedy
from compfast.engines.lengths import asked_lengths, cuts_batches
from compfast.ensembles.room import require_room
from compfast.ensembles.schedule import Tables
from compfast.models.families import Network, family_of, model_plan
from compfast.models.init import initial_parameters
from compfast.models.params import parameter_count, parameter_table
from compfast.models.precision import products
from compfast.tasks import make_task

TICK = 0.2  # seconds between two calls of `tick`
GENERATED = 256  # sequences that pass at once, at most
_FIRST = {"adamw": "exp_avg", "sgd": "momentum_buffer"}  # what PyTorch calls State.exp_avg


@dataclass(slots=True)
class _Member:
    """One network, its optimiser and its progress."""

    spec: MemberSpec
    module: Network
    optimizer: torch.optim.Optimizer
    step: int
    status: int

    def train_step(
        self, inputs: Tensor, targets: Tensor, lr: float, decay: float
    ) -> tuple[float, float]:
        """One step on a batch; returns loss and gradient norm.

        `decay` multiplies the weight decays.
        Where one of the two is not finite the member is DIVERGED and keeps its parameters.
        """
        self.optimizer.zero_grad()
        with products(self.spec.training.precision):
            loss = self.module.loss(inputs, targets, self.spec.model.loss_positions)
        loss.backward()  # type: ignore[no-untyped-call]
        clip = self.spec.optimizer.clip or math.inf
        norm = float(clip_grad_norm_(self.module.parameters(), clip))
        value = loss.item()
        if math.isfinite(value) and math.isfinite(norm):
            for part in self.optimizer.param_groups:
                part["lr"], weight_decay = lr, part["own_decay"] * decay
                if isinstance(self.optimizer, torch.optim.SGD):  # whose decay is not decoupled
                    with torch.no_grad():
                        for parameter in part["params"]:
                            parameter.mul_(1 - lr * weight_decay)
                else:
                    part["weight_decay"] = weight_decay
            self.optimizer.step()
            self.step += 1
        else:
            self.status = DIVERGED
        return value, norm


class EagerEngine:
    """See `compfast.engines.base.Engine`."""

    name = "eager"
    isa = "torch"

    def __init__(
        self, specs: Sequence[MemberSpec], tables: Tables, *, threads: int | None = None
    ) -> None:
        check_group(specs)
        self._specs = tuple(specs)
        self._tables = tables
        self._threads = min(threads or usable_cores().count, len(specs))
        require_room(12 * len(specs) * parameter_count(specs[0].model))
        self._precision = specs[0].training.precision
        self._table = parameter_table(specs[0].model)
        self._task = make_task(specs[0].task)
        self._cuts = cuts_batches(model_plan(specs[0].model), self._task.length)
        self._stop = False
        self._members: list[_Member] = []
        self.initialise()

    def initialise(self) -> None:
        self.load(aside(self._fresh))

    def _fresh(self) -> State:
        drawn = [
            initial_parameters(spec, std)
            for spec, std in zip(self._specs, self._tables.std, strict=True)
        ]
        params = {t.name: np.stack([draw[t.name] for draw in drawn]) for t in self._table}
        return State.fresh(params)

    def load(self, state: State) -> None:
        check_state(state, self._specs)
        self._members = aside(lambda: [self._member(state, i) for i in range(len(self._specs))])

    def state(self) -> State:
        def moment(which: str) -> Named:
            return {
                t.name: np.stack(
                    [
                        m.optimizer.state[m.module.get_parameter(t.name)][which].numpy()
                        for m in self._members
                    ]
                )
                for t in self._table
            }

        return State(
            params=self._stacked(lambda p: p),
            exp_avg=moment(_FIRST[self._specs[0].optimizer.kind]),
            exp_avg_sq=moment("exp_avg_sq"),
            step=np.array([m.step for m in self._members], np.int64),
            status=np.array([m.status for m in self._members], np.uint8),
        )

    def advance(self, until: int, tick: Callable[[int], None] | None = None) -> Advance:
        check_until(until, self._tables)
        todo = {
            row: m for row, m in enumerate(self._members) if m.status == ACTIVE and m.step < until
        }
        base = min((m.step for m in todo.values()), default=until)
        loss = np.full((len(self._members), until - base), np.nan, np.float32)
        norm = loss.copy()
        steps_before = sum(m.step for m in todo.values())

        def work(member: _Member, row: int) -> None:
            while member.status == ACTIVE and member.step < until and not self._stop:
                column = member.step - base
                loss[row, column], norm[row, column] = self._train_step(member)

        try:
            with clean_threads(self._threads) as pool:
                pool.submit(require_exact_products).result()
                pending = {pool.submit(work, member, row) for row, member in todo.items()}
                try:
                    while pending:
                        done, pending = concurrent.futures.wait(pending, timeout=TICK)
                        for future in done:
                            future.result()
                        if tick is not None:
                            tick(sum(m.step for m in todo.values()) - steps_before)
                except BaseException:
                    self._stop = True  # leaving the pool waits for its workers
                    raise
            unfinished = any(m.status == ACTIVE and m.step < until for m in todo.values())
        finally:
            self._stop = False
        return Advance(base, loss, norm, stopped=unfinished)

    def request_stop(self) -> None:
        self._stop = True

    def freeze(self, members: NDArray[np.bool_]) -> None:
        for member, chosen in zip(self._members, members, strict=True):
            if chosen and member.status == ACTIVE:
                member.status = FROZEN

    def predict(self, inputs: Inputs) -> Int32:
        # NumPy's argmax takes the first of equal values, PyTorch's promises nothing.
        answers: Int32 = self.outputs(inputs, range(len(self._members))).argmax(-1).astype(np.int32)
        return answers

    def outputs(self, inputs: Inputs, members: Sequence[int]) -> Float32:
        given = check_inputs(inputs, self._specs[0])
        rows = check_members(members, len(self._members))
        ports = self._task.ports
        asked = slice(-ports.asked, None) if ports.several else -1

        def compute() -> Float32:
            x = _tensor(given)
            with torch.no_grad(), products(self._precision):
                return np.stack([self._members[i].module(x)[:, asked].numpy() for i in rows])

        return aside(compute)

    def generate(self, prompts: Prompts, members: Sequence[int]) -> Int32:
        rows = check_members(members, len(self._members))
        given = check_prompts(prompts, self._specs[0], len(rows))

        def told(member: _Member) -> Int32:
            def likeliest(tokens: Int32) -> NDArray[np.integer]:
                parts = np.array_split(tokens[0], -(-tokens.shape[1] // GENERATED))
                logits = [member.module(_tensor(part))[:, -1].numpy() for part in parts]
                found: Int64 = np.concatenate(logits).argmax(-1)[None]
                return found

            own: Int32 = greedy(given, 1, likeliest)[0]
            return own

        def compute() -> list[Int32]:
            with torch.no_grad(), products(self._precision):
                return [told(self._members[i]) for i in rows]

        return np.array(aside(compute), np.int32).reshape(
            len(rows), len(given.tokens), given.max_new
        )

    def gradients(self, inputs: Inputs, targets: Targets) -> tuple[Float32, Named]:
        """Loss [M] and the gradients by name, [M, *shape], of one batch for all members.

        Inputs and targets as the task's `batch` gives them. Nothing is trained or clipped.
        """
        given = check_inputs(inputs, self._specs[0])
        answers = check_targets(targets, len(given), self._specs[0])

        def compute() -> tuple[Float32, Named]:
            x, y = map(_tensor, self._cut(given, answers))
            losses = []
            with products(self._precision):
                for member in self._members:
                    member.optimizer.zero_grad()
                    loss = member.module.loss(x, y, member.spec.model.loss_positions)
                    loss.backward()  # type: ignore[no-untyped-call]
                    losses.append(loss.item())
            return np.array(losses, np.float32), self._stacked(_gradient)

        return aside(compute)

    def _train_step(self, member: _Member) -> tuple[float, float]:
        spec = member.spec
        inputs, targets = self._task.batch(spec.data_seed, member.step, spec.training.batch_size)
        scale, offset = self._tables.scale[member.step], self._tables.offset[member.step]
        lr = float(np.float32(spec.optimizer.lr * scale + offset))
        decay = float(self._tables.decay[member.step])
        family = family_of(spec.model)
        length = self._task.length
        with family.training(member.module, spec.model, length, spec.init_seed, member.step):
            inputs, targets = self._cut(inputs, targets)
            return member.train_step(_tensor(inputs), _tensor(targets), lr, decay)

    def _cut(self, inputs: Inputs, targets: Targets) -> tuple[Inputs, Targets]:
        """A batch up to the last target of any of its sequences (compfast/engines/lengths.py)."""
        if not self._cuts:
            return inputs, targets
        length = max(1, int(asked_lengths(targets).max()))
        return inputs[:, :length], targets[:, :length]

    def _member(self, state: State, i: int) -> _Member:
        spec = self._specs[i]
        weights = {t.name: state.params[t.name][i] for t in self._table}
        module = family_of(spec.model).holding(spec.model, weights)
        optimizer = _optimizer(module, spec)
        moved = max(0, int(state.step[i]) - self._tables.moments_from)  # times its moments were
        for t in self._table:
            optimizer.state[module.get_parameter(t.name)] = {
                "step": torch.tensor(float(moved), dtype=torch.float32),
                _FIRST[spec.optimizer.kind]: torch.tensor(state.exp_avg[t.name][i]),
                "exp_avg_sq": torch.tensor(state.exp_avg_sq[t.name][i]),
            }
        return _Member(spec, module, optimizer, int(state.step[i]), int(state.status[i]))

    def _stacked(self, of: Callable[[torch.nn.Parameter], Tensor]) -> Named:
        return {
            t.name: np.stack(
                [of(m.module.get_parameter(t.name)).detach().numpy() for m in self._members]
            )
            for t in self._table
        }


def _tensor(given: Inputs | Targets) -> Tensor:
    """Ids as PyTorch indexes with them, numbers as they are."""
    found = torch.from_numpy(given)
    return found if found.is_floating_point() else found.long()


def _optimizer(module: Network, spec: MemberSpec) -> torch.optim.Optimizer:
    options = spec.optimizer
    parts: dict[float, list[torch.nn.Parameter]] = {}
    for t in parameter_table(spec.model):
        own = options.weight_decay_of(t.group) if t.decays(options.decay) else 0.0
        parts.setdefault(own, []).append(module.get_parameter(t.name))
    groups = [{"params": params, "own_decay": own} for own, params in parts.items()]
    if options.kind == "sgd":
        return torch.optim.SGD(groups, momentum=options.momentum, nesterov=options.nesterov)
    betas = options.beta1, options.beta2
    return torch.optim.AdamW(groups, betas=betas, eps=options.eps, weight_decay=0.0)


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError("a parameter took no part in the loss")
    return parameter.grad
