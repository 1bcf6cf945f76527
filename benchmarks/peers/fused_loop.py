"""A plain loop as PyTorch users write it: fused AdamW, clipping, one member after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from compfast.config import ModelConfig, OptimizerConfig
from compfast.models.params import parameter_table

Weights = Mapping[str, Tensor]  # compfast's names -> [M, *shape]


def decaying(model: ModelConfig, options: OptimizerConfig) -> set[str]:
    """Names of what the weight decay is for."""
    return {t.name for t in parameter_table(model) if t.decays(options.decay)}


class FusedLoop(ABC):
    """One optimiser a member; a subclass says the loss."""

    def __init__(self, weights: Weights, model: ModelConfig, options: OptimizerConfig) -> None:
        self._model, self._clip = model, options.clip
        self._params, self._optimizers = list[dict[str, Tensor]](), list[torch.optim.AdamW]()
        decay = decaying(model, options)
        for member in range(len(next(iter(weights.values())))):
            own = {name: w[member].clone().requires_grad_() for name, w in weights.items()}
            groups: list[dict[str, Any]] = [
                {"params": [own[n] for n in own if n in decay]},
                {"params": [own[n] for n in own if n not in decay], "weight_decay": 0.0},
            ]
            self._params.append(own)
            self._optimizers.append(
                torch.optim.AdamW(
                    groups,
                    lr=options.lr,
                    betas=(options.beta1, options.beta2),
                    eps=options.eps,
                    weight_decay=options.weight_decay,
                    fused=True,
                )
            )

    @abstractmethod
    def loss(self, p: Mapping[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        """Of one member's parameters by name on its batch."""

    def step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Train every member one step; losses [M] before it."""
        losses = []
        for p, optimizer, inputs, targets in zip(
            self._params, self._optimizers, *batch, strict=True
        ):
            optimizer.zero_grad(set_to_none=True)
            loss = self.loss(p, inputs, targets)
            loss.backward()  # type: ignore[no-untyped-call]
            if self._clip:
                clip_grad_norm_(p.values(), self._clip)
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)
