"""The eager loop whose network computes the last layer at the last position only."""

from __future__ import annotations

from benchmarks.peers.eager import EagerPeer
from benchmarks.problem import Problem


def make(problem: Problem, variant: str) -> EagerPeer:
    return EagerPeer(problem, fused=variant.startswith("fused"), last_only=True)
