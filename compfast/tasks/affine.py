"""Composed affine maps, whose order matters: "symmetric" and "inferential" never coincide.

The anchor task (Zhang et al. 2024, arXiv 2405.05409, section 3) with maps x -> a x + b modulo a
prime instead of shifts; the task is ours. A key is followed by two anchors, other positions hold
noise items; the target is the second anchor's map of the first one's map of the key. Both orders
of a pair have the same slope and different constants, so no key has the same answer twice, and
nothing needs to be overridden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compfast.config import EvaluationConfig, TaskSection
from compfast.config.section import at_most, positive, require, require_together
from compfast.errors import UsageError
from compfast.streams import philox
from compfast.tasks.anchored import AnchoredExam
from compfast.tasks.base import Int32
from compfast.tasks.table import TableDraws, TableTask

_MOST = 2**16  # positions, anchors, modulus
_SEEN, _UNSEEN = 0, 1  # splits of the exam: the `sub` of its streams


@dataclass(frozen=True, slots=True)
class AffineConfig(TaskSection):
    """Tokens 0..A-1 are the anchors, A..A+p-1 the items."""

    name: str = "affine"
    modulus: int = 31  # p, a prime: items stand for 0..p-1
    maps: tuple[tuple[int, int], ...] = ((2, 3), (3, 1), (5, 7), (7, 2))  # (a, b) an anchor
    unseen: tuple[tuple[int, int], ...] = ((3, 2),)  # ordered pairs never trained, anchors from 0
    seq_len: int = 9  # as in the anchor task
    key_modulus: int = 7  # key x is test-side at position pos when x % modulus == pos
    total: int = 100_000  # sequences of the drawn set, over all trained pairs

    def _check(self) -> None:
        positive("task", self, "key_modulus", "total")
        at_most("task", self, modulus=_MOST, seq_len=_MOST, total=2**24)
        require(self.seq_len >= 3, f"task.seq_len is {self.seq_len}; it must be at least 3")
        require(
            _is_prime(self.modulus), f"task.modulus is {self.modulus}; it must be a prime number"
        )
        require_together(
            2 <= len(self.maps) <= _MOST and all(a % self.modulus for a, _ in self.maps),
            f"task.maps is {self.maps}; at least two maps are needed, with slopes that are no"
            f" multiple of {self.modulus}",
        )
        for pair in self.unseen:
            require_together(
                all(0 <= anchor < len(self.maps) for anchor in pair) and pair[0] != pair[1],
                f"task.unseen has {pair}; it must name two different anchors of"
                f" 0..{len(self.maps) - 1}",
            )

    def describe(self, varied: frozenset[str]) -> str:
        """E.g. "affine, modulo 31, (3,2) unseen"."""
        said = [self.name]
        if "modulus" not in varied:
            said.append(f"modulo {self.modulus}")
        if "unseen" not in varied:
            said.append(" and ".join(f"({i},{j})" for i, j in self.unseen) + " unseen")
        return ", ".join(said)


class AffineTask(TableTask[AffineConfig]):
    """A set of `total` sequences, drawn once from the streams of seed 0, for all members.

    Raises UsageError when a split is empty, and for an unseen pair whose maps commute.
    """

    Config = AffineConfig
    candidates = ("inferential", "symmetric")

    def __init__(self, config: AffineConfig) -> None:
        self.config, self.length = config, config.seq_len
        self._anchors, self._p = len(config.maps), config.modulus
        self.vocabulary = self._anchors + self._p
        for i, j in config.unseen:
            if self._compose(i, j, 0) == self._compose(j, i, 0):
                raise UsageError(f"task.unseen has {(i, j)}, whose maps commute")
        pairs = [(i, j) for i in range(self._anchors) for j in range(self._anchors)]
        self._trained = _rows([pair for pair in pairs if pair not in config.unseen])
        self._unseen = _rows(list(config.unseen))
        places = [(x, at) for x in range(self._p) for at in range(config.seq_len - 2)]
        self._train = _rows([(x, at) for x, at in places if x % config.key_modulus != at])
        self._test = _rows([(x, at) for x, at in places if x % config.key_modulus == at])
        for name, rows in (("train", self._train), ("test", self._test)):
            if not len(rows):
                raise UsageError(
                    f"task.key_modulus {config.key_modulus} leaves no (key, position) to {name}"
                )
        if not len(self._trained) or not len(self._unseen):
            raise UsageError(f"task.unseen is {config.unseen}; some pairs are needed on both sides")
        tokens, pair, key = self._drawn(
            0, philox.DRAWN, 0, config.total, self._trained, self._train
        )
        self.table = TableDraws(tokens, self._answer(pair, key), shuffled=True)

    def exam(self, evaluation: EvaluationConfig) -> AnchoredExam:
        """Trained pairs with test-side keys; unseen pairs with train-side keys.

        `symmetric` is the trained answer of the swapped pair; -1 where that is not trained.
        """
        seed, seen, unseen = evaluation.eval_seed, evaluation.seen_items, evaluation.unseen_items
        first, pair, key = self._drawn(seed, philox.EVAL, _SEEN, seen, self._trained, self._test)
        second, held, keys = self._drawn(
            seed, philox.EVAL, _UNSEEN, unseen, self._unseen, self._train
        )
        trained = {tuple(row) for row in self._trained.tolist()}
        known = np.array([(j, i) in trained for i, j in held.tolist()])
        symmetric = np.where(known, self._answer(held[:, ::-1], keys), -1).astype(np.int32)
        answers = {"inferential": self._answer(held, keys), "symmetric": symmetric}
        return AnchoredExam(
            np.concatenate([first, second]),
            slice(0, seen),
            slice(seen, seen + unseen),
            self._answer(pair, key),
            answers if known.any() else {"inferential": answers["inferential"]},
            anchors=tuple(range(self._anchors)),
            zero=self._anchors,
            modulus=self._p,
        )

    def _drawn(
        self, seed: int, purpose: int, sub: int, count: int, pairs: Int32, places: Int32
    ) -> tuple[Int32, Int32, Int32]:
        """tokens [N, T], pairs [N, 2] and keys [N]; sequence b owns W words from b W on."""
        width = -(-(2 + self.length) // 4) * 4
        words = philox.words(seed, purpose, 0, sub, 0, count * width).reshape(count, width)
        pair = pairs[philox.integers(words[:, 0], len(pairs))]
        key, at = places[philox.integers(words[:, 1], len(places))].T
        items = philox.integers(words[:, 2 : 2 + self.length], self._p)
        tokens = (items + self._anchors).astype(np.int32)
        row = np.arange(count)
        tokens[row, at] = key + self._anchors
        tokens[row, at + 1], tokens[row, at + 2] = pair.T
        return tokens, pair, key

    def _answer(self, pair: NDArray[Any], key: NDArray[Any]) -> Int32:
        """The token of the composed maps' value, [N]."""
        maps = np.array(self.config.maps, np.int64) % self._p
        (a1, b1), (a2, b2) = maps[pair[:, 0]].T, maps[pair[:, 1]].T
        value = (a2 * ((a1 * key + b1) % self._p) + b2) % self._p
        tokens: Int32 = (value + self._anchors).astype(np.int32)
        return tokens

    def _compose(self, first: int, second: int, x: int) -> int:
        (a1, b1), (a2, b2) = self.config.maps[first], self.config.maps[second]
        return (a2 * (a1 * x + b1) + b2) % self._p


def _rows(rows: list[tuple[int, int]]) -> Int32:
    return np.array(rows, dtype=np.int32).reshape(-1, 2)


def _is_prime(n: int) -> bool:
    return n >= 2 and all(n % d for d in range(2, int(n**0.5) + 1))
