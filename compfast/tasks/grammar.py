"""Finite grammars with meanings: which commands there are, and what each one means.

A production reads "<S> after <S> -> <2> <1>": left of the arrow words and symbols; right of it
actions, the meanings of those symbols by their place among them, and groups with how often they
come, "(<2> I_TURN_LEFT) * 4" or "<1> * 2". A grammar is a table of a start symbol and, of each
symbol, its productions. Everything that makes it no finite grammar is refused before a single
phrase is made; that a command has one derivation alone, when they are (phrases.py).
"""

from __future__ import annotations

import functools
import graphlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from compfast.errors import UsageError

MOST_COMMANDS = 10**6
MOST_TOKENS = 2**24  # words and actions of all phrases of all symbols, each counted as the longest
_MOST_TIMES = 1000  # that a group comes
_MOST_DEPTH = 20  # groups in groups
_FULL = 2**62  # where counting ends

_SYMBOL = re.compile(r"<([^<>\s]+)>")
_TIMES = re.compile(r"[1-9][0-9]{0,8}")
_PIECE = re.compile(r"\s*(?:(<[0-9]{1,9}>)|([()*])|([^\s()*<>]+))")

Item: TypeAlias = "str | int | Group"  # an action; a child, from 0; a group


@dataclass(frozen=True, slots=True)
class Group:
    items: tuple[Item, ...]
    times: int


@dataclass(frozen=True, slots=True)
class Production:
    form: tuple[str | int, ...]  # a word, or a child, from 0
    children: tuple[str, ...]  # their symbols
    meaning: tuple[Item, ...]

    @property
    def unit(self) -> bool:
        """Whether it is one symbol and nothing else."""
        return self.form == (0,)


class Size(NamedTuple):
    """Phrases of a symbol, words of its longest one, and actions of the longest meaning."""

    phrases: int
    words: int
    actions: int


@dataclass(frozen=True, slots=True, eq=False)
class Grammar:
    """`order` has each symbol after those of its productions, the start last."""

    start: str
    rules: Mapping[str, tuple[Production, ...]]
    order: tuple[str, ...]
    sizes: Mapping[str, Size]

    @property
    def size(self) -> Size:
        return self.sizes[self.start]

    @property
    def words(self) -> tuple[str, ...]:
        """Every word, in the order of the rules."""
        forms = (part for _, made in self._productions() for part in made.form)
        return tuple(dict.fromkeys(part for part in forms if isinstance(part, str)))

    @property
    def actions(self) -> tuple[str, ...]:
        """Every action, in the order of the rules."""
        named = (name for _, made in self._productions() for name in _actions(made.meaning))
        return tuple(dict.fromkeys(named))

    def _productions(self) -> Iterator[tuple[str, Production]]:
        return ((symbol, made) for symbol, rule in self.rules.items() for made in rule)


def canonical(where: str, given: Any) -> str:
    """The grammar in this table {"start": .., "rules": {..}} as one line of JSON, with its digest.

    Raises UsageError for a table that is none; `where` is what its sentence calls it.
    """
    _check_table(where, given)
    rules = {symbol: list(texts) for symbol, texts in given["rules"].items()}
    plain = {"start": given["start"], "rules": rules}
    digest = hashlib.sha256(_line(plain).encode()).hexdigest()
    if given.get("sha256", digest) != digest:
        raise UsageError(f"{where} has the digest {given['sha256']!r}, which is not that of it")
    line = _line({"sha256": digest, **plain})
    try:
        parse(line)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return line


@functools.lru_cache(maxsize=64)
def parse(line: str) -> Grammar:
    """The grammar that `canonical` wrote; raises UsageError where it is not finite or too large,
    and for symbols unknown or unused.
    """
    given = json.loads(line)
    rules = {
        symbol: tuple(_production(symbol, text) for text in texts)
        for symbol, texts in given["rules"].items()
    }
    order = _order(given["start"], rules)
    sizes: dict[str, Size] = {}
    for symbol in order:
        sizes[symbol] = _size(rules[symbol], sizes)
    count = sizes[given["start"]].phrases
    if count > MOST_COMMANDS:
        shown = f"{count:,}" if count < _FULL else "more than 10^18"
        raise UsageError(f"it has {shown} commands; at most {MOST_COMMANDS:,} are taken")
    tokens = sum(n * (words + actions + 2) for n, words, actions in sizes.values())
    if tokens > MOST_TOKENS:
        raise UsageError(
            f"its phrases have up to {min(tokens, _FULL):,} words and actions; at most"
            f" {MOST_TOKENS:,} are taken"
        )
    return Grammar(given["start"], rules, order, sizes)


def _line(table: Mapping[str, Any]) -> str:
    return json.dumps(table, separators=(",", ":"))


def _check_table(where: str, given: Any) -> None:
    if not isinstance(given, Mapping):
        raise UsageError(f"{where} is {type(given).__name__}; it must be a table")
    odd = [name for name in given if name not in ("start", "rules", "sha256")]
    if odd or "start" not in given or "rules" not in given:
        what = f"has {odd[0]!r}" if odd else f"has {', '.join(given) or 'nothing'}"
        raise UsageError(f"{where} {what}; it must have start and [rules], and nothing else")
    rules = given["rules"]
    if not isinstance(given["start"], str):
        raise UsageError(f"{where}: start is {given['start']!r}; it must be a symbol")
    if not isinstance(rules, Mapping):
        raise UsageError(f"{where}: rules is {rules!r}; it must be a table of symbols")
    for symbol, texts in rules.items():
        if not _SYMBOL.fullmatch(f"<{symbol}>"):
            raise UsageError(f"{where}: {symbol!r} is no symbol; it must not have < > or spaces")
        listed = isinstance(texts, (list, tuple)) and texts
        if not listed or not all(isinstance(text, str) for text in texts):
            raise UsageError(
                f"{where}: rule {symbol} is {texts!r}; it must be a list of at least one"
                ' "phrase -> meaning"'
            )


