"""Networks of Markov chains as PyTorch users write them: bias at the head only, loss everywhere.

One thread. Batches are compfast's, drawn before anything is timed, so these peers draw for nothing.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn.utils import clip_grad_norm_

from benchmarks.peers.stacked_adamw import StackedAdamW
from compfast.config import ModelConfig, OptimizerConfig

Weights = dict[str, Tensor]  # name -> [M, *shape], Q, K and V joined
Batch = tuple[Tensor, Tensor]  # tokens, what follows each: int64 [M, B, T]


class ChainPeer(Protocol):
    """Made from weights, the model and the optimiser's options."""

    def step(self, batch: Batch) -> Tensor:
        """Train every member one step; losses [M] before it."""


class Net(nn.Module):
    """tokens [B, T] -> logits [B, T, V]; pre-norm, causal, one head, GELU."""

    def __init__(self, model: ModelConfig, *, sdpa: bool) -> None:
        super().__init__()
        d, ff, self.sdpa = model.d_model, model.d_ff or 0, sdpa
        self.token = nn.Embedding(model.vocab_size or 0, d)
        self.position = nn.Embedding(model.max_positions or 0, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.output = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.up, self.down = nn.Linear(d, ff, bias=False), nn.Linear(ff, d, bias=False)
        self.final_norm = nn.LayerNorm(d)
        self.head_bias = nn.Parameter(torch.zeros(model.vocab_size or 0))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position.weight[: tokens.shape[-1]]
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        x = x + self.output(attend_sdpa(q, k, v) if self.sdpa else attend_matmul(q, k, v))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return F.linear(self.final_norm(x), self.token.weight, self.head_bias)


class Loop:
    """One module and one fused AdamW a member, one after the other."""

    def __init__(
        self, weights: Weights, model: ModelConfig, options: OptimizerConfig, *, sdpa: bool
    ) -> None:
        self._nets, self._clip = _nets(weights, model, sdpa=sdpa), options.clip
        betas = options.beta1, options.beta2
        self._optimizers = [
            torch.optim.AdamW(
                net.parameters(),
                lr=options.lr,
                betas=betas,
                eps=options.eps,
                weight_decay=options.weight_decay,
                fused=True,
            )
            for net in self._nets
        ]

    def step(self, batch: Batch) -> Tensor:
        losses = []
        for net, optimizer, tokens, following in zip(
            self._nets, self._optimizers, *batch, strict=True
        ):
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(net(tokens).flatten(0, 1), following.flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            clip_grad_norm_(net.parameters(), self._clip)
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)


class Vmap:
    """torch.func over stacked parameters. SDPA has no batching rule on a CPU, so matmul."""

    def __init__(self, weights: Weights, model: ModelConfig, options: OptimizerConfig) -> None:
        nets = _nets(weights, model, sdpa=False)
        stacked, _ = stack_module_state(nets)
        self._params: Weights = {name: p.detach() for name, p in stacked.items()}
        base = nets[0].to("meta")

        def loss(params: Weights, tokens: Tensor, following: Tensor) -> Tensor:
            logits = functional_call(base, params, (tokens,))
            return F.cross_entropy(logits.flatten(0, 1), following.flatten())

        self._gradients = vmap(grad_and_value(loss))
        self._optimizer = StackedAdamW(list(self._params.values()), options)

    def step(self, batch: Batch) -> Tensor:
        grads, losses = self._gradients(self._params, *batch)
        self._optimizer.step([grads[name] for name in self._params])
        found: Tensor = losses
        return found


class Stacked:
    """Members stacked by hand (HFTA's form): bmm over [M, ...], SDPA over members and sequences."""

    def __init__(self, weights: Weights, model: ModelConfig, options: OptimizerConfig) -> None:
        self._weights = {name: w.clone().requires_grad_() for name, w in weights.items()}
        self._eps = model.norm_eps
        self._optimizer = StackedAdamW(list(self._weights.values()), options)

    def step(self, batch: Batch) -> Tensor:
        losses = self._losses(*batch)
        found = torch.autograd.grad(losses.sum(), list(self._weights.values()))
        # Fused AdamW walks memory: a transposed gradient would be taken in another order.
        self._optimizer.step([gradient.contiguous() for gradient in found])
        return losses.detach()

    def _losses(self, tokens: Tensor, following: Tensor) -> Tensor:
        w, table = self._weights, self._weights["token.weight"]  # [M, V, D]
        members, length = len(tokens), tokens.shape[-1]
        vocabulary, d = table.shape[1:]
        rows = tokens + vocabulary * torch.arange(members, device=tokens.device).view(-1, 1, 1)
        x = F.embedding(rows, table.view(-1, d)) + w["position.weight"][:, None, :length]
        q, k, v = self._linear("qkv", self._norm("norm1", x)).chunk(3, dim=-1)
        x = x + self._linear("output", F.scaled_dot_product_attention(q, k, v, is_causal=True))
        x = x + self._linear("down", F.gelu(self._linear("up", self._norm("norm2", x))))
        x = self._norm("final_norm", x).flatten(1, 2)
        logits = torch.baddbmm(w["head_bias"][:, None], x, table.mT).view(-1, vocabulary)
        each = F.cross_entropy(logits, following.flatten(), reduction="none")
        return each.view(members, -1).mean(dim=1)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return torch.bmm(x.flatten(1, 2), self._weights[f"{name}.weight"].mT).view(*x.shape[:3], -1)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        scale, shift = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        whitened = F.layer_norm(x, x.shape[-1:], eps=self._eps)
        return torch.addcmul(shift[:, None, None], whitened, scale[:, None, None])


def attend_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k, v [B, T, D] -> [B, T, D], causal."""
    q, k, v = q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).squeeze(1)


def attend_matmul(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As `attend_sdpa`, from matmul and softmax."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(dim=-1) @ v


def joined(named: dict[str, Tensor]) -> Weights:
    """compfast's names -> Net's: `blocks.0.` and `embed.` are left out, Q, K, V become `qkv`."""
    block = "blocks.0."
    parts = [named[f"{block}attention.{p}.weight"] for p in ("query", "key", "value")]
    weights = {"qkv.weight": torch.cat(parts, dim=1), "head_bias": named["head.bias"]}
    for name, value in named.items():
        short = name.removeprefix("embed.").removeprefix(block).removeprefix("ffn.")
        if not short.startswith(("attention.", "head.")):
            weights[short] = value
    weights["output.weight"] = named[f"{block}attention.output.weight"]
    return weights


def _nets(weights: Weights, model: ModelConfig, *, sdpa: bool) -> list[Net]:
    nets = []
    for member in range(len(weights["qkv.weight"])):
        net = Net(model, sdpa=sdpa)
        net.load_state_dict({name: value[member] for name, value in weights.items()})
        nets.append(net)
    return nets
