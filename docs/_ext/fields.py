"""What the fields of a section are: their names, defaults, and the comments in its source."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import io
import re
import textwrap
import tokenize
import typing
from typing import Any, NamedTuple

from compfast.config.section import Section, hints

# What comments call their sources (compfast/config/sections.py says so).
SOURCES = {
    "Z24": "2405.05409",
    "Z25": "2501.08537",
    "M24": "2406.03072",
    "S24": "2406.05816",
}


class Field(NamedTuple):
    name: str
    default: str
    meaning: str  # markdown


def loaded(path: str) -> type[Section]:
    """The class at "package.module:Class"."""
    module, _, name = path.partition(":")
    found: type[Section] = getattr(importlib.import_module(module), name)
    return found


def described(section: type[Section]) -> list[Field]:
    """Every field but the private ones, in order."""
    comments: dict[str, str] = {}
    for kind in reversed(section.__mro__):
        if issubclass(kind, Section):
            comments |= {name: said for name, said in commented(kind).items() if said}
    kinds = hints(section)
    found = []
    for field in dataclasses.fields(section):  # type: ignore[arg-type]
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        said = [options(kinds[field.name]), linked(comments.get(field.name, ""))]
        found.append(Field(field.name, shown(default), "; ".join(part for part in said if part)))
    return found


def commented(kind: type) -> dict[str, str]:
    """Field -> the comment lines just above it and the one behind it, in a class's own source."""
    source = textwrap.dedent(inspect.getsource(kind))
    comments = {
        token.start[0]: (token.string.lstrip("# "), token.line.lstrip().startswith("#"))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (body,) = ast.parse(source).body
    found = {}
    for node in body.body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above = node.lineno - 1
            while comments.get(above, ("", False))[1]:
                above -= 1
            lines = range(above + 1, (node.end_lineno or node.lineno) + 1)
            found[node.target.id] = " ".join(
                comments[line][0] for line in lines if line in comments
            )
    return found


def options(hint: Any) -> str:
    """The words that a field of words takes."""
    inside = [hint, *typing.get_args(hint)]
    words = [
        word
        for each in inside
        if typing.get_origin(each) is typing.Literal
        for word in typing.get_args(each)
    ]
    return ", ".join(f"`{word}`" for word in words)


def shown(default: Any) -> str:
    if isinstance(default, tuple):
        return "[" + ", ".join(map(shown, default)) + "]"
    return str(default).lower() if isinstance(default, bool) or default is None else str(default)


def linked(comment: str) -> str:
    """Its sources as links; what markdown would read otherwise is escaped."""
    text = re.sub(r"([*_<>`])", r"\\\1", comment)
    for name, number in SOURCES.items():
        text = text.replace(f"[{name}", f"[[{name}](https://arxiv.org/abs/{number})")
    return text
