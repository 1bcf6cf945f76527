"""The eager loop: one `nn.Module` and one AdamW a member, trained one after the other."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from benchmarks.peers.module import make_nets
from benchmarks.peers.torch_common import (
    AnchorBatches,
    initial_tensors,
    matmul_description,
    matmul_rate,
    own_batch,
)
from benchmarks.problem import Problem
from compfast.engines.base import Float32


class EagerPeer:
    """See `benchmarks.peers.base.Peer`. `fused`: AdamW's fused form, else foreach."""

    def __init__(self, problem: Problem, *, fused: bool, last_only: bool) -> None:
        options = problem.optimizer
        self._problem, self._clip = problem, options.clip
        self._batches = AnchorBatches(problem)
        self._nets = make_nets(problem, initial_tensors(problem), last_only=last_only, sdpa=True)
        self._optimizers = [
            torch.optim.AdamW(
                net.parameters(),
                lr=options.lr,
                betas=(options.beta1, options.beta2),
                eps=options.eps,
                weight_decay=options.weight_decay,
                fused=fused,
                foreach=not fused,
            )
            for net in self._nets
        ]

    def losses(self, steps: int) -> Float32:
        found = np.empty((self._problem.members, steps), np.float32)
        for t in range(steps):
            tokens, targets = own_batch(self._problem, t)
            for i in range(self._problem.members):
                found[i, t] = self._step(i, tokens[i], targets[i]).item()
        return found

    def train(self, steps: int) -> None:
        for i in range(self._problem.members):
            for _ in range(steps):
                self._step(i, *self._batches.draw(self._problem.batch_size))

    def matmul(self) -> str:
        return matmul_description()

    def matmul_rate(self) -> float | None:
        return matmul_rate()

    def _step(self, i: int, tokens: Tensor, targets: Tensor) -> Tensor:
        net, optimizer = self._nets[i], self._optimizers[i]
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(net(tokens), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_(net.parameters(), self._clip)
        optimizer.step()
        return loss.detach()


def make(problem: Problem, variant: str) -> EagerPeer:
    return EagerPeer(problem, fused=variant.startswith("fused"), last_only=False)
