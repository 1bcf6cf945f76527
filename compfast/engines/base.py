"""What every engine does: the protocol, and the plain data that crosses it.

All arrays are NumPy, the member axis M comes first, row i belongs to `specs[i]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from compfast.config import MemberSpec, Prompts
from compfast.ensembles.schedule import Tables

ACTIVE, FROZEN, DIVERGED = 0, 1, 2

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Inputs = Int32 | Float32  # token ids [N, T], or vectors [N, T, width]
Targets = Int32 | Float32  # [N], or [N, asked], or [N, asked, V] for the squared error
Named = dict[str, Float32]


@dataclass(slots=True)
class State:
    """Everything that a group of members is: parameters, moments, progress."""

    params: Named  # name -> [M, *shape]
    exp_avg: Named  # AdamW's first moment; SGD's buffer
    exp_avg_sq: Named  # AdamW's second moment; SGD leaves it as it is
    step: Int64  # [M] optimiser steps done
    status: NDArray[np.uint8]  # [M] ACTIVE, FROZEN or DIVERGED

    @classmethod
    def fresh(cls, params: Named) -> State:
        """Members with these parameters of whom no step is done; the moments cannot be written."""
        first, second = (
            {name: np.broadcast_to(np.float32(0), array.shape) for name, array in params.items()}
            for _ in range(2)
        )
        count = len(next(iter(params.values())))
        step, status = np.zeros(count, np.int64), np.full(count, ACTIVE, np.uint8)
        return cls(params, first, second, step, status)


@dataclass(slots=True)
class Advance:
    """What one call of `advance` did. Column j of `loss` is absolute step `base + j`."""

    base: int  # the smallest step any active member stood at
    loss: Float32  # [M, K] batch mean; NaN where the step was not run in this call
    grad_norm: Float32  # [M, K] before clipping; NaN likewise
    stopped: bool  # the stop flag was seen: some members have not reached `until`


class Engine(Protocol):
    """One group: members of one shape, one task and one batch size."""

    name: str
    isa: str

    def __init__(
        self, specs: Sequence[MemberSpec], tables: Tables, *, threads: int | None = None
    ) -> None: ...

    def initialise(self) -> None:
        """Fresh parameters from the init streams, zero moments, step 0, all ACTIVE."""

    def load(self, state: State) -> None:
        """Take over a saved state, bit for bit; raises UsageError on a wrong name or shape."""

    def state(self) -> State:
        """A copy of everything, also of frozen members."""

    def advance(self, until: int, tick: Callable[[int], None] | None = None) -> Advance:
        """Bring every ACTIVE member to absolute step `until` (less, if stopped).

        `tick(member_steps_done_so_far)` is called a few times a second on the calling thread.
        A member whose loss or gradient norm is not finite at step s becomes DIVERGED with
        step = s and the parameters it had before that step; the others go on.
        """

    def request_stop(self) -> None:
        """Ask a running `advance` to return after each member's current step (signal-safe)."""

    def freeze(self, members: NDArray[np.bool_]) -> None:
        """[M] mask: those ACTIVE members train no further."""

    def predict(self, inputs: Inputs) -> Int32:
        """tokens [N, T] -> the most likely next token after the last position, [M, N].

        Of a task of vectors or a masked one the largest output of each position asked, [M, N,
        asked]. Ties go to the smaller one.
        """

    def outputs(self, inputs: Inputs, members: Sequence[int]) -> Float32:
        """tokens [N, T] -> logits at the last position, [len(members), N, V].

        Of a task of vectors or a masked one at the positions asked, [len(members), N, asked, V].
        """

    def generate(self, prompts: Prompts, members: Sequence[int]) -> Int32:
        """What follows each prompt, int32 [len(members), N, max_new]: the likeliest token, which
        is read next, and so on.

        Ties go to the smaller token. After `prompts.end` a row holds -1. Raises
        UsageError for prompts that the network cannot read, for networks that see what follows, and
        where the engine does not decode.
        """
