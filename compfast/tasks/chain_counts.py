"""Add-beta counting: what a learner could reach that knows a chain's order but not its law.

After symbols x_1 .. x_t of a chain of order k with V states it predicts

    P(x | x_1 .. x_t) = (n(c, x) + beta) / (n(c) + V beta),   c = x_{t-k+1} .. x_t,

where n(c) counts how often the context c was followed by something so far, and n(c, x) by x. It
is the Bayes prediction when every row of the chain is drawn from a Dirichlet law with all its
parameters beta: 1/2 is Krichevsky and Trofimov's estimator, 1 Laplace's. A context that has not
come before, and the fewer than k symbols at the start, predict 1 / V. Order 0 counts symbols
alone: the reference for an in-context `local` (unigram), as order 1 is for `global` (bigram).

Sequences are integers [N, L] in 0..V-1; losses are in nats. Raises UsageError for others, and for
an order, V or beta that is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compfast.errors import UsageError
from compfast.tasks.base import Float64

Int64 = NDArray[np.int64]
Symbols = NDArray[Any] | Sequence[Sequence[int]]

KT = 0.5  # Krichevsky and Trofimov's beta


def predictive(sequences: Symbols, states: int, order: int = 1, beta: float = KT) -> Float64:
    """The law of the symbol after each sequence, [N, V]."""
    given = _checked(sequences, states, order, beta)
    counts = np.zeros((len(given), states))
    if given.shape[1] >= order:
        contexts = _contexts(given, states, order)  # [N, L - k + 1]
        rows, places = np.nonzero(contexts[:, :-1] == contexts[:, -1:])
        np.add.at(counts, (rows, given[rows, places + order]), 1)
    law: Float64 = (counts + beta) / (counts.sum(axis=1, keepdims=True) + states * beta)
    return law


def chances(sequences: Symbols, states: int, order: int = 1, beta: float = KT) -> Float64:
    """The probability given to each symbol by those before it, [N, L]; its rows' products are
    the estimator's probabilities of whole sequences."""
    given = _checked(sequences, states, order, beta)
    found = np.full(given.shape, 1 / states)
    if given.shape[1] > order:
        contexts = _contexts(given, states, order)[:, :-1]
        seen = _earlier(contexts)
        followed = _earlier(contexts * states + given[:, order:])
        found[:, order:] = (followed + beta) / (seen + states * beta)
    return found


def mean_loss(sequences: Symbols, states: int, order: int = 1, beta: float = KT) -> float:
    """The mean loss at all symbols but the first, which is what a network's loss is over tokens
    and what follows them; UsageError for sequences that have no second."""
    found = chances(sequences, states, order, beta)[:, 1:]
    if not found.size:
        raise UsageError("there is no loss: no sequence has a second symbol")
    return float(-np.log(found).mean())


def _contexts(given: Int64, states: int, order: int) -> Int64:
    """Codes of every k symbols that stand side by side, [N, L - k + 1]; of none, one code."""
    count, length = given.shape
    codes = np.zeros((count, length - order + 1), np.int64)
    for i in range(order):
        codes = codes * states + given[:, i : length - order + 1 + i]
    return codes


def _earlier(codes: Int64) -> Int64:
    """How often each code came before in its row."""
    order = np.argsort(codes, axis=1, kind="stable")
    ordered = np.take_along_axis(codes, order, axis=1)
    place = np.broadcast_to(np.arange(codes.shape[1]), codes.shape)
    first = np.ones(codes.shape, np.bool_)  # of its code among the ordered
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    begin = np.maximum.accumulate(np.where(first, place, 0), axis=1)
    counts = np.empty_like(codes)
    np.put_along_axis(counts, order, place - begin, axis=1)
    return counts


def _checked(sequences: Symbols, states: int, order: int, beta: float) -> Int64:
    given = np.asarray(sequences)
    if states < 2:
        raise UsageError(f"states is {states}; it must be at least 2")
    if order < 0 or (order + 1) * math.log2(states) > 62:
        most = int(62 / math.log2(states)) - 1
        raise UsageError(f"order is {order}; with {states} states it must be in 0..{most}")
    if not (beta > 0 and math.isfinite(beta)):
        raise UsageError(f"beta is {beta}; it must be above 0 and finite")
    if given.ndim != 2 or given.dtype.kind not in "iu":
        raise UsageError(
            f"sequences have shape {list(given.shape)} and type {given.dtype}; they must be"
            " integers [sequences, length]"
        )
    if given.size and not 0 <= given.min() <= given.max() < states:
        raise UsageError(
            f"sequences go from {given.min()} to {given.max()}; with {states} states they must be"
            f" in 0..{states - 1}"
        )
    return given.astype(np.int64)
