"""What a peer does."""

from __future__ import annotations

from typing import Protocol

from compfast.engines.base import Float32


class Peer(Protocol):
    """Made by `make(problem, variant)` in its module, at compfast's initial weights."""

    def losses(self, steps: int) -> Float32:
        """Train on compfast's own batches of steps 0 .. steps - 1.

        Returns float32 [M, steps]: column t is the batch mean before update t. For a new peer.
        """

    def train(self, steps: int) -> None:
        """Train every member `steps` steps on batches the peer draws itself.

        Returns when all of it is computed; the peer is in any state.
        """

    def matmul(self) -> str:
        """What multiplies its matrices, for the table."""

    def matmul_rate(self) -> float | None:
        """GFLOP/s of that library on float32 [512, 512]; None where the peer uses none."""
