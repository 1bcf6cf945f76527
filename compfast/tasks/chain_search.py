"""Chain search: does a network follow links it reads, or has it learned the links' differences?

From the released code of Zhang et al. 2024, arXiv 2405.05409. Directed chains of distinct items
are given as shuffled pairs (a node, the next one); the last token is a node, the label the node
`order` steps on. Neighbours differ by trained steps modulo 5 in training, by the others in the
exam's held-out group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from compfast.config import EvaluationConfig, TaskSection
from compfast.config.section import at_most, positive, require, require_together
from compfast.streams import philox
from compfast.tasks.base import Int32, Settings, Task
from compfast.tasks.scoring import AnswerExam
from compfast.tasks.words import check_words, words_of

Int64 = NDArray[np.int64]

# What csrc/tasks/chain_search.h has room for.
_MOST_ITEMS, _MOST_NODES, _MOST_MODULUS = 4096, 256, 64
_HEAD_WORDS = 3  # of a sequence: its order, the chain that is asked of, the node
_SEEN, _UNSEEN = 0, 1  # splits of the exam: the `sub` of its streams


@dataclass(frozen=True, slots=True)
class ChainSearchConfig(TaskSection):
    """The released code's variants; sizes marked "ours" are not known from it."""

    name: str = "chain_search"
    seq_len: int = 13  # T; ours: two chains of three links
    chains: int = 2  # 2 of (T - 1) / 4 links each, or 1 of (T - 1) / 2
    order: int = 2  # steps from the question to the label; ours
    named: bool = False  # the token before the question says the order, any of 1..order
    question: Literal["any", "end"] = "any"  # any node with an answer; the one that ends the chain
    wrong_links: bool = False  # one more pair a chain: a wrong node, and a node of the chain
    item_low: int = 20  # smallest item, inclusive; ours: that of the anchor task
    item_high: int = 100  # largest item, exclusive; likewise
    modulus: int = 5  # of the steps
    steps: tuple[int, ...] = (0, 1, 4)  # from node to node, trained; the others are held out

    @property
    def pairs(self) -> int:
        """Of a sequence."""
        return (self.seq_len - 1 - self.named) // 2

    @property
    def links(self) -> int:
        """Of a chain."""
        return self.pairs // self.chains - self.wrong_links

    @property
    def nodes(self) -> int:
        """Of a sequence: distinct items."""
        return self.chains * (self.links + 1 + self.wrong_links)

    @property
    def held_out(self) -> tuple[int, ...]:
        return tuple(step for step in range(self.modulus) if step not in self.steps)

    def _check(self) -> None:
        positive("task", self, "order", "seq_len")
        at_most("task", self, seq_len=2**16, item_high=2**20, modulus=_MOST_MODULUS)
        require(self.chains in (1, 2), f"task.chains is {self.chains}; it must be 1 or 2")
        require(self.modulus >= 2, f"task.modulus is {self.modulus}; it must be at least 2")
        least, each = 1 + self.named, 2 * self.chains
        require_together(
            (self.seq_len - least) % each == 0 and self.links >= 1,
            f"task.seq_len is {self.seq_len}; with these chains it must be {least} + {each} x n,"
            f" n at least {1 + self.wrong_links}",
        )
        require_together(
            self.order <= self.links,
            f"task.order is {self.order}; a chain has {self.links} links",
        )
        listed = list(self.steps)
        require_together(
            listed == sorted(set(listed) & set(range(self.modulus)))
            and 0 < len(listed) < self.modulus,
            f"task.steps is {listed}; it must be different numbers of 0..{self.modulus - 1} in"
            " rising order, at least one and not all",
        )
        items = self.item_high - self.item_low
        require_together(
            self.item_low > 0 and (not self.named or self.order < self.item_low),
            f"task.item_low is {self.item_low}; it must be above 0 and, where it is named, the"
            " order's token",
        )
        require_together(
            self.nodes <= min(items // self.modulus, _MOST_NODES) and items <= _MOST_ITEMS,
            f"task.item_low {self.item_low} and item_high {self.item_high}: {self.nodes} distinct"
            f" nodes need {self.nodes * self.modulus} to {_MOST_ITEMS} items, and there may be"
            f" {_MOST_NODES} nodes",
        )

    def describe(self, varied: frozenset[str]) -> str:
        """E.g. "chain_search, 2 chains of 3 links, 2 steps on"."""
        said = [self.name]
        if not {"chains", "seq_len", "named", "wrong_links"} & varied:
            several = "s" if self.chains > 1 else ""
            said.append(f"{self.chains} chain{several} of {self.links} links")
        if "order" not in varied:
            said.append(f"{'1 to ' if self.named else ''}{self.order} steps on")
        if "question" not in varied and self.question == "end":
            said.append("to the end")
        if "wrong_links" not in varied and self.wrong_links:
            said.append("with wrong links")
        return ", ".join(said)


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Sequences and what they are made of."""

    tokens: Int32  # [B, T]
    nodes: Int32  # [B, chains, links + 1], in their order
    wrong: Int32  # [B, chains] or [B, 0]
    chain: Int64  # [B] asked of
    at: Int64  # [B] place of the asked node in it
    order: Int64  # [B]

    def reached(self, place: Int64) -> Int32:
        """The node at a place of the asked chain, [B]."""
        return self.nodes[np.arange(len(self.nodes)), self.chain, place]

    @property
    def label(self) -> Int32:
        return self.reached(self.at + self.order)


class ChainSearchTask(Task[ChainSearchConfig]):
    """`batch` and the exam draw `Drawn` from the words of csrc/tasks/chain_search.h."""

    Config = ChainSearchConfig
    candidates = ("search", "neighbour", "end", "nearest")
    presets: ClassVar[Mapping[str, Settings]] = {
        # Ours, tried by hand, for minutes on a CPU: shorter chains of fewer items.
        "chain_search": {
            "task": {"seq_len": 9, "item_high": 60},
            "model": {"layers": 3, "d_model": 48, "heads": 2},
            "optimizer": {"lr": 2e-3, "weight_decay": 0.1},
            "training": {"steps": 6000, "batch_size": 128, "eval_every": 500},
        },
    }

    def __init__(self, config: ChainSearchConfig) -> None:
        self.config, self.length, self.vocabulary = config, config.seq_len, config.item_high
        words = 2 * config.nodes + config.chains * config.wrong_links + config.pairs - 1
        self._needed = _HEAD_WORDS + words

    def batch(self, seed: int, step: int, size: int) -> tuple[Int32, Int32]:
        drawn = self.drawn(seed, philox.TRAIN, step, 0, size, self.config.steps)
        return drawn.tokens, drawn.label

    def check_batch(self, size: int) -> None:
        check_words(size, self._needed)

    def stream(self) -> dict[str, Any]:
        c = self.config
        return {
            "kind": "chain_search",
            "steps": np.array(c.steps, np.int32),
            "chains": c.chains,
            "links": c.links,
            "order": c.order,
            "named": int(c.named),
            "to_end": int(c.question == "end"),
            "wrong_links": int(c.wrong_links),
            "item_low": c.item_low,
            "item_count": c.item_high - c.item_low,
            "modulus": c.modulus,
        }

    def exam(self, evaluation: EvaluationConfig) -> AnswerExam:
        """Seen: fresh sequences of trained steps. Held out: those of the other steps.

        `neighbour` is one step on from the question, `end` the last node of its chain, `nearest`
        the item right before the question; -1 where that is the right answer, and no candidate
        where it always is. Any other answer is counted by its part in the sequence: which node of
        the asked chain counted from the question, of the other chain, or a wrong node.
        """
        seed, count = evaluation.eval_seed, evaluation.unseen_items
        steps, held_out = self.config.steps, self.config.held_out
        seen = self.drawn(seed, philox.EVAL, 0, _SEEN, evaluation.seen_items, steps)
        unseen = self.drawn(seed, philox.EVAL, 0, _UNSEEN, count, held_out)
        last = np.full(count, self.config.links)
        others = {
            "neighbour": unseen.reached(unseen.at + 1),
            "end": unseen.reached(last),
            "nearest": unseen.tokens[:, -2 - self.config.named],
        }
        right = unseen.label
        shown = {name: np.where(said == right, -1, said) for name, said in others.items()}
        return AnswerExam(
            np.concatenate([seen.tokens, unseen.tokens]),
            slice(0, len(seen.tokens)),
            slice(len(seen.tokens), len(seen.tokens) + count),
            seen.label,
            {"search": right, **{n: said for n, said in shown.items() if (said >= 0).any()}},
            _parts(unseen),
        )

    def drawn(
        self, seed: int, purpose: int, step: int, sub: int, count: int, steps: tuple[int, ...]
    ) -> Drawn:
        """Sequences whose neighbours differ by any of `steps`.

        Words of a sequence: order, chain, asked node; of each node a remainder (later in a chain a
        step) and an item; of each wrong link the node it leads to, a step and an item; then the
        order of the pairs.
        """
        c = self.config
        words = iter(words_of(seed, purpose, step, sub, count, self._needed).T)
        order = 1 + philox.integers(next(words), c.order)
        if not c.named:
            order[:] = c.order
        chain = philox.integers(next(words), c.chains)
        start = philox.integers(next(words), c.links + 1 - order)
        items = _Items(count, c.item_high - c.item_low, c.modulus)
        nodes = np.zeros((count, c.chains, c.links + 1), np.int64)
        for node in np.ndindex(nodes.shape[1:]):
            own, place = node
            word = next(words)
            rest = philox.integers(word, c.modulus)
            if place > 0:
                rest = nodes[:, own, place - 1] + _any(steps, word)
            nodes[:, own, place] = items.take(rest, next(words))
        wrong, into = np.zeros((2, count, c.chains * c.wrong_links), np.int64)
        for i in range(wrong.shape[1]):
            into[:, i] = nodes[np.arange(count), i, 1 + philox.integers(next(words), c.links)]
            rest = into[:, i] - _any(steps, next(words))
            wrong[:, i] = items.take(rest, next(words))
        heads = np.concatenate([nodes[:, :, :-1].reshape(count, -1), wrong], axis=1)
        ends = np.concatenate([nodes[:, :, 1:].reshape(count, -1), into], axis=1)
        pairs = np.stack([heads, ends], axis=-1)  # [B, pairs, 2]
        _shuffle(pairs, words)
        at = c.links - order if c.question == "end" else start
        asked = c.item_low + nodes[np.arange(count), chain, at]
        said = [order[:, None]] if c.named else []
        tokens = [c.item_low + pairs.reshape(count, -1), *said, asked[:, None]]
        return Drawn(
            np.concatenate(tokens, axis=1).astype(np.int32),
            (c.item_low + nodes).astype(np.int32),
            (c.item_low + wrong).astype(np.int32),
            *(chain, at, order),
        )


class _Items:
    """Items 0..count-1 of each of B sequences, each taken at most once.

    Those of one remainder are in rising order at first; the one that is taken changes places with
    the first of those that are left.
    """

    def __init__(self, sequences: int, count: int, modulus: int) -> None:
        self._items = np.tile(np.arange(count), (sequences, 1))
        self._taken = np.zeros((sequences, modulus), np.int64)  # of each remainder

    def take(self, remainder: Int64, word: philox.UInt32) -> Int64:
        """One of this remainder (modulo the modulus) that is left, [B]."""
        sequences, count = self._items.shape
        modulus = self._taken.shape[1]
        row, rest = np.arange(sequences), remainder % modulus
        taken = self._taken[row, rest]
        left = -(-(count - rest) // modulus) - taken
        first = rest + modulus * taken
        chosen = first + modulus * philox.integers(word, left)
        self._taken[row, rest] += 1
        item: Int64 = self._items[row, chosen]
        self._items[row, chosen], self._items[row, first] = self._items[row, first], item
        return item


def _any(steps: tuple[int, ...], word: philox.UInt32) -> Int64:
    found: Int64 = np.array(steps)[philox.integers(word, len(steps))]
    return found


def _shuffle(pairs: Int64, words: Iterator[philox.UInt32]) -> None:
    """Fisher-Yates from the last pair on, in place, [B, pairs, 2]."""
    row = np.arange(len(pairs))
    for last in range(pairs.shape[1] - 1, 0, -1):
        other = philox.integers(next(words), last + 1)
        moved = pairs[row, other]
        pairs[row, other] = pairs[:, last]
        pairs[:, last] = moved


def _parts(drawn: Drawn) -> Int32:
    """The parts that an item of a sequence may have, a column each, -1 where there is none: nodes
    of the asked chain from `links` before the question to `links` after it, those of the other
    chain, wrong nodes.
    """
    count, chains, nodes = drawn.nodes.shape
    row = np.arange(count)
    place = drawn.at[:, None] + np.arange(1 - nodes, nodes)
    there = (place >= 0) & (place < nodes)
    asked = drawn.nodes[row[:, None], drawn.chain[:, None], place.clip(0, nodes - 1)]
    parts = [np.where(there, asked, -1)]
    if chains > 1:
        parts.append(drawn.nodes[row, 1 - drawn.chain])
    if drawn.wrong.size:
        own = (drawn.chain[:, None] + np.arange(chains)) % chains
        parts.append(np.take_along_axis(drawn.wrong, own, axis=1))
    return np.concatenate(parts, axis=1).astype(np.int32)
