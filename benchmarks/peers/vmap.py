"""torch.func: `stack_module_state`, vmap over members of grad_and_value, stacked AdamW."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from benchmarks.peers.module import make_nets
from benchmarks.peers.stacked_adamw import StackedAdamW
from benchmarks.peers.torch_common import (
    AnchorBatches,
    initial_tensors,
    matmul_description,
    matmul_rate,
    own_batch,
)
from benchmarks.problem import Problem
from compfast.engines.base import Float32


class VmapPeer:
    """See `benchmarks.peers.base.Peer`. The last layer computes the last position only."""

    def __init__(self, problem: Problem, *, sdpa: bool) -> None:
        self._problem, self._batches = problem, AnchorBatches(problem)
        nets = make_nets(problem, initial_tensors(problem), last_only=True, sdpa=sdpa)
        stacked, _ = stack_module_state(nets)
        self._params: dict[str, Tensor] = {name: p.detach() for name, p in stacked.items()}
        base = copy.deepcopy(nets[0]).to("meta")

        def loss(params: dict[str, Tensor], tokens: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(base, params, (tokens,)), targets)

        self._gradients = vmap(grad_and_value(loss))
        self._optimizer = StackedAdamW(list(self._params.values()), problem.optimizer)

    def losses(self, steps: int) -> Float32:
        columns = [self._step(*own_batch(self._problem, t)).numpy() for t in range(steps)]
        return np.stack(columns, axis=1)

    def train(self, steps: int) -> None:
        members, batch = self._problem.members, self._problem.batch_size
        for _ in range(steps):
            tokens, targets = self._batches.draw(members * batch)
            self._step(tokens.view(members, batch, -1), targets.view(members, batch))

    def matmul(self) -> str:
        return matmul_description()

    def matmul_rate(self) -> float | None:
        return matmul_rate()

    def _step(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """tokens [M, B, T], targets [M, B] -> losses [M]."""
        grads, losses = self._gradients(self._params, tokens, targets)
        self._optimizer.step([grads[name] for name in self._params])
        found: Tensor = losses
        return found


def make(problem: Problem, variant: str) -> VmapPeer:
    # A batching rule that is missing makes vmap loop: the warning belongs into the table.
    torch._C._functorch._set_vmap_fallback_warning_enabled(True)  # type: ignore[attr-defined]
    return VmapPeer(problem, sdpa=variant == "SDPA")
