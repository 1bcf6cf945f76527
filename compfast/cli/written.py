"""Values as people write them on a command line: 1e-3, .001, 1., False, [1, 2], 1,2, 2-6, LO:HI:N.

What a text means depends on the field that it is for: "1,2" is one value of task.anchors and two
of model.layers.
"""

from __future__ import annotations

import ast
from typing import Any

from compfast.config import Kinds, field_hint, settings, values
from compfast.ensembles.grid import number, parse_values
from compfast.errors import UsageError

_QUOTES = "\"'"


def parse_set(text: str, kinds: Kinds) -> tuple[str, Any, bool]:
    """(path, value, many) of "section.field=VALUE"; `many`: the value is a list to sweep over.

    `kinds` say which fields [task] and [model] have.
    """
    path, written = set_parts(text)
    value, many = read(path, written, kinds)
    return path, value, many


def set_parts(text: str) -> tuple[str, str]:
    """(path, text of the value) of "section.field=VALUE"; raises UsageError for another form."""
    path, equals, written = text.partition("=")
    section, dot, name = path.strip().partition(".")
    if not (equals and dot and section and name and written.strip()):
        raise UsageError(f"--set got {text!r}; it must be section.field=VALUE, e.g. model.layers=3")
    return path.strip(), written


def read(path: str, text: str, kinds: Kinds, name: str | None = None) -> tuple[Any, bool]:
    """(value, many): what `text` says for a field; text that is no such value comes back as it is.

    `many` tells a list of values to sweep over, in one of the forms X,Y,Z, [X, Y, Z], A-B (whole
    numbers), LO:HI:N and log:LO:HI:N, from one value. Raises UsageError for a field that there is
    not, and for a range that is none, calling it `name`.
    """
    hint, text = values.inner(field_hint(path, kinds)), text.strip()
    if settings.is_list_field(path, kinds):
        return _list(path, text, kinds)
    bracketed = text.startswith("[") and text.endswith("]")
    parts = text[1:-1].removesuffix(",") if bracketed else text
    if hint in (int, float) and not bracketed and (":" in text or _is_span(text, hint)):
        return list(parse_values(name or path, text, hint)), True
    found = [_scalar(part.strip(), hint) for part in parts.split(",")]
    many = bracketed or len(found) > 1
    return found if many else found[0], many


def _scalar(text: str, hint: Any) -> Any:
    if hint in (int, float):
        return number(text, hint)
    if hint is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in _QUOTES
    return text[1:-1] if quoted else text


def _list(path: str, text: str, kinds: Kinds) -> tuple[Any, bool]:
    """One value of a list field, or several of them: one level of brackets more."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text, False
    if not isinstance(value, (list, tuple)):
        return value, False
    listed = list(value)
    try:
        settings.convert(path, listed, kinds)
    except UsageError:
        try:
            return [list(settings.convert(path, entry, kinds)) for entry in listed], True
        except UsageError:
            return listed, False
    return listed, False


def _is_span(text: str, hint: Any) -> bool:
    low, dash, high = text.partition("-")
    return hint is int and bool(dash) and low.strip().isdecimal() and high.strip().isdecimal()
