"""Docstrings are plain text with `code` in single backticks: what reStructuredText reads into the
rest of it (stars, bars, names that end in an underscore) is escaped, and what is indented in it is
shown as it stands. Fields of a class are told from the comments beside them."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from fields import commented
from sphinx.application import Sphinx

_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_LONG = 1000  # characters of a signature


def escaped(line: str) -> str:
    """Outside of backticks no character means anything."""
    parts = _CODE.split(line)  # code is every other one
    return "".join(
        f"`{part}`" if at % 2 else re.sub(r"([*|_\\])", r"\\\1", part)
        for at, part in enumerate(parts)
    )


def rewritten(lines: list[str]) -> list[str]:
    found: list[str] = []
    shown = False  # inside a block that stands as it is
    for at, line in enumerate(lines):
        doctest = line.startswith(">>>")
        if not shown and (doctest or line.startswith("    ")):
            if not doctest:
                found += ["", "::", ""]
            shown = True
        elif shown and line.strip() and not line.startswith(("    ", ">>>", "...")):
            shown = lines[at - 1].strip() != ""  # what an example gives, up to an empty line
        found.append(line if shown else escaped(line))
    return found


def process(_: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    # A code span that a line break cuts in two is one span.
    text = "\n".join(lines)
    text = (
        _CODE.sub(lambda span: f"`{' '.join(span[1].split())}`", text)
        if ">>>" not in text
        else text
    )
    lines[:] = rewritten(text.split("\n"))
    if what == "class" and (dataclasses.is_dataclass(obj) or hasattr(obj, "_fields")):
        lines += ["", *(f":param {name}: {escaped(said)}" for name, said in said_of(obj)), ""]


def said_of(kind: type) -> list[tuple[str, str]]:
    """Fields that have a comment."""
    return [(name, said) for name, said in commented(kind).items() if said]


def signature(
    _: Sphinx, what: str, name: str, obj: Any, options: Any, args: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """Of a class whose defaults are whole sections: its fields' names."""
    if what != "class" or not dataclasses.is_dataclass(obj) or len(args or "") < _LONG:
        return None
    return f"({', '.join(f'{field.name}=...' for field in dataclasses.fields(obj))})", None


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-process-signature", signature)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
