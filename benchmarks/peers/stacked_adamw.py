"""Clipping and AdamW for tensors [M, ...] that hold one parameter of every member."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from compfast.config import OptimizerConfig


class StackedAdamW:
    """Each member's gradient is clipped by its own norm; then one fused AdamW for all."""

    def __init__(self, params: Sequence[Tensor], options: OptimizerConfig) -> None:
        self._params, self._options = list(params), options
        self._exp_avg = [torch.zeros_like(p) for p in params]
        self._exp_avg_sq = [torch.zeros_like(p) for p in params]
        self._steps = [torch.zeros(()) for _ in params]

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor]) -> None:
        """Update the parameters in place; `grads` are in their order."""
        options = self._options
        adamw(
            self._params,
            clip_members(grads, options.clip),
            self._exp_avg,
            self._exp_avg_sq,
            [],
            self._steps,
            fused=True,
            amsgrad=False,
            beta1=options.beta1,
            beta2=options.beta2,
            lr=options.lr,
            weight_decay=options.weight_decay,
            eps=options.eps,
            maximize=False,
        )


def clip_members(grads: Sequence[Tensor], limit: float) -> list[Tensor]:
    """grads [M, ...] -> the same, scaled where a member's norm over all of them exceeds limit."""
    norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in grads])
    total = torch.linalg.vector_norm(norms, dim=0)  # [M]
    scale = (limit / (total + 1e-6)).clamp(max=1.0)
    return [g * scale.view(-1, *(1,) * (g.ndim - 1)) for g in grads]
