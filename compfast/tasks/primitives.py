"""A phrase that is held out: where it stands in commands, and what they mean without its modifiers
or with another phrase in its place.

A modifier is whatever stands between the phrase and the largest part of a command around it whose
other symbols are no commands of their own: of "jump around left twice and walk" that part is
"jump around left twice", since "left" is no command, and "walk" is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from compfast.errors import UsageError
from compfast.tasks.grammar import Production
from compfast.tasks.phrases import Bool, Change, Int64, Language, Rows


class Primitive:
    """`phrase` by the production that makes it of more than one symbol alone.

    Raises UsageError where it is no command of the language.
    """

    def __init__(self, language: Language, phrase: str) -> None:
        self.language = language
        symbol, row = language.grammar.start, language.find(language.grammar.start, phrase)
        if row is None:
            raise UsageError(f"task.held_out is {phrase!r}; it must be a command of task.grammar")
        self.command = row  # the phrase alone
        while (below := self._unit(symbol, row)) is not None:
            symbol, row = below
        self.kind, self.row = symbol, row
        self._contained = self._climb(lambda production, child: True)
        standing = self._standing()
        self._scope = self._climb(
            lambda production, child: (
                not any(
                    other in standing and place != child
                    for place, other in enumerate(production.children)
                )
            )
        )

    @property
    def commands(self) -> Bool:
        """Which commands have it in them, itself among them."""
        return self._contained[self.language.grammar.start]

    def bare(self, rows: Int64) -> Rows:
        """What commands mean where the phrase means the same whatever modifies it."""
        own = self.language.meaning(self.kind, self.row)
        changes = {symbol: Change(scope, own) for symbol, scope in self._scope.items()}
        return self.language.answers(rows, changes)

    def substituted(self, rows: Int64) -> list[Rows]:
        """What commands mean with another phrase of its kind in its place: all of as many words
        that differ in the fewest words. Commands with these are trained.
        """
        phrases, found = self.language.phrases[self.kind], []
        own = np.arange(len(phrases.words)) == self.row
        for other in self._nearest():
            change = Change(own, self.language.meaning(self.kind, other))
            found.append(self.language.answers(rows, {self.kind: change}))
        return found

    def _nearest(self) -> Sequence[int]:
        words = self.language.phrases[self.kind].words
        same = words.lengths == words.lengths[self.row]
        same[self.row] = False
        if not same.any():
            return []
        changed = (words.values != words.values[self.row]).sum(axis=1)
        near: Sequence[int] = np.flatnonzero(same & (changed == changed[same].min())).tolist()
        return near

    def _unit(self, symbol: str, row: int) -> tuple[str, int] | None:
        """The one symbol that a phrase is made of, and its row there."""
        for block in self.language.phrases[symbol].blocks:
            if row < block.rows:
                production = block.production
                child = int(block.children[0][row]) if production.unit else 0
                return (production.children[0], child) if production.unit else None
            row -= block.rows
        raise AssertionError("a row of no production")

    def _standing(self) -> set[str]:
        """Symbols whose phrases are commands by themselves."""
        grammar = self.language.grammar
        standing = {grammar.start}
        for symbol in reversed(grammar.order):
            if symbol in standing:
                units = (made for made in grammar.rules[symbol] if made.unit)
                standing.update(made.children[0] for made in units)
        return standing

    def _climb(self, through: Callable[[Production, int], bool]) -> dict[str, Bool]:
        """Of each symbol the phrases made of the primitive, through children for which this is
        so, and the primitive itself.
        """
        found: dict[str, Bool] = {}
        for symbol in self.language.grammar.order:
            parts = []
            for block in self.language.phrases[symbol].blocks:
                has = np.zeros(block.rows, np.bool_)
                for place, rows in enumerate(block.children):
                    if through(block.production, place):
                        has |= found[block.production.children[place]][rows]
                parts.append(has)
            found[symbol] = np.concatenate(parts)
            if symbol == self.kind:
                found[symbol][self.row] = True
        return found
