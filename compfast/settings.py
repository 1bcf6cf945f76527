"""From plain data (a TOML file, flags, JSON) to a `Config`, strictly.

Plain settings are nested dictionaries: {"model": {"layers": 3}, "sweep": {"init.gamma": [...]}}.
Overlays are merged with `apply` (preset < file < flags) and checked once, by `from_dict`.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from compfast import config as cfg
from compfast.config import Axis, Config
from compfast.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SECTIONS: dict[str, type] = {
    "task": cfg.TaskConfig,
    "model": cfg.ModelConfig,
    "init": cfg.InitConfig,
    "optimizer": cfg.OptimizerConfig,
    "training": cfg.TrainingConfig,
    "evaluation": cfg.EvaluationConfig,
    "run": cfg.RunConfig,
}
Settings = dict[str, Any]

_MOST_BITS = 1023  # of a whole number: float() takes it and it can be printed

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    bool: "true or false",
    type(None): "none",
}
_HINTS: dict[str, dict[str, Any]] = {
    section: typing.get_type_hints(kind) for section, kind in SECTIONS.items()
}


def from_dict(data: Mapping[str, Any]) -> Config:
    """The `Config` that `data` describes; what is not given keeps its default.

    Keys: the sections of SECTIONS, and `sweep` (a mapping, or a list of pairs, from
    "section.field" or "seed" to a list of values; outermost axis first). Raises UsageError for
    an unknown key, a wrong type or a value that is not allowed.
    """
    arguments: dict[str, Any] = {}
    for section, value in data.items():
        if section == "sweep":
            arguments["sweep"] = _sweep(value)
        elif section in SECTIONS:
            arguments[section] = _section(section, value)
        else:
            raise UsageError(_unknown(f"[{section}]", section, (*SECTIONS, "sweep"), "sections"))
    return Config(**arguments)


def to_dict(config: Config) -> Settings:
    """Plain data (lists instead of tuples) that `from_dict` turns into an equal config."""
    data = {section: _plain(dataclasses.asdict(getattr(config, section))) for section in SECTIONS}
    return {**data, "sweep": {path: _plain(values) for path, values in config.sweep}}


def load_toml(path: str | Path) -> Settings:
    """The settings in a TOML file, still unchecked; raises UsageError if it cannot be read."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"the settings file {path} cannot be read: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the settings file {path} is not TOML: {error}") from error


def apply(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> Settings:
    """`base` with everything that `overlay` gives replaced; neither is changed.

    A single value in the overlay also removes the base's sweep over that field, and a sweep over
    a field replaces the base's sweep over it where it stands.
    """
    merged = {k: dict(v) if isinstance(v, Mapping) else v for k, v in base.items()}
    for section, values in overlay.items():
        if not isinstance(values, Mapping) or not isinstance(merged.get(section, {}), Mapping):
            merged[section] = values
            continue
        merged[section] = {**merged.get(section, {}), **values}
        if section != "sweep" and isinstance(merged.get("sweep"), Mapping):
            axes = overlay.get("sweep", {})
            for name in values:
                if f"{section}.{name}" not in axes:
                    merged["sweep"].pop(f"{section}.{name}", None)
    return merged


def parse_set(text: str) -> tuple[str, str, Any]:
    """(section, field, value) of "section.field=VALUE".

    VALUE is written as in TOML (3, 0.1, true, "word", [1, 2]); a bare word is a string.
    """
    key, equals, value = text.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and dot and section and name and value.strip()):
        raise UsageError(f"--set got {text!r}; it must be section.field=VALUE, e.g. model.layers=3")
    field_hint(f"{section}.{name}")
    return section, name, parse_value(value.strip())


def parse_value(text: str) -> Any:
    """A TOML value; text that is none is taken as a string."""
    if "\n" in text:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # ValueError: also a number of too many digits
        return text


def field_hint(path: str) -> Any:
    """The type of "section.field"; raises UsageError naming near matches if there is none."""
    section, _, name = path.partition(".")
    if section not in SECTIONS:
        raise UsageError(_unknown(path, section, SECTIONS, "sections"))
    if name not in _HINTS[section]:
        raise UsageError(_unknown(path, name, _HINTS[section], f"fields of [{section}]"))
    return _HINTS[section][name]


def convert(path: str, value: Any, name: str | None = None) -> Any:
    """`value` as the type of field `path`: lists become tuples, int serves for float.

    The word "none" stands for None where the field may be None (TOML has no null). `name` is what
    an error's sentence calls the field (a flag), `path` if it is not given.
    """
    return _convert(name or path, value, field_hint(path))


def is_list_field(path: str) -> bool:
    """Whether one value of the field is itself a list (task.anchors, run.snapshots, ...)."""
    return typing.get_origin(field_hint(path)) is tuple


def _section(section: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise UsageError(f"[{section}] is {value!r}; it must be a table of fields")
    return SECTIONS[section](**{k: convert(f"{section}.{k}", v) for k, v in value.items()})


def _sweep(value: Any) -> tuple[Axis, ...]:
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, (list, tuple)) or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str)
        for pair in pairs
    ):
        raise UsageError(f'sweep is {value!r}; it must be a table of "section.field" = [values]')
    return tuple((path, _axis(path, values)) for path, values in pairs)


def _axis(path: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, (list, tuple)):
        raise UsageError(f"sweep.{path} is {values!r}; it must be a list of values")
    if path == "seed":
        return tuple(_convert("sweep.seed", value, int) for value in values)
    if path.partition(".")[0] == "run":
        raise UsageError(f"sweep.{path} is not allowed; [run] holds nothing that members differ in")
    return tuple(convert(path, value) for value in values)


def _convert(path: str, value: Any, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise UsageError(f"{path} is a number of more than {_MOST_BITS} bits")
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        return _convert(path, value, next(a for a in arguments if a is not type(None)))
    if origin is Literal:
        if value in arguments and type(value) is type(arguments[0]):
            return value
    elif origin is tuple:
        return _tuple(path, value, hint)
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise UsageError(f"{path} is {value!r}; it must be {_allowed(hint)}{_near(value, hint)}")


def _tuple(path: str, value: Any, hint: Any) -> tuple[Any, ...]:
    arguments = typing.get_args(hint)
    repeated = arguments[-1] is Ellipsis
    if not isinstance(value, (list, tuple)) or not (repeated or len(value) == len(arguments)):
        raise UsageError(f"{path} is {value!r}; it must be {_allowed(hint)}")
    hints = [arguments[0]] * len(value) if repeated else arguments
    return tuple(_convert(path, v, h) for v, h in zip(value, hints, strict=True))


def _allowed(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        inner = _allowed(arguments[0]).split(" ", 1)[1]
        return "a list whose every entry is a " + inner
    if origin is tuple:
        return f"a list of {len(arguments)} entries, each {_allowed(arguments[0])}"
    return _WORDS[hint]


def _near(value: Any, hint: Any) -> str:
    if typing.get_origin(hint) is not Literal or not isinstance(value, str):
        return ""
    return _suggestion(value, typing.get_args(hint))


def _suggestion(given: str, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(given, list(known), n=1)
    return f" (did you mean {match[0]}?)" if match else ""


def _unknown(shown: str, given: str, known: Iterable[str], what: str) -> str:
    known = list(known)
    return f"{shown} is not known{_suggestion(given, known)}; the {what} are {', '.join(known)}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
