"""Attention as a plain `nn.Module`: softmax and linear, with relative positions or without, and
as a hypernetwork (arXiv 2406.05816).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from compfast.config import ModelConfig
from compfast.models.relative import bucket_table
from compfast.models.resolved import known

Made = dict[str, Any]  # where and in what type parameters are made


class Attention(nn.Module):
    """x [B, T, D] -> [B, T, D], heads side by side in the columns.

    Scores are q k^T / sqrt(d_k), plus the relative bias where there is one. Attention weights a
    are their softmax over keys, the scores themselves (linear), or the scores over the root of
    their mean square over heads and rms_eps (rms_head); keys after the query weigh nothing where
    the network is causal. What goes to the output projection is, for each query and head,

        none          sum_k a[h, k] v_h[k]
        linear, relu  sum_k a[h, k] f(u[k]), u[k] = sum_h a[h, k] v_h[k], f linear or relu
        deep          the same with f(u) = relu(sum_h a[h, k] W_h relu(u)). UNVERIFIED: the paper
                      names the deep value network, its code does not have it.

    v_h is a value, or relu of it (value_activation). `keep` [T, T] multiplies the weights of a
    training step (dropout); None: nothing is dropped. Weights [B, H, T, T] pass through the
    submodule `pattern`, which does nothing: a hook there sees them, or gives others.
    """

    keep: Tensor | None = None

    def __init__(self, model: ModelConfig, made: Made) -> None:
        super().__init__()
        d, bias = model.d_model, model.attention_bias
        self.heads, self.d_k, self.causal = model.heads, known(model.d_k), model.causal
        self.form, self.path, self.rms_eps = model.attention, model.value_path, model.rms_eps
        self.bent = model.value_activation == "relu"
        d_v = known(model.d_v)
        self.query = nn.Linear(d, model.heads * self.d_k, bias=bias, **made)
        self.key = nn.Linear(d, model.heads * self.d_k, bias=bias, **made)
        self.value = nn.Linear(d, model.heads * d_v, bias=bias, **made)
        self.output = nn.Linear(model.heads * d_v, d, bias=bias, **made)
        self.deep = _Matrix(model.heads * d_v, d_v, made) if self.path == "deep" else None
        relative = model.position == "relative"
        self.relative = _Matrix(model.heads, known(model.buckets), made) if relative else None
        self.pattern = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split(project(x)) for project in (self.query, self.key, self.value))
        v = torch.relu(v) if self.bent else v
        weights = self._weights(q @ k.transpose(-2, -1) / math.sqrt(self.d_k))  # [B, H, T, T]
        weights = self.pattern(weights)
        if self.keep is not None:
            weights = weights * self.keep
        if self.path == "none":
            mixed = (weights @ v).transpose(1, 2)  # [B, T, H, d_v]
        else:
            mixed = torch.einsum("bhqk,bqkc->bqhc", weights, self._generated(weights, v))
        joined: Tensor = self.output(mixed.flatten(2))
        return joined

    def weights(self, x: Tensor) -> Tensor:
        """Attention weights [B, H, T, T] of queries and keys; nothing of them is dropped."""
        q, k = (self._split(project(x)) for project in (self.query, self.key))
        return self._weights(q @ k.transpose(-2, -1) / math.sqrt(self.d_k))

    def _weights(self, scores: Tensor) -> Tensor:
        return self.normalized(self.masked(scores))

    def masked(self, scores: Tensor) -> Tensor:
        """Scores [B, H, T, T] with the relative bias, what no query may see out of reach."""
        length = scores.shape[-1]
        if self.relative is not None:
            table = bucket_table(length, self.relative.weight.shape[1])
            scores = scores + self.relative.weight[:, torch.from_numpy(table).to(scores.device)]
        if self.causal:
            future = torch.ones((length, length), dtype=torch.bool, device=scores.device).triu(1)
            outside = -math.inf if self.form == "softmax" else 0.0
            scores = scores.masked_fill(future, outside)
        return scores

    def normalized(self, scores: Tensor) -> Tensor:
        """Attention weights [B, H, T, T] of masked scores."""
        if self.form == "softmax":
            return scores.softmax(dim=-1)
        if self.form == "linear":
            return scores
        square = (scores * scores).mean(dim=1, keepdim=True)
        return scores / torch.sqrt(square + self.rms_eps)

    def _generated(self, weights: Tensor, v: Tensor) -> Tensor:
        """What the generated value network makes of each pair of positions, [B, Q, K, d_v]."""
        u = torch.einsum("bhqk,bhkc->bqkc", weights, v)
        if self.path == "linear":
            return u
        u = torch.relu(u)
        if self.deep is None:
            return u
        return torch.relu(self._second(weights, u))

    def _second(self, weights: Tensor, u: Tensor) -> Tensor:
        """The second generated layer: sum_h a[h, k] W_h u[k], [B, Q, K, d_v]."""
        assert self.deep is not None
        size = self.deep.weight.shape[1]
        each = self.deep.weight.view(self.heads, size, size)  # [H, d_v, d_v]
        return torch.einsum("bhqk,hce,bqke->bqkc", weights, each, u)

    def _split(self, x: Tensor) -> Tensor:
        """[B, T, H * size] -> [B, H, T, size]."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class _Matrix(nn.Module):
    """One weight [rows, columns]."""

    def __init__(self, rows: int, columns: int, made: Made) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((rows, columns), **made))
