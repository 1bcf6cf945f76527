"""Symbolic Raven matrices: does a network put known rules together in sets it never saw?

Schug et al., "Attention as a Hypernetwork", arXiv 2406.05816, section 4 (SRAVEN). A panel has K
features of F symbols; every feature of a 3 x 3 grid follows a rule along the rows. A sequence has
the first eight panels, a feature a token; K queries ask for the ninth.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compfast.config import EvaluationConfig, TaskSection
from compfast.config.section import check_seed, require
from compfast.errors import UsageError
from compfast.streams import philox
from compfast.tasks import hyla
from compfast.tasks.base import Int32, Settings, Task
from compfast.tasks.sraven_exam import CANDIDATES, RavenExam
from compfast.tasks.sraven_rules import ROW_WORDS, RULES, grids, permutations, triples
from compfast.tasks.words import check_words, words_of

Float32 = NDArray[np.float32]

_MOST_FEATURES, _MOST_SYMBOLS = 6, 32
_HEAD_WORDS = 4  # of a sequence: its rules, and a permutation for each column
_SEEN, _UNSEEN = 0, 1  # subs of the exam's streams


@dataclass(frozen=True, slots=True)
class SravenConfig(TaskSection):
    """arXiv 2406.05816, section 4.1 and its code (hyla/data/raven.py)."""

    name: str = "sraven"
    features: int = 4  # K
    symbols: int = 8  # F; arithmetic is modulo F
    frac_test: float = 0.25  # of the sets of rules: held out
    permuted: bool = True  # each column shows the features in an order of its own
    split_seed: int = 0  # which sets these are; the same for all members

    def _check(self) -> None:
        require(
            1 <= self.features <= _MOST_FEATURES,
            f"task.features is {self.features}; it must be in 1..{_MOST_FEATURES}",
        )
        require(
            5 <= self.symbols <= _MOST_SYMBOLS,
            f"task.symbols is {self.symbols}; it must be in 5..{_MOST_SYMBOLS}, since steps of"
            " -2 to 2 are different rules",
        )
        require(
            0 < self.frac_test < 1,
            f"task.frac_test is {self.frac_test}; it must be above 0 and below 1",
        )
        check_seed("task.split_seed", self.split_seed)

    def describe(self, varied: frozenset[str]) -> str:
        """E.g. "sraven, 4 features, 8 symbols, 0.25 of the rule sets held out"."""
        said = [self.name]
        said += [f"{getattr(self, n)} {n}" for n in ("features", "symbols") if n not in varied]
        if "frac_test" not in varied:
            said.append(f"{self.frac_test:.4g} of the rule sets held out")
        if "permuted" not in varied and not self.permuted:
            said.append("features in one order")
        return ", ".join(said)


# Key and value sizes are 64 in all: the released code's qk_dim is that of all heads.
_NETWORK: Settings = {**hyla.NETWORK, "layers": 4, "heads": 16, "d_k": 4, "d_v": 4}


class SravenTask(Task[SravenConfig]):
    """`trained` and `held_out` are multisets of rules, int32 [.., K], rules in rising order.

    All multisets, in lexicographic order, are permuted by `split_seed` and the first of them held
    out. Feature k follows rule k of the set; which token shows it is a column's permutation.
    Raises UsageError where a side would be empty.
    """

    Config = SravenConfig
    candidates = CANDIDATES
    presets: ClassVar[Mapping[str, Settings]] = {
        "sraven": {  # ours: fewer features and layers, for a CPU
            "task": {"features": 2},
            "model": {**_NETWORK, "layers": 2, "d_model": 64, "heads": 8, "d_ff": 128},
            "init": hyla.INIT,
            "optimizer": {**hyla.OPTIMIZER, "warmup": 0.02},
            "training": {"steps": 5000, "batch_size": 128, "log_every": 100, "eval_every": 1000},
        },
        "sraven-paper": {  # HYLA, 20 million sequences
            "model": {**_NETWORK, **hyla.HYLA},
            "init": hyla.INIT,
            "optimizer": {**hyla.OPTIMIZER, "warmup": 1000 / 156_250},
            "training": {"steps": 156_250, "batch_size": 128},
            "evaluation": {"seen_items": 51_200, "unseen_items": 51_200},
        },
    }

    def __init__(self, config: SravenConfig) -> None:
        self.config = config
        self.length, self.width = 9 * config.features, config.symbols
        self.outputs, self.asked = config.symbols, config.features
        self._needed = _HEAD_WORDS + config.features * 3 * ROW_WORDS  # words of a sequence
        kinds = itertools.combinations_with_replacement(range(len(RULES)), config.features)
        every = np.array(list(kinds), np.int32)
        held = math.floor(config.frac_test * len(every) + 1e-9)  # cut, as the paper's code does
        if not 0 < held < len(every):
            raise UsageError(
                f"task.frac_test {config.frac_test} of {len(every)} sets of rules holds out {held};"
                " at least one must be trained and one held out"
            )
        order = philox.feistel(config.split_seed, 0, np.arange(len(every)), len(every))
        self.held_out, self.trained = every[order[:held]], every[order[held:]]
        self.permutations = permutations(config.features)
        self.triples = triples(config.symbols)

    def batch(self, seed: int, step: int, size: int) -> tuple[Float32, Int32]:
        panels, _ = self.drawn(seed, philox.TRAIN, step, 0, size, self.trained)
        return self.shown(panels), panels[:, 2, 2].copy()

    def check_batch(self, size: int) -> None:
        check_words(size, self._needed)

    def stream(self) -> dict[str, Any]:
        return {
            "kind": "sraven",
            "rules": self.trained,  # int32 [sets, K]
            "permutations": self.permutations,  # int32 [K!, K]
            "triples": self.triples,  # int32 [F (F - 1) (F - 2), 3]
            "symbols": self.config.symbols,
            "permuted": int(self.config.permuted),
        }

    def exam(self, evaluation: EvaluationConfig) -> RavenExam:
        """Fresh grids of trained and of held-out sets of rules.

        The label `rule` says which of RULES the last query is to follow.
        """
        seed = evaluation.eval_seed
        seen = self.drawn(seed, philox.EVAL, 0, _SEEN, evaluation.seen_items, self.trained)
        unseen = self.drawn(seed, philox.EVAL, 0, _UNSEEN, evaluation.unseen_items, self.held_out)
        panels, asked = (np.concatenate(both) for both in zip(seen, unseen, strict=True))
        rules = asked[:, -1:] == np.arange(len(RULES))
        return RavenExam(
            self.shown(panels), panels, evaluation.seen_items, self.config.symbols, {"rule": rules}
        )

    def shown(self, panels: Int32) -> Float32:
        """One-hot vectors [B, 9 K, F] of panels [B, 3, 3, K]; those of the ninth are zero."""
        count, width = len(panels), self.config.symbols
        tokens = panels.reshape(count, self.length)[:, : -self.config.features]
        vectors = np.zeros((count, self.length, width), np.float32)
        np.put_along_axis(vectors[:, : tokens.shape[1]], tokens[..., None].astype(int), 1, axis=2)
        return vectors

    def drawn(
        self, seed: int, purpose: int, step: int, sub: int, count: int, rules: Int32
    ) -> tuple[Int32, Int32]:
        """Panels [B, row, column, K] as they are shown, and the rules [B, K] of the queries.

        Words of a sequence: its rules, a permutation for each column, then six for each feature.
        """
        features = self.config.features
        words = words_of(seed, purpose, step, sub, count, self._needed)
        chosen = rules[philox.integers(words[:, 0], len(rules))]
        body = words[:, _HEAD_WORDS:].reshape(count, features, 3, ROW_WORDS)
        panels = np.moveaxis(grids(chosen, body, self.config.symbols), 1, 3)
        if self.config.permuted:
            at = self.permutations[philox.integers(words[:, 1:4], len(self.permutations))]
            panels = np.take_along_axis(panels, at[:, None].astype(int), axis=3)
            chosen = np.take_along_axis(chosen, at[:, 2].astype(int), axis=1)
        return np.ascontiguousarray(panels, np.int32), chosen
