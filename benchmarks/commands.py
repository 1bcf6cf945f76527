"""A task with the lengths of SCAN's sequences, whose commands mean nothing.

Lake & Baroni 2018, arXiv 1711.00350: 20,910 commands of 1 to 9 words and 1 to 48 actions, packed as
`command SEP actions END`, of which the actions and END are asked for.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compfast.config import EvaluationConfig, TaskSection
from compfast.streams import philox
from compfast.tasks.base import Task

Ids = NDArray[np.int32]
WORDS, ACTIONS = 13, 6
SEP, END, FILLER = WORDS + ACTIONS, WORDS + ACTIONS + 1, WORDS + ACTIONS + 2
LENGTH = 58  # positions: the longest sequence has 59 tokens, the last of which is asked only


@dataclass(frozen=True, slots=True)
class CommandsConfig(TaskSection):
    name: str = "benchmarks.commands:CommandsTask"


class CommandsTask(Task[CommandsConfig]):
    """Batches are rows of a table, uniform over the commands."""

    Config = CommandsConfig
    candidates = ("echo",)
    length, vocabulary, masked = LENGTH, FILLER + 1, True

    def __init__(self, config: CommandsConfig) -> None:
        self.config = config

    def batch(self, seed: int, step: int, size: int) -> tuple[Ids, Ids]:
        tokens, targets = _table()
        rows = philox.integers(philox.words(seed, philox.TRAIN, step, 0, 0, size), len(tokens))
        return tokens[rows], targets[rows]

    def exam(self, evaluation: EvaluationConfig) -> Any:
        raise NotImplementedError


def sizes() -> list[tuple[int, int]]:
    """Words and actions of every command of SCAN's phrase grammar."""
    plain = [(1, 1)] * 4 + [(2, 2)] * 8 + [(2, 1)] * 2  # walk; walk left; turn left
    turned = [(3, 3)] * 8 + [(3, 2)] * 2 + [(3, 8)] * 8 + [(3, 4)] * 2  # opposite, around
    phrases = plain + turned
    said = phrases + [(w + 1, times * a) for times in (2, 3) for w, a in phrases]
    joined = [(v + w + 1, a + b) for v, a in said for w, b in said]
    return said + 2 * joined  # and, after


@functools.cache
def _table() -> tuple[Ids, Ids]:
    found, rng = sizes(), np.random.default_rng(0)
    rows = np.full((len(found), LENGTH + 1), FILLER, np.int32)
    targets = np.full((len(found), LENGTH), -1, np.int32)
    for row, own, (words, actions) in zip(rows, targets, found, strict=True):
        end = words + actions + 1
        row[:words] = rng.integers(0, WORDS, words)
        row[words] = SEP
        row[words + 1 : end] = rng.integers(WORDS, WORDS + ACTIONS, actions)
        row[end] = END
        own[words:end] = row[words + 1 : end + 1]
    return np.ascontiguousarray(rows[:, :-1]), targets
