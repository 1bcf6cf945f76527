"""Fuzzy logic in context: does a network put known terms together in combinations it never saw?

Schug et al., "Attention as a Hypernetwork", arXiv 2406.05816. A term is the conjunction of all
variables, each plain or negated; a task is the disjunction of a few terms. A sequence has examples
[x, f(x)] of one task with x uniform in [0, 1]^L; the last f(x), hidden, is to be predicted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from compfast.config import EvaluationConfig, TaskSection
from compfast.config.section import at_most, check_seed, positive, require, require_together
from compfast.errors import UsageError
from compfast.streams import philox
from compfast.tasks import hyla
from compfast.tasks.base import Int32, Settings, Task
from compfast.tasks.regression import Float32, RegressionExam, Split, context_mean
from compfast.tasks.words import check_words, words_of

_MOST_COMBINATIONS = 2**16
_SEEN, _UNSEEN, _UNKNOWN = range(3)  # subs of the exam's streams


@dataclass(frozen=True, slots=True)
class FuzzyConfig(TaskSection):
    """arXiv 2406.05816, section 3.1 and its code (hyla/data/logic.py)."""

    name: str = "fuzzy"
    variables: int = 4  # L
    terms: int = 2  # K, different ones
    operators: Literal["zadeh", "product"] = "zadeh"  # and, or: min, max; or products
    samples: int = 32  # N: tokens a sequence; the paper has 16 to 96
    frac_test: float = 0.7  # of the combinations of known terms: held out (also 0.5 in the paper)
    frac_unknown: float = 0.25  # of the terms, the last ones: never trained
    split_seed: int = 0  # which combinations these are; the same for all members

    def _check(self) -> None:
        positive("task", self, "variables", "terms")
        at_most("task", self, variables=10, terms=8, samples=2**14)
        require(self.samples >= 2, f"task.samples is {self.samples}; it must be at least 2")
        require(
            0 < self.frac_test < 1,
            f"task.frac_test is {self.frac_test}; it must be above 0 and below 1",
        )
        require(
            0 <= self.frac_unknown < 1,
            f"task.frac_unknown is {self.frac_unknown}; it must be at least 0 and below 1",
        )
        check_seed("task.split_seed", self.split_seed)
        known, unknown = self.known, 2**self.variables - self.known
        require_together(
            self.terms <= known and (not unknown or self.terms <= unknown),
            f"task.terms is {self.terms}; of {2**self.variables} terms {known} are known and"
            f" {unknown} unknown, and so many of each are needed (or none unknown)",
        )
        require_together(
            math.comb(max(known, unknown), self.terms) <= _MOST_COMBINATIONS,
            f"task.variables {self.variables} and task.terms {self.terms} make"
            f" {math.comb(max(known, unknown), self.terms)} combinations; at most"
            f" {_MOST_COMBINATIONS} are taken",
        )

    @property
    def known(self) -> int:
        """Terms that training may use, the first ones."""
        every: int = 2**self.variables
        return every - portion(self.frac_unknown, every)

    def describe(self, varied: frozenset[str]) -> str:
        """E.g. "fuzzy, variables 4, terms 2, zadeh, 0.7 of the combinations held out"."""
        said = [self.name]
        said += [f"{n} {getattr(self, n)}" for n in ("variables", "terms") if n not in varied]
        said += [self.operators] * ("operators" not in varied)
        if "frac_test" not in varied:
            said.append(f"{self.frac_test:.4g} of the combinations held out")
        return ", ".join(said)


def portion(share: float, count: int) -> int:
    """The share of `count`, cut to a whole number as the paper's code does (66 x 0.7 = 46)."""
    return math.floor(share * count + 1e-9)


# Key and value sizes are 16 in all: the released code's qk_dim is that of all heads.
_NETWORK: Settings = {**hyla.NETWORK, "layers": 2, "heads": 8, "d_k": 2, "d_v": 2}


