"""PyTorch's ways to train the same members on a GPU, for benchmarks/gpu.py.

Each takes (problem, tokens [M, B, T], targets [M, B], device), and gives (one step, losses [M] of
the weights as they are). Batches come for nothing: every step trains on the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.peers.module import make_nets
from benchmarks.peers.stacked import stacked_losses
from benchmarks.peers.stacked_adamw import StackedAdamW
from benchmarks.peers.torch_common import initial_tensors
from benchmarks.problem import Problem

Peer = Callable[[Problem, Tensor, Tensor, torch.device], Any]


def _eager(problem: Problem, tokens: Tensor, targets: Tensor, device: torch.device) -> Any:
    """One module and one fused AdamW a member, one after the other."""
    tensors = {n: t.to(device) for n, t in initial_tensors(problem).items()}
    nets = [net.to(device) for net in make_nets(problem, tensors, last_only=True, sdpa=True)]
    o = problem.optimizer
    optimizers = [
        torch.optim.AdamW(
            net.parameters(), lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps,
            weight_decay=o.weight_decay, fused=True,
        )
        for net in nets
    ]  # fmt: skip

    def losses() -> Tensor:
        with torch.no_grad():
            found = [F.cross_entropy(n(tokens[i]), targets[i]) for i, n in enumerate(nets)]
            return torch.stack(found)

    def run() -> None:
        for i, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
            optimizer.zero_grad()
            F.cross_entropy(net(tokens[i]), targets[i]).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), o.clip)
            optimizer.step()

    return run, losses


def _vmap(problem: Problem, tokens: Tensor, targets: Tensor, device: torch.device) -> Any:
    """torch.func: vmap over members of grad_and_value, stacked AdamW."""
    tensors = initial_tensors(problem)
    nets = make_nets(problem, tensors, last_only=True, sdpa=True)
    stacked, _ = torch.func.stack_module_state(nets)
    params = {name: p.detach().to(device) for name, p in stacked.items()}
    base = nets[0].to("meta")

    def loss(params: dict[str, Tensor], tokens: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(base, params, (tokens,)), targets)

    stacked_gradients = torch.func.vmap(torch.func.grad_and_value(loss))

    def gradients() -> Any:
        # Of PyTorch's ways the one that vmap has rules for. On an H200 (2.11) the others fail in
        # bfloat16, and in float32 the members' backward passes are run one by one.
        with sdpa_kernel(SDPBackend.MATH):
            return stacked_gradients(params, tokens, targets)

    with device:
        optimizer = StackedAdamW(list(params.values()), problem.optimizer)

    def run() -> None:
        grads, _ = gradients()
        optimizer.step([grads[name] for name in params])

    return run, lambda: gradients()[1]


def _stacked(problem: Problem, tokens: Tensor, targets: Tensor, device: torch.device) -> Any:
    return _stacked_with(stacked_losses, problem, tokens, targets, device)


def compiled(backend: str) -> Peer:
    """The stacked members under torch.compile, which may take minutes."""

    def make(problem: Problem, tokens: Tensor, targets: Tensor, device: torch.device) -> Any:
        losses_of = torch.compile(stacked_losses, fullgraph=True, dynamic=False, backend=backend)
        return _stacked_with(losses_of, problem, tokens, targets, device)

    return make


def _stacked_with(
    losses_of: Callable[..., Tensor],
    problem: Problem,
    tokens: Tensor,
    targets: Tensor,
    device: torch.device,
) -> Any:
    """Hand-stacked members (HFTA's form): baddbmm over M, SDPA."""
    weights = {}
    for name, value in initial_tensors(problem).items():
        matrix = value.ndim == 3 and not name.startswith("embed.")
        laid = (value.transpose(1, 2) if matrix else value).contiguous()
        weights[name] = laid.to(device).requires_grad_()
    with device:
        optimizer = StackedAdamW(list(weights.values()), problem.optimizer)

    def losses() -> Tensor:
        with device:
            return losses_of(weights, tokens, targets, problem.model, True)

    def run() -> None:
        optimizer.step(torch.autograd.grad(losses().sum(), list(weights.values())))

    return run, lambda: losses().detach()


# those that compile nothing
PEERS: dict[str, Peer] = {
    "eager loop over members": _eager,
    "torch.func vmap": _vmap,
    "stacked baddbmm, SDPA": _stacked,
}
