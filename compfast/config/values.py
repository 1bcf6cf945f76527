"""A user's value -> the value that a field holds: what is unambiguous is converted, nothing else.

`plain` turns what NumPy and friends say into Python's own numbers and lists; msgspec then holds
the result against the field's type. msgspec, since it is strict as it stands (no True for 1, no
"3" for 3, where pydantic's lax mode takes both and its strict mode refuses a list for a tuple,
and cattrs cuts 3.5 to 3), costs 0.7 MB against 10, and imports in half of pydantic's time.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral, Real
from typing import Any, Literal

import msgspec

from compfast.errors import UsageError

_MOST_BITS = 1023  # of a whole number: float() takes it and it can be printed
_DEPTH = 8  # lists in lists; no field has more than two

_UNORDERED = object()  # in the place of a set: no list, since it has no order

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    bool: "true or false",
    type(None): "none",
}


def convert(name: str, value: Any, hint: Any) -> Any:
    """`value` as a `hint`; raises UsageError of one sentence, which calls the field `name`.

    Converted: integral floats and NumPy integers for a whole number, any real number for a float,
    NumPy's booleans, and lists, tuples, ranges, iterators and arrays for a tuple. Refused: truth
    values for numbers and numbers for truth values, text for numbers, sets (they have no order).
    Of a type Annotated with functions each is called with the name and the value, and says what
    the field holds (the content of a file that was named).
    """
    given = plain(value)
    if isinstance(given, int) and given.bit_length() > _MOST_BITS:
        raise UsageError(f"{name} is a number of more than {_MOST_BITS} bits")
    try:
        converted = msgspec.convert(given, hint)
    except (ValueError, OverflowError):  # msgspec.ValidationError; text that is no UTF-8
        sentence = f"{name} is {_shown(value)}; it must be {allowed(hint)}{_near(given, hint)}"
        raise UsageError(sentence) from None
    for held in getattr(hint, "__metadata__", ()):
        converted = held(name, converted)
    return converted


def plain(value: Any, depth: int = 0) -> Any:
    """Python's own numbers, text and lists; an integral float becomes the whole number it is."""
    if value is None or isinstance(value, bool) or depth > _DEPTH:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (set, frozenset)):
        return _UNORDERED
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return int(number) if number.is_integer() else number
    if isinstance(value, Mapping):
        return {key: plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple, range, Iterator)):
        return [plain(inner, depth + 1) for inner in value]
    for method in ("tolist", "to_list"):  # arrays, NumPy's booleans, tensors; data frames' columns
        if callable(getattr(value, method, None)):
            return plain(getattr(value, method)(), depth + 1)
    return value


def is_optional(hint: Any) -> bool:
    """Whether None is a value of the field."""
    return type(None) in typing.get_args(hint)


def inner(hint: Any) -> Any:
    """The hint of an optional field without its None, and of any without its functions."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = hint.__origin__
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return hint


def allowed(hint: Any) -> str:
    """In words, what a field of this type takes."""
    hint = inner(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return "a list whose every entry is a " + allowed(arguments[0]).split(" ", 1)[1]
    if origin is tuple:
        return f"a list of {len(arguments)} entries, each {allowed(arguments[0])}"
    return _WORDS[hint]


def suggestion(given: str, known: Iterable[str]) -> str:
    """ " (did you mean ...?)" where a known word is near, else nothing."""
    match = difflib.get_close_matches(given, list(known), n=1)
    return f" (did you mean {match[0]}?)" if match else ""


def unknown(shown: str, given: str, known: Iterable[str], what: str) -> str:
    """The sentence for a name that is none of the known ones."""
    known = list(known)
    return f"{shown} is not known{suggestion(given, known)}; the {what} are {', '.join(known)}"


def _near(value: Any, hint: Any) -> str:
    options = typing.get_args(inner(hint))
    if typing.get_origin(inner(hint)) is not Literal or not isinstance(value, str):
        return ""
    return suggestion(value, options)


def _shown(value: Any) -> str:
    """The value as it was given, in one line of bounded length."""
    try:
        text = " ".join(repr(value).split())
    except Exception as error:  # a user's own object: whatever its repr raises
        text = f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
    return text if len(text) <= 200 else f"{text[:200]}..."
