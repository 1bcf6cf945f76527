"""Modular arithmetic on a share of all pairs: does a network find the rule, or remember the share?

Power et al. 2022, arXiv 2201.02177 ("grokking"). A sequence is a, b, "="; the target is a o b
modulo p. A fixed share of the p^2 pairs is trained, the others are held out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from compfast.config import EvaluationConfig, TaskSection
from compfast.config.section import check_seed, require
from compfast.errors import UsageError
from compfast.streams import philox
from compfast.tasks.base import Int32, Scores, Settings
from compfast.tasks.known_answers import KnownAnswers
from compfast.tasks.scoring import some_rows
from compfast.tasks.table import TableDraws, TableTask

_MOST_MODULUS = 2048  # 4 million pairs
_OPERATIONS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "squares": lambda a, b: a * a + b * b,
}


@dataclass(frozen=True, slots=True)
class ModularConfig(TaskSection):
    """arXiv 2201.02177, section 3; sizes of the default are ours, for minutes on a CPU."""

    name: str = "modular"
    modulus: int = 31  # p; 97 in the paper
    operation: Literal["add", "subtract", "multiply", "squares"] = "add"  # squares: a^2 + b^2
    train_share: float = 0.5  # of the p^2 ordered pairs
    split_seed: int = 0  # which pairs these are; the same for all members
    shuffled: bool = True  # epochs over the share; False: pairs drawn with replacement

    def _check(self) -> None:
        require(
            2 <= self.modulus <= _MOST_MODULUS,
            f"task.modulus is {self.modulus}; it must be in 2..{_MOST_MODULUS}",
        )
        require(
            0 < self.train_share < 1,
            f"task.train_share is {self.train_share}; it must be above 0 and below 1",
        )
        check_seed("task.split_seed", self.split_seed)

    def describe(self, varied: frozenset[str]) -> str:
        """E.g. "modular, add modulo 31, 50 % of the pairs trained"."""
        said = [self.name]
        if not {"operation", "modulus"} & varied:
            said.append(f"{self.operation} modulo {self.modulus}")
        if "train_share" not in varied:
            said.append(f"{self.train_share:.4g} of the pairs trained")
        return ", ".join(said)


class ModularTask(TableTask[ModularConfig]):
    """Pairs in the order of a permutation keyed by `split_seed`: first the trained ones.

    Raises UsageError where either side would be empty.
    """

    Config = ModularConfig
    candidates = ("generalised", "memorised")
    length = 3
    presets: ClassVar[Mapping[str, Settings]] = {
        # Ours, tried by hand: remembered at large initial weights, the rule at smaller ones, within
        # minutes; with decay 1 the rule is found everywhere.
        "modular": {
            "model": {"layers": 1, "d_model": 48, "heads": 2},
            "optimizer": {"lr": 2e-3, "weight_decay": 0.3, "schedule": "constant"},
            "training": {"steps": 3000, "batch_size": 128, "eval_every": 400},
        },
    }

    def __init__(self, config: ModularConfig) -> None:
        self.config = config
        p, pairs = config.modulus, config.modulus**2
        self.vocabulary = p + 1  # and "="
        trained = round(config.train_share * pairs)
        if not 0 < trained < pairs:
            raise UsageError(
                f"task.train_share {config.train_share} of {pairs} pairs trains {trained};"
                " at least one must be trained and one held out"
            )
        order = philox.feistel(config.split_seed, 0, np.arange(pairs), pairs)
        a, b = np.divmod(order, p)
        tokens = np.stack([a, b, np.full_like(a, p)], axis=1).astype(np.int32)
        targets = (_OPERATIONS[config.operation](a, b) % p).astype(np.int32)
        self.table = TableDraws(tokens[:trained], targets[:trained], config.shuffled)
        self._held_out = tokens[trained:], targets[trained:]

    def exam(self, evaluation: EvaluationConfig) -> RuleExam:
        """Trained and held-out pairs: all of them, or as many as `evaluation` asks for.

        `eval_seed` chooses which where there are more.
        """
        asked = []
        for (tokens, targets), most in (
            ((self.table.tokens, self.table.targets), evaluation.seen_items),
            (self._held_out, evaluation.unseen_items),
        ):
            rows = some_rows(len(tokens), most, evaluation.eval_seed)
            asked.append((tokens[rows], targets[rows]))
        seen, unseen = asked
        return RuleExam(
            np.concatenate([seen[0], unseen[0]]), seen[1], unseen[1], self.config.modulus
        )


@dataclass(frozen=True, slots=True, eq=False)
class RuleExam:
    """Rows of `inputs` are the trained pairs, then the held-out ones."""

    inputs: Int32  # [N, 3]
    seen_targets: Int32  # [N_seen]
    targets: Int32  # [N_unseen]
    modulus: int

    reads: ClassVar[Literal["answers", "outputs"]] = "answers"
    candidates: ClassVar[tuple[str, ...]] = ModularTask.candidates

    @property
    def splits(self) -> dict[str, slice]:
        seen = len(self.seen_targets)
        return {"seen": slice(0, seen), "unseen": slice(seen, len(self.inputs))}

    @property
    def known_answers(self) -> KnownAnswers:
        """Those of the rule; what was remembered answers no held-out pair."""
        return KnownAnswers("unseen", {"generalised": self.targets}, self.modulus)

    def score(self, answers: NDArray[Any]) -> Scores:
        """`generalised` is the share of held-out pairs answered by the rule.

        A member that answers otherwise there, though it fits the trained pairs, has remembered
        those: `memorised` is the rest, and no other answer is told apart.
        """
        seen = (answers[:, self.splits["seen"]] == self.seen_targets).mean(axis=1)
        rule = (answers[:, self.splits["unseen"]] == self.targets).mean(axis=1)
        return Scores(seen, {"generalised": rule, "memorised": 1 - rule}, np.zeros(len(answers)))