class FuzzyTask(Task[FuzzyConfig]):
    """`trained`, `held_out` and `unknown` are combinations of terms, int32 [.., K].

    Term t negates variable l where bit L - 1 - l of t is 0, so that terms are in lexicographic
    order. The combinations of known terms, in that order, are permuted by `split_seed` and the
    first of them held out. Raises UsageError where none is held out, or none trained.
    """

    Config = FuzzyConfig
    candidates = ("inferential", "nearest", "mean")
    loss, outputs = "squared_error", 1
    presets: ClassVar[Mapping[str, Settings]] = {
        "fuzzy": {  # ours, for minutes on a CPU
            "task": {"samples": 16},
            "model": {**_NETWORK, "d_model": 64, "d_ff": 128},
            "init": hyla.INIT,
            "optimizer": {**hyla.OPTIMIZER, "warmup": 0.02},
            "training": {"steps": 5000, "batch_size": 64, "log_every": 100, "eval_every": 1000},
        },
        "fuzzy-paper": {  # HYLA, at 32 samples and 0.7 held out
            "model": {**_NETWORK, **hyla.HYLA},
            "init": hyla.INIT,
            "optimizer": {**hyla.OPTIMIZER, "warmup": 100 / 50_000},
            "training": {"steps": 50_000, "batch_size": 128},
            "evaluation": {"seen_items": 16_000, "unseen_items": 16_000},
        },
    }

    def __init__(self, config: FuzzyConfig) -> None:
        self.config, self.length = config, config.samples
        self.width = config.variables + 1
        self._needed = 1 + config.samples * config.variables  # words of a sequence
        every = _combinations(range(config.known), config.terms)
        held = portion(config.frac_test, len(every))
        if not 0 < held < len(every):
            raise UsageError(
                f"task.frac_test {config.frac_test} of {len(every)} combinations holds out {held};"
                " at least one must be trained and one held out"
            )
        order = philox.feistel(config.split_seed, 0, np.arange(len(every)), len(every))
        self.held_out, self.trained = every[order[:held]], every[order[held:]]
        self.unknown = _combinations(range(config.known, 2**config.variables), config.terms)

    def batch(self, seed: int, step: int, size: int) -> tuple[Float32, Float32]:
        vectors, values, _ = self._drawn(seed, philox.TRAIN, step, 0, size, self.trained)
        return vectors, values[:, -1].reshape(size, 1, 1)

    def check_batch(self, size: int) -> None:
        check_words(size, self._needed)

    def stream(self) -> dict[str, Any]:
        return {
            "kind": "fuzzy",
            "combinations": self.trained,  # int32 [combinations, K]
            "variables": self.config.variables,
            "product": int(self.config.operators == "product"),
            "seq_len": self.length,
        }

    def exam(self, evaluation: EvaluationConfig) -> RegressionExam:
        """Fresh sequences of trained, of held-out and of unknown combinations.

        R2 is the paper's: per sequence 1 - squared error / variance of all its targets, the
        query's among them. `inferential` is the true function. `nearest` is, in hindsight of the
        context, the best trained combination: the one with the least squared error on it, its
        value at the query. `mean` is the mean of the context's values. The unit of the
        candidates' scores is the mean squared error of `mean`, so that of `mean` and
        `inferential` each scores 0 as the other. The label `term` says which terms are in an
        item's combination.
        """
        kinds = {
            "seen": (_SEEN, evaluation.seen_items, self.trained),
            "unseen": (_UNSEEN, evaluation.unseen_items, self.held_out),
        }
        if len(self.unknown):
            kinds["unknown"] = (_UNKNOWN, evaluation.unseen_items, self.unknown)
        drawn = {
            name: self._drawn(evaluation.eval_seed, philox.EVAL, 0, *kind)
            for name, kind in kinds.items()
        }
        parts = {name: _split(vectors, values) for name, (vectors, values, _) in drawn.items()}
        vectors, values, _ = drawn["unseen"]
        wide = values.astype(np.float64)
        true, mean = wide[:, -1], context_mean(wide[:, :-1])
        answers = {
            "inferential": true,
            "nearest": self._nearest(vectors[..., :-1], wide[:, :-1]),
            "mean": mean,
        }
        chosen = np.concatenate([of for _, _, of in drawn.values()])  # [N, K]
        terms = (chosen[:, :, None] == np.arange(2**self.config.variables)).any(axis=1)
        unit = float(np.square(true - mean).mean())
        return RegressionExam(parts, answers, unit, {"term": terms})

    def _drawn(
        self, seed: int, purpose: int, step: int, sub: int, count: int, combinations: Int32
    ) -> tuple[Float32, Float32, Int32]:
        """Vectors [B, N, L + 1], values [B, N] and combinations [B, K].

        Words of a sequence: its combination, then its variables, example by example.
        """
        words = words_of(seed, purpose, step, sub, count, self._needed)
        chosen = combinations[philox.integers(words[:, 0], len(combinations))]
        x = philox.uniforms(words[:, 1:]).reshape(count, self.length, self.config.variables)
        values = self.values(x, chosen)
        vectors = np.concatenate([x, values[..., None]], axis=2)
        vectors[:, -1, -1] = 0
        return vectors, values, chosen

    def values(self, x: Float32, chosen: Int32) -> Float32:
        """f(x) [B, N] of x [B, N, L] under combinations [B, K], in float32 throughout."""
        product = self.config.operators == "product"
        one = np.float32(1)
        result: Float32 | None = None
        for term in chosen.T:  # [B]
            holds: Float32 | None = None
            for at in range(self.config.variables):
                plain = (term >> (self.config.variables - 1 - at) & 1).astype(bool)
                literal = np.where(plain[:, None], x[..., at], one - x[..., at])
                if holds is None:
                    holds = literal
                else:
                    holds = holds * literal if product else np.minimum(holds, literal)
            assert holds is not None
            if result is None:
                result = holds
            elif product:  # a or b = 1 - (1 - a) (1 - b)
                result = one - (one - result) * (one - holds)
            else:
                result = np.maximum(result, holds)
        assert result is not None
        return result

    def _nearest(self, x: Float32, context: Any) -> Any:
        """What the best trained combination of each item says at its query, [B].

        x [B, N, L], context [B, N - 1]; of equally good ones the first.
        """
        least = np.full(len(x), np.inf)
        answer = np.zeros(len(x))
        for row in self.trained:
            values = self.values(x, np.broadcast_to(row, (len(x), len(row))))
            error = np.square(values[:, :-1] - context).sum(axis=1)
            better = error < least
            least[better], answer[better] = error[better], values[better, -1]
        return answer


def _split(vectors: Float32, values: Float32) -> Split:
    wide = values.astype(np.float64)
    return Split(vectors, wide[:, -1], wide.var(axis=1))


def _combinations(terms: range, count: int) -> Int32:
    return np.array(list(itertools.combinations(terms, count)), np.int32).reshape(-1, count)
