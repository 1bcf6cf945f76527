"""Every phrase of a finite grammar with its meaning, and meanings with some of them changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compfast.errors import UsageError
from compfast.tasks.base import Int32
from compfast.tasks.grammar import Grammar, Group, Item, Production

Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Sequences of ids, each of its own length."""

    values: Int32  # [N, W], -1 past the end of each
    lengths: Int64  # [N]

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: NDArray[Any]) -> Rows:
        return Rows(self.values[rows], self.lengths[rows])


def constant(ids: Sequence[int], count: int) -> Rows:
    """One sequence `count` times."""
    values = np.broadcast_to(np.array(ids, np.int32), (count, len(ids)))
    return Rows(values, np.full(count, len(ids)))


def joined(parts: Sequence[Rows], count: int) -> Rows:
    """Row by row one part after the other, of `count` rows each."""
    lengths = np.zeros(count, np.int64)
    for part in parts:
        lengths += part.lengths
    values = np.full((count, int(lengths.max(initial=0))), -1, np.int32)
    ends = np.zeros(count, np.int64)
    for part in parts:
        row, column = np.nonzero(np.arange(part.values.shape[1]) < part.lengths[:, None])
        values[row, ends[row] + column] = part.values[row, column]
        ends += part.lengths
    return Rows(values, lengths)


def stacked(blocks: Sequence[Rows]) -> Rows:
    """The rows of one block after those of the other."""
    width = max(block.values.shape[1] for block in blocks)
    padded = [
        np.pad(b.values, ((0, 0), (0, width - b.values.shape[1])), constant_values=-1)
        for b in blocks
    ]
    return Rows(np.concatenate(padded), np.concatenate([block.lengths for block in blocks]))


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The phrases of one production."""

    production: Production
    children: tuple[Int64, ...]  # of each child the row of its symbol, [rows]
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class Phrases:
    """Of one symbol: those of its productions in order, the last child's rows the fastest."""

    words: Rows
    meanings: Rows
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """Phrases of one symbol that mean something else."""

    rows: Bool  # [N]
    meaning: Int32


class Language:
    """Words and actions are indices of `words` and `actions`.

    Raises UsageError where a phrase has two derivations, whatever they mean.
    """

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.words, self.actions = grammar.words, grammar.actions
        self._word = {word: i for i, word in enumerate(self.words)}
        self._action = {action: i for i, action in enumerate(self.actions)}
        self.phrases: dict[str, Phrases] = {}
        for symbol in grammar.order:
            self.phrases[symbol] = self._made(symbol)
            self._check_unambiguous(symbol)

    @property
    def commands(self) -> Phrases:
        return self.phrases[self.grammar.start]

    def find(self, symbol: str, phrase: str) -> int | None:
        """The row of a phrase, its words apart by spaces; None where the symbol has none such."""
        try:
            ids = [self._word[word] for word in phrase.split()]
        except KeyError:
            return None
        words = self.phrases[symbol].words
        if len(ids) > words.values.shape[1]:
            return None
        same = (words.values[:, : len(ids)] == ids).all(axis=1) & (words.lengths == len(ids))
        return int(same.argmax()) if same.any() else None

    def text(self, symbol: str, row: int) -> str:
        words = self.phrases[symbol].words
        return " ".join(self.words[i] for i in words.values[row, : words.lengths[row]])

    def meaning(self, symbol: str, row: int) -> Int32:
        meanings = self.phrases[symbol].meanings
        return meanings.values[row, : meanings.lengths[row]]

    def answers(self, rows: Int64, changes: Mapping[str, Change] | None = None) -> Rows:
        """What the commands in these rows mean, where some phrases mean something else."""
        changes = changes or {}
        found: dict[str, Rows] = {}
        for symbol in self.grammar.order[:-1]:
            own = self.phrases[symbol]
            blocks = [self._meanings(b, found, np.arange(b.rows)) for b in own.blocks]
            found[symbol] = _changed(stacked(blocks), changes.get(symbol), slice(None))
        ends = np.cumsum([0, *(block.rows for block in self.commands.blocks)])
        block_of = np.searchsorted(ends, rows, side="right") - 1
        picked = [np.flatnonzero(block_of == i) for i in range(len(ends) - 1)]
        parts = [
            self._meanings(block, found, rows[place] - first)
            for block, place, first in zip(self.commands.blocks, picked, ends, strict=False)
        ]
        back = np.argsort(np.concatenate(picked), kind="stable")
        return _changed(stacked(parts).take(back), changes.get(self.grammar.start), rows)

    def _made(self, symbol: str) -> Phrases:
        words, meanings, blocks = [], [], []
        known = {name: phrases.meanings for name, phrases in self.phrases.items()}
        for production in self.grammar.rules[symbol]:
            counts = [len(self.phrases[child].words) for child in production.children]
            rows = int(np.prod(counts, dtype=np.int64))
            children = tuple(np.unravel_index(np.arange(rows), counts)) if counts else ()
            block = Block(production, children, rows)
            taken = [
                self.phrases[child].words.take(row)
                for child, row in zip(production.children, children, strict=True)
            ]
            parts = [
                constant([self._word[part]], rows) if isinstance(part, str) else taken[part]
                for part in production.form
            ]
            words.append(joined(parts, rows))
            meanings.append(self._meanings(block, known, np.arange(rows)))
            blocks.append(block)
        return Phrases(stacked(words), stacked(meanings), tuple(blocks))

    def _meanings(self, block: Block, known: Mapping[str, Rows], rows: Int64) -> Rows:
        """Of these rows of a block, by the meanings of every child's symbol."""
        children = [
            known[child].take(row[rows])
            for child, row in zip(block.production.children, block.children, strict=True)
        ]
        return self._evaluated(block.production.meaning, children, len(rows))

    def _evaluated(self, items: tuple[Item, ...], children: list[Rows], count: int) -> Rows:
        parts: list[Rows] = []
        for item in items:
            if isinstance(item, Group):
                parts += [self._evaluated(item.items, children, count)] * item.times
            elif isinstance(item, str):
                parts.append(constant([self._action[item]], count))
            else:
                parts.append(children[item])
        return joined(parts, count)

    def _check_unambiguous(self, symbol: str) -> None:
        words = self.phrases[symbol].words.values
        _, first, count = np.unique(words, axis=0, return_index=True, return_counts=True)
        if (count > 1).any():
            phrase = self.text(symbol, int(first[count > 1].min()))
            raise UsageError(
                f"task.grammar is ambiguous: {phrase!r} can be derived from <{symbol}> in two ways"
            )


def _changed(meanings: Rows, change: Change | None, rows: Int64 | slice) -> Rows:
    if change is None:
        return meanings
    chosen = np.flatnonzero(change.rows[rows])
    width = max(meanings.values.shape[1], len(change.meaning))
    values = np.full((len(meanings), width), -1, np.int32)
    values[:, : meanings.values.shape[1]] = meanings.values
    values[chosen] = -1
    values[chosen, : len(change.meaning)] = change.meaning
    lengths = meanings.lengths.copy()
    lengths[chosen] = len(change.meaning)
    return Rows(values, lengths)
