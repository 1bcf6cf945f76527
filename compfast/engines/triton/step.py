"""One optimiser step of a stack of members as a list of launches, on a GPU one CUDA graph.

Step counters, rates, seeds and who is live are in device memory, so the same launches serve
every step of a training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from compfast.config import MemberSpec, ModelConfig
from compfast.engines.base import ACTIVE
from compfast.engines.decays import DECAYS, weight_decays
from compfast.engines.flat import FlatLayout
from compfast.engines.triton import adamw, anchor, dropout, fused, sgd
from compfast.engines.triton.fused import FusedProgram
from compfast.engines.triton.host import HostBatches
from compfast.engines.triton.launch import Launch
from compfast.engines.triton.program import Program
from compfast.ensembles.schedule import Tables
from compfast.models.families import model_plan
from compfast.tasks import make_task

HISTORY = 32  # steps between two looks at the device
# Bytes of a GPU that are free when a graph is captured. PyTorch allocates a few at the start of a
# capture, and where that fails the graph's destructor ends the process (seen with 2.11).
SPARE = 2**24


@dataclass(frozen=True, slots=True)
class Members:
    """Everything that lasts of M members: flat vectors [M, P], step [M], status [M]."""

    params: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    step: torch.Tensor  # int64
    status: torch.Tensor  # uint8

    @classmethod
    def zeros(cls, count: int, size: int, device: torch.device) -> Members:
        def flat() -> torch.Tensor:
            return torch.zeros((count, size), dtype=torch.float32, device=device)

        step = torch.zeros(count, dtype=torch.int64, device=device)
        status = torch.zeros(count, dtype=torch.uint8, device=device)
        return cls(flat(), flat(), flat(), step, status)

    def rows(self, start: int, stop: int) -> Members:
        """A view of some of them."""
        names = (each.name for each in dataclasses.fields(self))
        return Members(**{name: getattr(self, name)[start:stop] for name in names})


def program_for(
    spec: MemberSpec, flat: FlatLayout, params: torch.Tensor, live: torch.Tensor, batch: int
) -> Program | FusedProgram:
    """The launches of one pass of `batch` sequences for members shaped as `spec`."""
    length, precision = make_task(spec.task).length, spec.training.precision
    how: Any = {"batch": batch, "length": length, "precision": precision}
    model = spec.model
    if isinstance(model, ModelConfig) and fused.fits(model, length, precision):
        return FusedProgram(model, flat, params, live, **how)
    return Program(model_plan(model, absorb=False), flat, params, live, **how)


def flat_layout(spec: MemberSpec) -> FlatLayout:
    return FlatLayout(spec.model, model_plan(spec.model, absorb=False), spec.optimizer.decay)


class Step:
    """`run` moves every live member of the stack on by one step."""

    def __init__(
        self, specs: Sequence[MemberSpec], flat: FlatLayout, tables: Tables, members: Members
    ) -> None:
        first, device = specs[0], members.params.device
        count = len(specs)
        self.members = members
        self._graph: Any = None  # a torch.cuda.CUDAGraph
        self.live = torch.zeros(count, dtype=torch.int32, device=device)
        self.program = program_for(
            first, flat, members.params, self.live, first.training.batch_size
        )
        self.window = torch.zeros(2, dtype=torch.int64, device=device)
        self.loss = torch.zeros((count, HISTORY), dtype=torch.float32, device=device)
        self.norm = torch.zeros((count, HISTORY), dtype=torch.float32, device=device)
        task = make_task(first.task)
        stream, p = task.stream(), self.program
        self._batches: HostBatches | None = None
        if stream is not None and stream["kind"] == "anchor":
            begin = self._draw(specs, stream)
        else:
            self._batches = HostBatches(task, specs, p.tokens, p.targets)
            begin = [p.embed]
        self.launches: list[Launch] = [
            *begin,
            *self._drop(specs),
            *self.program.train,
            *self._optimise(specs, flat, tables),
        ]

    def open_window(self, base: int, until: int) -> None:
        """Members that stand before `until` go live; histories start at step `base`."""
        self.window.copy_(torch.tensor([base, until], device="cpu"))
        m = self.members
        self.live.copy_((m.status == ACTIVE) & (m.step < until))
        self.loss.fill_(float("nan"))
        self.norm.fill_(float("nan"))
        if self._batches is not None:
            self._next = m.step.cpu().numpy().copy()

    def run(self) -> None:
        if self._batches is not None:
            self._batches.fill(self._next)
            self._next += 1
        if self._graph is not None:
            self._graph.replay()
        else:
            self.launch()

    def launch(self) -> None:
        """The launches one by one."""
        for launch in self.launches:
            launch.run()

    def capture(self) -> None:
        """From now on replay one CUDA graph. The first launches compile and touch no member.

        Raises torch.OutOfMemoryError where too little memory is left for one.
        """
        self.live.zero_()
        self.launch()
        torch.cuda.synchronize()
        spare = torch.empty(SPARE, dtype=torch.uint8, device=self.live.device)
        del spare  # `torch.cuda.graph` gives it back to the device
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.launch()
        self._graph = graph

    def _drop(self, specs: Sequence[MemberSpec]) -> list[Launch]:
        """The masks of this step's dropped attention weights, where there are any."""
        keep = self.program.keep
        if keep is None:
            return []
        device, model = self.live.device, specs[0].model
        assert isinstance(model, ModelConfig)
        seeds = torch.tensor([spec.init_seed for spec in specs], dtype=torch.int64, device=device)
        now, rate = self.members.step, model.attention_dropout
        return [dropout.draw(keep, seeds, now, self.live, rate=rate)]

    def _draw(self, specs: Sequence[MemberSpec], stream: dict[str, Any]) -> list[Launch]:
        """The batch, and its embedding in the same launch where tokens and positions have rows."""
        device, table = self.live.device, dict(stream)
        for name in ("pairs", "combos"):
            table[name] = torch.from_numpy(np.ascontiguousarray(table[name])).to(device)
        seeds = torch.tensor([spec.data_seed for spec in specs], dtype=torch.int64, device=device)
        p = self.program
        now = self.members.step
        known = p.embed.constants
        whole = known["TOKEN"] == 0 and known["POSITION"]
        embed = p.embed if whole else None
        drawn = anchor.draw(table, seeds, now, p.tokens, p.targets, self.live, embed)
        return [drawn] if whole else [drawn, p.embed]

    def _optimise(
        self, specs: Sequence[MemberSpec], flat: FlatLayout, tables: Tables
    ) -> list[Launch]:
        device, options = self.live.device, [spec.optimizer for spec in specs]

        def column(values: Any) -> torch.Tensor:
            return torch.tensor(np.asarray(values, np.float64), device=device)

        decays = np.zeros(flat.size // 16, np.int32)
        for start, size, own in flat.segments:
            decays[start // 16 : (start + size) // 16] = own
        own_decays = np.zeros((len(specs), adamw.KEPT))
        own_decays[:, :DECAYS] = weight_decays(specs)
        count, m = len(specs), self.members
        squares = torch.zeros(
            (count, adamw.programs(flat.size)), dtype=torch.float32, device=device
        )
        o, correction1 = options[0], tables.bias_correction1
        if o.kind == "sgd":  # its rate is not divided
            correction1 = np.ones_like(correction1)
        go = torch.zeros(count, dtype=torch.int32, device=device)
        scalars = torch.zeros((count, adamw.SCALARS), dtype=torch.float32, device=device)
        kept = torch.zeros((count, adamw.KEPT), dtype=torch.float32, device=device)
        decision = {
            "squares": squares,
            "losses": self.program.losses,
            "lr": column([o.lr for o in options]),
            "weight_decay": column(own_decays),
            "clip": column([o.clip for o in options]),
            "scale": column(tables.scale),
            "offset": column(tables.offset),
            "correction1": column(correction1),
            "correction2": column(tables.bias_correction2),
            "decay": column(tables.decay),
            "window": self.window,
            "step": m.step,
            "status": m.status,
            "live": self.live,
            "go": go,
            "scalars": scalars,
            "kept": kept,
            "loss_history": self.loss,
            "norm_history": self.norm,
        }
        movement = {
            "gradients": self.program.gradients,
            "weights": m.params,
            "exp_avg": m.exp_avg,
            "decays": torch.from_numpy(decays).to(device),
            "scalars": scalars,
            "kept": kept,
            "go": go,
        }
        if o.kind == "sgd":
            last = sgd.update(movement, momentum=o.momentum, nesterov=o.nesterov)
        else:
            movement["exp_avg_sq"] = m.exp_avg_sq
            last = adamw.update(movement, beta1=o.beta1, beta2=o.beta2, epsilon=o.eps)
        first = adamw.reduce(self.program.gradients, squares, self.live)
        return [first, adamw.decide(decision), last]
