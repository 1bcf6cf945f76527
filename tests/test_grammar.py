"""Finite grammars: what makes one, what is refused, and that counting agrees with making."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compfast.errors import UsageError
from compfast.tasks import grammar as grammars
from compfast.tasks.grammar import canonical, parse
from compfast.tasks.phrases import Change, Language
from compfast.tasks.scan_grammars import grammar_field, grammar_of


def language(rules: dict[str, list[str]], start: str = "C") -> Language:
    return Language(parse(canonical("task.grammar", {"start": start, "rules": rules})))


def told(made: Language) -> dict[str, str]:
    """Command -> actions."""
    start, rows = made.grammar.start, range(len(made.commands.words))
    named = (" ".join(made.actions[i] for i in made.meaning(start, row)) for row in rows)
    return dict(zip((made.text(start, row) for row in rows), named, strict=True))


def test_meanings_are_actions_children_and_groups() -> None:
    rules = {
        "C": ["<A> then <B> -> <2> (<1> * 2 DONE) * 2", "stop ->", "<B> -> <1>"],
        "A": ["x -> X", "y y -> Y Y"],
        "B": ["z -> (Z * 2 (W) * 3)"],
    }
    made = language(rules)
    assert told(made) == {
        "x then z": "Z Z W W W X X DONE X X DONE",
        "y y then z": "Z Z W W W Y Y Y Y DONE Y Y Y Y DONE",
        "stop": "",
        "z": "Z Z W W W",
    }
    assert made.grammar.size == (4, 4, 15)
    assert made.words == ("then", "stop", "x", "y", "z")
    assert made.actions == ("DONE", "X", "Y", "Z", "W")


def test_meanings_with_a_phrase_changed() -> None:
    made = language({"C": ["<A> -> <1>", "<A> <A> -> <2> <1>"], "A": ["x -> X", "y -> Y Y"]})
    changes = {"A": Change(np.array([True, False]), np.array([1, 1, 0], np.int32))}
    rows = np.array([made.find("C", text) for text in ("y x", "x", "y", "x x", "x y")])
    found = made.answers(rows, changes)
    shown = [
        "".join(made.actions[i] for i in row[:length])
        for row, length in zip(found.values, found.lengths, strict=True)
    ]
    assert shown == ["YYXYY", "YYX", "YY", "YYXYYX", "YYYYX"]


@pytest.mark.edge(
    "a grammar without an end, with unknown, unused or malformed rules, or ambiguous",
    "one sentence that names the rule, or the phrase that has two derivations",
)
@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ({"C": ["a <C> -> A"]}, "it has no end: <C> -> <C>"),
        ({"C": ["<A> -> <1>"], "A": ["<B> -> <1>"], "B": ["<A> b -> <1>"]}, "it has no end: <"),
        ({"C": ["<A> -> <1>"]}, "rule C has the symbol <A>, which has no rule"),
        ({"C": ["a -> A"], "D": ["d -> D"]}, "rule D is not used: no command leads to it from C"),
        ({"D": ["d -> D"]}, "its start 'C' has no rule; rules are D"),
        ({}, "its start 'C' has no rule; rules are none"),
        ({"C": ["a -> A", "a -> A"]}, "ambiguous: 'a' can be derived from <C> in two ways"),
        (
            {"C": ["<A> <B> -> <1> <2>"], "A": ["a -> A", "a b -> B"], "B": ["b c -> B", "c -> C"]},
            "ambiguous: 'a b c' can be derived from <C> in two ways",
        ),
        ({"C": []}, r"rule C is \[\]; it must be a list of at least one"),
        ({"C": "a -> A"}, "rule C is 'a -> A'; it must be a list"),
        ({"C": [1]}, r"rule C is \[1\]; it must be a list"),
        ({"C": ["a"]}, "rule C, 'a', must have the form"),
        ({"C": ["a -> A -> B"]}, "must have the form"),
        ({"C": ["-> A"]}, "has no word and no symbol before the arrow"),
        ({"C": ["<A -> A"]}, "has '<A'; a symbol is written <symbol>"),
        ({"C": ["a -> <1>"]}, "has <1>; its phrase has 0 symbols"),
        ({"C": ["<A> -> <2>"], "A": ["a -> A"]}, "has <2>; its phrase has 1 symbols"),
        ({"C": ["<A> -> <0>"], "A": ["a -> A"]}, "has <0>; its phrase has 1 symbols"),
        ({"C": ["<A> -> <A>"], "A": ["a -> A"]}, "has '<A>' in its meaning"),
        ({"C": ["a -> (A"]}, "opens a group that is not closed"),
        ({"C": ["a -> A)"]}, "closes a group that is not open"),
        ({"C": ["a -> A ()"]}, r"has an empty \(\)"),
        ({"C": ["a -> * 2"]}, r"has '\* 2'; an action, <number> or group comes before it"),
        ({"C": ["a -> A * B"]}, r"has '\* B'"),
        ({"C": ["a -> A *"]}, r"has '\* '"),
        ({"C": ["a -> A * 0"]}, r"has '\* 0'; .* a number in 1\.\.1000 after it"),
        ({"C": ["a -> A * 1001"]}, r"has '\* 1001'"),
        ({"C": ["a -> A * 99999999999999999999"]}, r"has '\* 9"),
        ({"C": ["a -> " + "(" * 21 + "A" + ")" * 21]}, "has more than 20 groups in each other"),
        ({"C C": ["a -> A"]}, "'C C' is no symbol"),
    ],
)
def test_what_is_no_grammar(rules: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        language(rules)
    assert str(caught.value).startswith("task.grammar")
    assert "\n" not in str(caught.value)


def _doubling(depth: int, last: list[str]) -> dict[str, list[str]]:
    """Each symbol twice in the one before: 2^depth of the last one."""
    names = ["C", *(f"S{i}" for i in range(1, depth)), "L"]
    pairs = itertools.pairwise(names)
    return {**{a: [f"<{b}> <{b}> -> <1> <2>"] for a, b in pairs}, "L": last}


@pytest.mark.edge(
    "a grammar of more commands or tokens than memory holds",
    "counted before anything is made; one sentence with the number and the most",
)
@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        (_doubling(3, [f"w{i} -> A" for i in range(10)]), "it has 100,000,000 commands; at most"),
        (_doubling(200, ["a -> A", "b -> B"]), r"it has more than 10\^18 commands"),
        (_doubling(40, ["a -> A"]), "its phrases have up to .* words and actions; at most"),
        ({"C": ["a -> (((A * 1000) * 1000) * 1000) * 1000"]}, "1,000,000,000,003 words and act"),
    ],
)
def test_what_is_too_large(rules: dict[str, list[str]], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        canonical("task.grammar", {"start": "C", "rules": rules})


def test_a_long_chain_of_symbols_is_no_recursion() -> None:
    count = 3000
    rules = {f"S{i}": [f"<S{i + 1}> -> <1>"] for i in range(count)} | {f"S{count}": ["a -> A"]}
    assert parse(canonical("task.grammar", {"start": "S0", "rules": rules})).size == (1, 1, 1)


@pytest.mark.edge(
    "a grammar's file that is missing, no TOML, no table of a start and rules, or far too long",
    "one sentence that names the file",
)
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read: No such file"),
        (b"\xff", "cannot be read: not UTF-8 text"),
        (b"start = ", "is not TOML"),
        (b"[" * 5000, "is not TOML"),
        (b'start = "C"', "has start; it must have start and"),
        (b"", "has nothing; it must have start and"),
        (b'start = "C"\nstrat = 1\n[rules]\nC = ["a -> A"]', "has 'strat'; it must have start and"),
        (b'start = 1\n[rules]\nC = ["a -> A"]', "start is 1; it must be a symbol"),
        (b'start = "C"\nrules = 3', "rules is 3; it must be a table"),
        (b'start = "C"\n[rules]\nC = ["a"]', "rule C, 'a', must have the form"),
        (b'start = "C"\nsha256 = "0"\n[rules]\nC = ["a -> A"]', "has the digest '0', which is not"),
        (b"#" * (2**20 + 1), "has more than 1,048,576 bytes"),
    ],
)
def test_files_that_hold_no_grammar(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    file = tmp_path / "own.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=f"the grammar file {file}.*{sentence}"):
        grammar_field("task.grammar", str(file))


def test_the_field_holds_the_grammar_itself(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('# mine\nstart = "C"\n[rules]\nC = [\n  "<A>  ->  <1>",\n]\nA = ["a -> A"]\n')
    held = grammar_field("task.grammar", str(file))
    file.unlink()
    assert grammar_field("task.grammar", held) == held
    assert json.loads(held)["rules"] == {"C": ["<A>  ->  <1>"], "A": ["a -> A"]}
    assert len(json.loads(held)["sha256"]) == 64
    assert told(Language(grammar_of(held))) == {"a": "A"}
    with pytest.raises(UsageError, match="has the digest"):
        grammar_field("task.grammar", held.replace("a -> A", "a -> B"))
    for text, sentence in (
        ("{", "task.grammar is not JSON"),
        ("{" * 10**5, "task.grammar is not JSON"),
        ("scam", "it must be one of scan, small, or a .toml file"),
    ):
        with pytest.raises(UsageError, match=sentence):
            grammar_field("task.grammar", text)


@st.composite
def rules_of(draw: Any) -> dict[str, list[str]]:
    """Small grammars whose symbols lead to later ones alone; some of them are ambiguous."""
    count = draw(st.integers(1, 4))
    names = [f"S{i}" for i in range(count)]
    rules: dict[str, list[str]] = {}
    for i, name in enumerate(names):
        productions: list[str] = []
        for _ in range(draw(st.integers(1, 3))):
            parts = [*"abcd", *(f"<{later}>" for later in names[i + 1 :])]
            form = draw(st.lists(st.sampled_from(parts), min_size=1, max_size=3))
            if not productions and i + 1 < count:
                form.append(f"<{names[i + 1]}>")  # so that every rule is used
            children = sum(part.startswith("<") for part in form)
            items = ["X", "Y", "(X Y) * 2", *(f"<{k + 1}> * 2" for k in range(children))]
            meaning = draw(st.lists(st.sampled_from(items), max_size=3))
            productions.append(f"{' '.join(form)} -> {' '.join(meaning)}")
        rules[name] = productions
    return rules


def _by_hand(rules: dict[str, list[str]], symbol: str) -> list[tuple[str, int]]:
    """Every derivation of a symbol: its words, and how many actions they mean."""
    found = []
    for text in rules[symbol]:
        left, right = text.split("->")
        parts = [
            _by_hand(rules, part[1:-1]) if part.startswith("<") else [(part, 1)]
            for part in left.split()
        ]
        places = [i for i, part in enumerate(left.split()) if part.startswith("<")]
        for chosen in itertools.product(*parts):
            total = 2 * right.count("(") + right.replace("(X Y)", "").count("X")
            total += right.replace("(X Y)", "").count("Y") + 2 * right.count("(")
            for k, place in enumerate(places):
                total += 2 * right.count(f"<{k + 1}>") * chosen[place][1]
            found.append((" ".join(words for words, _ in chosen), total))
    return found


@settings(max_examples=60, deadline=None)
@given(rules_of())
def test_what_is_counted_is_what_is_made(rules: dict[str, list[str]]) -> None:
    derived = _by_hand(rules, "S0")
    grammar = parse(canonical("task.grammar", {"start": "S0", "rules": rules}))
    words, lengths = zip(*derived, strict=True)
    longest = max(len(text.split()) for text in words), max(lengths)
    assert grammar.size == (len(derived), *longest)
    if len(set(words)) < len(words):
        with pytest.raises(UsageError, match="ambiguous"):
            Language(grammar)
        return
    made = told(Language(grammar))
    assert {text: len(actions.split()) for text, actions in made.items()} == dict(derived)


def test_limits_are_those_of_the_documentation() -> None:
    page = (Path(__file__).parents[1] / "docs" / "scan.md").read_text()
    assert f"{grammars.MOST_COMMANDS:,}" in page
    assert f"{grammars.MOST_TOKENS:,}" in page
