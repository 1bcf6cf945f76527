"""What networks are asked to go on from, token by token: where exams and engines meet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Sequences that a network goes on from greedily: the likeliest token next, ties to the
    smaller one, each read again as the next input.
    """

    tokens: Int32  # [N, P], each row filled up at its end with any token
    lengths: Int32  # [N] tokens of a row that are its prompt, 1..P
    max_new: int  # tokens told of each, at most
    end: int = -1  # the token after which a row is told no further; -1: none
