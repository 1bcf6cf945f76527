"""The network as a PyTorch user writes it: `nn.Module`, joined QKV, SDPA."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.problem import Problem
from compfast.config import ModelConfig


class Net(nn.Module):
    """tokens [B, T] -> logits at the last position [B, V].

    `last_only`: the last layer computes queries and FFN at the last position only. `sdpa`:
    attention by F.scaled_dot_product_attention, else by matmul and softmax.
    """

    def __init__(self, model: ModelConfig, *, last_only: bool, sdpa: bool) -> None:
        super().__init__()
        d, vocabulary = model.d_model, model.vocab_size or 0
        self.embed = Embedding(vocabulary, model.max_positions or 0, d)
        last = model.layers - 1
        self.blocks = nn.ModuleList(
            Block(model, last_only=last_only and layer == last, sdpa=sdpa)
            for layer in range(model.layers)
        )
        self.final_norm = nn.LayerNorm(d, eps=model.norm_eps)
        self.head = nn.Linear(d, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.final_norm(x[:, -1]))
        return logits


class Embedding(nn.Module):
    """Token table + learned positions: [B, T] -> [B, T, D]."""

    def __init__(self, vocabulary: int, positions: int, d: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, d)
        self.position = nn.Embedding(positions, d)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        return embedded


class FeedForward(nn.Module):
    """down(gelu(up(x)))."""

    def __init__(self, d: int, ff: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(d, ff), nn.Linear(ff, d)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(self.up(x)))
        return out


class Block(nn.Module):
    """[B, T, D] -> [B, T, D], or [B, 1, D] with `last_only`."""

    def __init__(self, model: ModelConfig, *, last_only: bool, sdpa: bool) -> None:
        super().__init__()
        d = model.d_model
        self.last_only, self.attend = last_only, attend_sdpa if sdpa else attend_matmul
        self.norm1 = nn.LayerNorm(d, eps=model.norm_eps)
        self.qkv = nn.Linear(d, 3 * d)
        self.output = nn.Linear(d, d)
        self.norm2 = nn.LayerNorm(d, eps=model.norm_eps)
        self.ffn = FeedForward(d, model.d_ff or 0)

    def forward(self, x: Tensor) -> Tensor:
        d = x.shape[-1]
        h = self.norm1(x)
        if self.last_only:
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(h[:, -1:], weight[:d], bias[:d])
            k, v = F.linear(h, weight[d:], bias[d:]).chunk(2, dim=-1)
            x = x[:, -1:]
        else:
            q, k, v = self.qkv(h).chunk(3, dim=-1)
        x = x + self.output(self.attend(q, k, v))
        out: Tensor = x + self.ffn(self.norm2(x))
        return out


def attend_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, S, D], k and v [B, T, D] -> [B, S, D]; causal unless S = 1, the last position."""
    q, k, v = q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
    return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1).squeeze(1)


def attend_matmul(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As `attend_sdpa`, from matmul and softmax."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if q.shape[1] > 1:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    return scores.softmax(dim=-1) @ v


def make_nets(
    problem: Problem, weights: dict[str, Tensor], *, last_only: bool, sdpa: bool
) -> list[Net]:
    """One network a member, at its weights ([M, ...] each, `initial_tensors`)."""
    nets = []
    for member in range(problem.members):
        net = Net(problem.model, last_only=last_only, sdpa=sdpa)
        net.load_state_dict({name: value[member] for name, value in weights.items()})
        nets.append(net)
    return nets
