"""The canonical model as a plain `nn.Module`; see compfast.models.families.canonical."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compfast.models.sequences import binary_logits, sequence_loss


class Canonical(nn.Module):
    """Tokens [B, T], each 0 or 1 -> logits [B, T, 2], of which the first is 0."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        made: dict[str, Any] = {"device": device, "dtype": torch.float32}
        self.e = nn.Parameter(torch.zeros(1, **made))
        self.w = nn.Parameter(torch.zeros(1, **made))
        self.b = nn.Parameter(torch.zeros(1, **made))

    @classmethod
    def holding(cls, weights: Mapping[str, NDArray[Any]]) -> Canonical:
        """A model with copies of these numbers by name, each [1]."""
        with torch.inference_mode(False):
            module = cls(device="meta")
            copies = {
                name: torch.tensor(array, dtype=torch.float32, device="cpu")
                for name, array in weights.items()
            }
            module.load_state_dict(copies, assign=True)
        return module

    def forward(self, tokens: Tensor) -> Tensor:
        square = self.e * self.e
        slope = square * (1 + 2 * self.w * self.w.abs())
        return binary_logits(slope * tokens + (self.b - square / 2))

    def loss(self, tokens: Tensor, targets: Tensor, positions: str) -> Tensor:
        """See `compfast.models.sequences.sequence_loss`."""
        return sequence_loss(self(tokens), tokens, targets, positions)
