"""What goes into a network and what is asked of it: where a task and a network meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Loss = Literal["cross_entropy", "squared_error"]


@dataclass(frozen=True, slots=True)
class Ports:
    """Token ids [T] in, or vectors [T, width]; answers at the last `asked` positions."""

    length: int  # T
    vocabulary: int  # token ids in, and logits out; of vectors: numbers out a position
    width: int = 0  # numbers in a position, of vectors; 0: token ids
    asked: int = 1  # positions at the end that have a target
    masked: bool = False  # of tokens: all are asked, but where the target is -1
    loss: Loss = "cross_entropy"
    empty: int = 0  # tokens that follow the query's and hold nothing
    causal: bool = False  # later inputs hold what is asked for: no position may see them

    @property
    def several(self) -> bool:
        """Whether targets and outputs have an axis of positions: [.., asked]."""
        return self.width > 0 or self.masked
