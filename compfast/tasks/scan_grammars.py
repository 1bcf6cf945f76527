"""The grammars that task scan brings, and the field that names one of them or holds another."""

from __future__ import annotations

import json
import sys
from typing import Any

from compfast.config.paths import user_path
from compfast.errors import UsageError
from compfast.tasks.grammar import Grammar, canonical, parse

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MOST_BYTES = 2**20  # of a file

_TURNS = ["left -> I_TURN_LEFT", "right -> I_TURN_RIGHT"]
_BUILT_IN: dict[str, dict[str, Any]] = {
    "scan": {  # Lake & Baroni 2018, arXiv 1711.00350: 20,910 commands
        "start": "C",
        "rules": {
            "C": ["<S> -> <1>", "<S> and <S> -> <1> <2>", "<S> after <S> -> <2> <1>"],
            "S": ["<V> -> <1>", "<V> twice -> <1> * 2", "<V> thrice -> <1> * 3"],
            "V": [
                "<U> -> <1>",
                "<U> <T> -> <2> <1>",
                "turn <T> -> <1>",
                "<U> opposite <T> -> <2> * 2 <1>",
                "turn opposite <T> -> <1> * 2",
                "<U> around <T> -> (<2> <1>) * 4",
                "turn around <T> -> <1> * 4",
            ],
            "U": ["walk -> I_WALK", "look -> I_LOOK", "run -> I_RUN", "jump -> I_JUMP"],
            "T": _TURNS,
        },
    },
    "small": {  # ours, of the same kind: 506 commands
        "start": "C",
        "rules": {
            "C": ["<S> -> <1>", "<S> and <S> -> <1> <2>"],
            "S": ["<V> -> <1>", "<V> twice -> <1> * 2"],
            "V": ["<U> -> <1>", "<U> <T> -> <2> <1>", "turn <T> -> <1>"],
            "U": ["walk -> I_WALK", "look -> I_LOOK", "jump -> I_JUMP"],
            "T": _TURNS,
        },
    },
}
# Actions of the longest trained answers of split "length", where the config does not say.
LONGEST = {"scan": 22, "small": 5}


def grammar_field(name: str, given: str) -> str:
    """What a grammar's field holds: a built-in name, or the grammar itself, as `canonical` writes
    it, so that a run does not need the file again.

    Raises UsageError for what is none of these, and for a file that holds no grammar.
    """
    if given in _BUILT_IN:
        return given
    if given.lstrip().startswith("{"):
        try:
            return canonical(name, json.loads(given))
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{name} is not JSON: {error}") from None
    if not given.endswith(".toml"):
        built_in = ", ".join(_BUILT_IN)
        raise UsageError(f"{name} is {given!r}; it must be one of {built_in}, or a .toml file")
    return canonical(f"the grammar file {given}", _file(given))


def grammar_of(field: str) -> Grammar:
    """The grammar that a field holds."""
    return parse(canonical("task.grammar", _BUILT_IN[field]) if field in _BUILT_IN else field)


def grammar_name(field: str) -> str:
    """What a caption says of it: its name, or the beginning of its digest."""
    return field if field in _BUILT_IN else f"grammar {json.loads(field)['sha256'][:8]}"


def _file(path: str) -> dict[str, Any]:
    try:
        with user_path(path).open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        reason = error.strerror
        raise UsageError(f"the grammar file {path} cannot be read: {reason}") from error
    if len(content) > _MOST_BYTES:
        raise UsageError(f"the grammar file {path} has more than {_MOST_BYTES:,} bytes")
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"the grammar file {path} cannot be read: not UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the grammar file {path} is not TOML: {error}") from error