def _production(symbol: str, text: str) -> Production:
    where = f"rule {symbol}, {text!r}"
    left, arrow, right = text.partition("->")
    if not arrow or "->" in right:
        raise UsageError(f'{where}, must have the form "phrase -> meaning"')
    form: list[str | int] = []
    children: list[str] = []
    for piece in left.split():
        found = _SYMBOL.fullmatch(piece)
        if found is None and ("<" in piece or ">" in piece):
            raise UsageError(f"{where}, has {piece!r}; a symbol is written <symbol>")
        form.append(piece if found is None else len(children))
        if found is not None:
            children.append(found[1])
    if not form:
        raise UsageError(f"{where}, has no word and no symbol before the arrow")
    return Production(tuple(form), tuple(children), _meaning(where, right, len(children)))


def _meaning(where: str, text: str, children: int) -> tuple[Item, ...]:
    open_: list[list[Item]] = [[]]  # the innermost group last
    pieces = _pieces(where, text)
    for piece in pieces:
        if piece == "(":
            open_.append([])
            if len(open_) > _MOST_DEPTH:
                raise UsageError(f"{where}, has more than {_MOST_DEPTH} groups in each other")
        elif piece == ")":
            if len(open_) == 1 or not open_[-1]:
                what = "closes a group that is not open" if len(open_) == 1 else "has an empty ()"
                raise UsageError(f"{where}, {what}")
            group = Group(tuple(open_.pop()), 1)
            open_[-1].append(group)
        elif piece == "*":
            times = next(pieces, "")
            if not open_[-1] or not _TIMES.fullmatch(times) or int(times) > _MOST_TIMES:
                raise UsageError(
                    f"{where}, has '* {times}'; an action, <number> or group comes before it and"
                    f" a number in 1..{_MOST_TIMES} after it"
                )
            last = open_[-1].pop()
            open_[-1].append(Group((last,), int(times)))
        elif piece.startswith("<"):
            place = int(piece[1:-1])
            if not 1 <= place <= children:
                raise UsageError(f"{where}, has {piece}; its phrase has {children} symbols")
            open_[-1].append(place - 1)
        else:
            open_[-1].append(piece)
    if len(open_) > 1:
        raise UsageError(f"{where}, opens a group that is not closed")
    return tuple(open_[0])


def _pieces(where: str, text: str) -> Iterator[str]:
    at, end = 0, len(text.rstrip())
    while at < end:
        found = _PIECE.match(text, at)
        if found is None:
            raise UsageError(
                f"{where}, has {text[at:].split()[0]!r} in its meaning; there are actions,"
                " <number>, groups in ( ) and * number"
            )
        yield found[found.lastindex or 0]
        at = found.end()


def _order(start: str, rules: Mapping[str, tuple[Production, ...]]) -> tuple[str, ...]:
    if start not in rules:
        raise UsageError(f"its start {start!r} has no rule; rules are {', '.join(rules) or 'none'}")
    below = {
        s: dict.fromkeys(c for made in rule for c in made.children) for s, rule in rules.items()
    }
    for symbol, children in below.items():
        for child in children:
            if child not in rules:
                raise UsageError(f"rule {symbol} has the symbol <{child}>, which has no rule")
    reached, left = {start}, [start]
    while left:
        new = [child for child in below[left.pop()] if child not in reached]
        reached.update(new)
        left += new
    for symbol in rules:
        if symbol not in reached:
            raise UsageError(f"rule {symbol} is not used: no command leads to it from {start}")
    try:
        return tuple(graphlib.TopologicalSorter(below).static_order())
    except graphlib.CycleError as error:
        circle = " -> ".join(f"<{symbol}>" for symbol in reversed(error.args[1]))
        raise UsageError(f"it has no end: {circle}") from None


def _size(rule: tuple[Production, ...], sizes: Mapping[str, Size]) -> Size:
    count = words = actions = 0
    for made in rule:
        own, long = 1, 0
        for part in made.form:
            child = sizes[made.children[part]] if isinstance(part, int) else Size(1, 1, 0)
            own, long = min(own * child.phrases, _FULL), min(long + child.words, _FULL)
        told = _length(made.meaning, [sizes[child].actions for child in made.children])
        count, words, actions = min(count + own, _FULL), max(words, long), max(actions, told)
    return Size(count, words, actions)


def _length(items: tuple[Item, ...], children: list[int]) -> int:
    total = 0
    for item in items:
        if isinstance(item, Group):
            total += item.times * _length(item.items, children)
        else:
            total += children[item] if isinstance(item, int) else 1
        total = min(total, _FULL)
    return total


def _actions(items: tuple[Item, ...]) -> Iterator[str]:
    for item in items:
        if isinstance(item, Group):
            yield from _actions(item.items)
        elif isinstance(item, str):
            yield item
