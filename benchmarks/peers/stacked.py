"""Hand-stacked members, the form of HFTA (Wang et al., MLSys 2021): baddbmm over M."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers.stacked_adamw import StackedAdamW
from benchmarks.peers.torch_common import (
    AnchorBatches,
    initial_tensors,
    matmul_description,
    matmul_rate,
    own_batch,
)
from benchmarks.problem import Problem
from compfast.config import ModelConfig
from compfast.engines.base import Float32

Weights = dict[str, Tensor]
Losses = Callable[[Weights, Tensor, Tensor], Tensor]


class StackedPeer:
    """See `benchmarks.peers.base.Peer`. Linear weights are [M, d_in, d_out] here."""

    def __init__(self, problem: Problem, *, sdpa: bool) -> None:
        self._problem, self._batches = problem, AnchorBatches(problem)
        self._weights: Weights = {
            name: _laid_out(name, value).requires_grad_()
            for name, value in initial_tensors(problem).items()
        }
        model = problem.model

        def losses(weights: Weights, tokens: Tensor, targets: Tensor) -> Tensor:
            return stacked_losses(weights, tokens, targets, model, sdpa)

        self.losses_of: Losses = losses
        self._optimizer = StackedAdamW(list(self._weights.values()), problem.optimizer)

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
        losses = self.losses_of(self._weights, tokens, targets)
        self._optimizer.step(torch.autograd.grad(losses.sum(), list(self._weights.values())))
        return losses.detach()


def stacked_losses(
    w: Weights, tokens: Tensor, targets: Tensor, model: ModelConfig, sdpa: bool
) -> Tensor:
    """tokens [M, B, T], targets [M, B] -> mean cross-entropy of each member, [M]."""
    members, batch, positions = tokens.shape
    d, attend = model.d_model, _attend_sdpa if sdpa else _attend_bmm
    tables, vocabulary = w["embed.token.weight"], model.vocab_size or 0
    rows = tokens + vocabulary * torch.arange(members, device=tokens.device).view(-1, 1, 1)
    x = F.embedding(rows, tables.view(-1, d))  # [M, B, T, D]
    x = x + w["embed.position.weight"][:, None, :positions]
    for layer in range(model.layers):
        name = f"blocks.{layer}"
        h = _norm(w, f"{name}.norm1", x, model.norm_eps)
        weight, bias = w[f"{name}.qkv.weight"], w[f"{name}.qkv.bias"]
        if layer == model.layers - 1:
            q = _linear(h[:, :, -1:], weight[..., :d], bias[..., :d])
            k, v = _linear(h, weight[..., d:], bias[..., d:]).chunk(2, dim=-1)
            x = x[:, :, -1:]
        else:
            q, k, v = _linear(h, weight, bias).chunk(3, dim=-1)
        mixed = attend(q, k, v)
        x = x + _linear(mixed, w[f"{name}.output.weight"], w[f"{name}.output.bias"])
        h = _norm(w, f"{name}.norm2", x, model.norm_eps)
        up = F.gelu(_linear(h, w[f"{name}.ffn.up.weight"], w[f"{name}.ffn.up.bias"]))
        x = x + _linear(up, w[f"{name}.ffn.down.weight"], w[f"{name}.ffn.down.bias"])
    x = _norm(w, "final_norm", x, model.norm_eps)
    logits = _linear(x, w["head.weight"], w["head.bias"])  # [M, B, 1, V]
    each = F.cross_entropy(logits.view(-1, vocabulary), targets.reshape(-1), reduction="none")
    return each.view(members, batch).mean(dim=1)


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [M, B, S, d_in], weight [M, d_in, d_out], bias [M, d_out] -> [M, B, S, d_out]."""
    out = torch.baddbmm(bias.unsqueeze(1), x.flatten(1, 2), weight)
    return out.view(*x.shape[:3], -1)


def _norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    scale, shift = w[f"{name}.weight"], w[f"{name}.bias"]  # [M, D]
    whitened = F.layer_norm(x, x.shape[-1:], eps=eps)
    return torch.addcmul(shift[:, None, None], whitened, scale[:, None, None])


def _attend_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [M, B, S, D], k and v [M, B, T, D] -> [M, B, S, D]; causal unless S = 1, the last."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)


def _attend_bmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As `_attend_sdpa`, from matmul and softmax."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if q.shape[2] > 1:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    return scores.softmax(dim=-1) @ v


def _laid_out(name: str, value: Tensor) -> Tensor:
    """Matrices of linear maps as [M, d_in, d_out], tables and vectors as they are."""
    matrix = value.ndim == 3 and not name.startswith("embed.")
    return (value.transpose(1, 2) if matrix else value).contiguous().clone()


def make(problem: Problem, variant: str) -> StackedPeer:
    return StackedPeer(problem, sdpa=variant == "SDPA")
