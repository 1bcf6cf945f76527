"""One parameter of a network as data, and the ids that name the streams of its initial values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Init = Literal["normal", "one", "zero", "bias"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One parameter of a member; linear weights are [d_out, d_in] as in `nn.Linear`."""

    id: int  # stream id, never renumbered
    name: str  # the `nn.Module` parameter name
    shape: tuple[int, ...]
    init: Init
    fan_in: int  # d_in of the init law; for a bias, of its layer
    group: str = ""  # init group (config.GAMMA_GROUPS), empty for norms and biases
    residual: bool = False  # writes to the residual stream (1/sqrt(2L) applies)
    by_head: bool = False  # a bias that Flax keeps a row a head

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def matrix(self) -> bool:
        return len(self.shape) == 2

    def decays(self, decay: str) -> bool:
        """Whether weight decay is for it; `decay` is optimizer.decay."""
        return decay == "all" or self.matrix or (decay == "arrays" and self.by_head)
