"""What a network predicts after sequences of a Markov chain, beside the chain's exact laws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from compfast.tasks.base import Float64, Int32, Scores

CANDIDATES = ("global", "local")


@dataclass(frozen=True, slots=True, eq=False)
class ChainExam:
    """From a member's logits after each of N sequences."""

    inputs: Int32  # [N, T]
    context: NDArray[np.int64]  # [N] the last symbols as one number
    last: Int32  # [N] the last symbol
    kernel: Float64  # [contexts, V]
    symbols: Float64  # [V] stationary law of a symbol
    weights: Float64  # [N] of the items in every mean: those of a context have its own law

    reads: ClassVar[Literal["answers", "outputs"]] = "outputs"
    candidates: ClassVar[tuple[str, ...]] = CANDIDATES

    @property
    def measures(self) -> tuple[str, ...]:
        """`exam_loss`: mean exact loss in nats. `flip_V`: mean predicted probability of another
        symbol where the last one was V; of a binary chain P(1|0) and 1 - P(1|1)."""
        flips = (f"flip_{symbol}" for symbol in range(len(self.symbols)))
        return ("exam_loss", *flips) if len(self.symbols) <= 10 else ("exam_loss",)

    @property
    def splits(self) -> dict[str, slice]:
        return {"unseen": slice(0, len(self.inputs))}

    def score(self, logits: NDArray[Any]) -> Scores:
        """From logits [M, N, V] at the last position.

        With q the member's prediction after an item, k the chain's own and s the stationary law,
        a candidate's score is 1 less its distance, in units of that between k and s, clipped to
        [0, 1]. The distance is the larger of two. One is the mean total variation of q from the
        candidate's law. The other is between the square roots of what the member's and the
        candidate's losses exceed that of k by, since an excess grows with the square of a
        distance; losses are exact, over k, and contexts weigh what the stationary law gives
        them. `seen` is how much of that law's perplexity a member reaches: exp(H(s) - loss), at
        most 1.
        """
        log_q = self._log_predictions(logits)
        k, q = self.kernel[self.context], np.exp(log_q)  # [N, V], [M, N, V]
        loss = self._mean(-(k * log_q).sum(axis=-1))
        laws = {"global": k, "local": np.broadcast_to(self.symbols, k.shape)}
        least, most = (self._cross_entropy(k, law) for law in laws.values())
        excess = np.sqrt(np.maximum(loss - least, 0) / (most - least))  # 0: global, 1: local
        unit = self._mean(np.abs(k - self.symbols).sum(axis=-1))
        scores = {}
        for level, (name, law) in enumerate(laws.items()):
            apart = self._mean(np.abs(q - law).sum(axis=-1)) / unit
            scores[name] = np.clip(1 - np.maximum(apart, np.abs(excess - level)), 0, 1)
        seen = np.minimum(np.exp(float(entropy(self.symbols[None])[0]) - loss), 1.0)
        return Scores(seen, scores, np.zeros(len(q)), self._measured(q, loss))

    def _log_predictions(self, logits: NDArray[Any]) -> Float64:
        """Log probabilities [M, N, V] of the chain's symbols; other tokens take their share."""
        values = np.asarray(logits, np.float64)
        top = values.max(axis=-1, keepdims=True)
        norm = top + np.log(np.exp(values - top).sum(axis=-1, keepdims=True))
        result: Float64 = values[..., : len(self.symbols)] - norm
        return result

    def _mean(self, values: Float64) -> Float64:
        """Weighted mean of [.., N] over the items; a row's bits depend on no other."""
        result: Float64 = (values * self.weights).sum(axis=-1)
        return result

    def _cross_entropy(self, k: Float64, law: Float64) -> float:
        """Mean loss in nats of predicting `law` [N, V] where the next symbol follows `k` [N, V]."""
        inside = np.where(law > 0, law, 1.0)
        return float(self._mean(-(k * np.log(inside)).sum(axis=-1)))

    def _measured(self, q: Float64, loss: Float64) -> dict[str, Float64]:
        found = {"exam_loss": loss}
        for symbol, name in enumerate(self.measures[1:]):
            after = np.flatnonzero(self.last == symbol)
            stays = np.ascontiguousarray(q[:, after, symbol])  # a row's sum in the row's own order
            found[name] = 1 - stays.mean(axis=1) if len(after) else np.full(len(q), np.nan)
        return found


def entropy(rows: Float64) -> Float64:
    """Entropy of each row in nats."""
    inside = np.where(rows > 0, rows, 1.0)
    result: Float64 = -(rows * np.log(inside)).sum(axis=1)
    return result
