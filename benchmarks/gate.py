"""Correctness before speed: every peer must train the function that compfast trains."""

from __future__ import annotations

import numpy as np

from benchmarks.peers.native import NativePeer
from benchmarks.problem import Problem
from compfast.engines.base import Float32
from compfast.errors import CompfastError

UPDATES = 20


class GateError(CompfastError):
    """A peer does not train the same function, so nothing is timed."""


def reference_losses(problem: Problem) -> Float32:
    """Losses [M, UPDATES + 1] of the native engine: before update 0, .., after all of them."""
    return NativePeer(problem).losses(UPDATES + 1)


def check(who: str, losses: Float32, reference: Float32, tolerance: float) -> float:
    """The largest difference of two [M, UPDATES + 1] arrays; raises GateError above tolerance."""
    if losses.shape != reference.shape:
        raise GateError(f"{who} gave losses of shape {losses.shape}, not {reference.shape}")
    difference = float(np.abs(losses - reference).max())
    if not difference <= tolerance:  # also true of NaN
        raise GateError(
            f"{who} is {difference:.2g} away from native within {UPDATES} updates from the same"
            f" weights on the same batches; at most {tolerance:g} is allowed, so nothing is timed"
        )
    return difference
