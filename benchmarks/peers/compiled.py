"""The hand-stacked peer under torch.compile: forward and backward are compiled.

AdamW stays torch's fused kernel, which is one pass over the parameters already.
"""

from __future__ import annotations

import torch

from benchmarks.peers.stacked import StackedPeer
from benchmarks.problem import Problem


def make(problem: Problem, variant: str) -> StackedPeer:
    peer = StackedPeer(problem, sdpa=variant == "SDPA")
    peer.losses_of = torch.compile(peer.losses_of, fullgraph=True, dynamic=False)
    return peer
