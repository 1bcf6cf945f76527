"""From plain data (a TOML file, flags, JSON) to a `Config`, strictly.

Plain settings are nested dictionaries: {"model": {"layers": 3}, "sweep": {"init.gamma": [...]}}.
Overlays are merged with `apply` (preset < file < flags) and checked once, by `from_dict`.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compfast.config import (
    DEFAULT_FAMILY,
    DEFAULT_TASK,
    SECTIONS,
    SEEDS,
    Axis,
    Config,
    Kinds,
    StartConfig,
    axis,
    column,
    field_hint,
    sweep_pairs,
    values,
)
from compfast.config.paths import user_path
from compfast.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Settings = dict[str, Any]
AXES = ("sweep", "sample")  # the keys beside the sections: what members differ in


def from_dict(data: Mapping[str, Any]) -> Config:
    """The `Config` that `data` describes; what is not given keeps its default.

    Keys: the sections of SECTIONS, and `sweep` and `sample` (each a mapping, or a list of pairs,
    from "section.field" or "seed" to a list of values; of a sweep the outermost axis first).
    Raises UsageError for an unknown key, a wrong type or a value that is not allowed.
    """
    arguments: dict[str, Any] = {}
    kinds = kinds_of(data)
    for section, value in data.items():
        if section in AXES:
            pairs = sweep_pairs(value, section)
            arguments[section] = tuple(_axis(section, *pair, kinds) for pair in pairs)
        elif section in SECTIONS:
            arguments[section] = _section(section, value, kinds)
        else:
            raise UsageError(
                values.unknown(f"[{section}]", section, (*SECTIONS, *AXES), "sections")
            )
    return Config(**arguments)


def kinds_of(data: Mapping[str, Any]) -> Kinds:
    """The task and family that settings name; the default ones where they do not."""
    return Kinds(
        _named(data, "task", "name", DEFAULT_TASK), _named(data, "model", "family", DEFAULT_FAMILY)
    )


def _named(data: Mapping[str, Any], section: str, field: str, default: str) -> str:
    fields = data.get(section)
    name = fields.get(field, default) if isinstance(fields, Mapping) else default
    if not isinstance(name, str):
        raise UsageError(f"{section}.{field} is {name!r}; it must be a string")
    return name


def to_dict(config: Config) -> Settings:
    """Plain data (lists instead of tuples) that `from_dict` turns into an equal config.

    A config without a sample, or one that starts from no other run, has no key of it, as those
    that were written before there were any.
    """
    data = {section: _plain(dataclasses.asdict(getattr(config, section))) for section in SECTIONS}
    if config.start == StartConfig():
        del data["start"]
    data["sweep"] = {path: _plain(points) for path, points in config.sweep}
    if config.sample:
        data["sample"] = {path: _plain(points) for path, points in config.sample}
    return data


def load_toml(path: str | Path) -> Settings:
    """The settings in a TOML file, still unchecked; raises UsageError if it cannot be read.

    A byte-order mark is passed over, and `init.gamma = [...]` under [sweep] is "init.gamma".
    """
    try:
        data = tomllib.loads(user_path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"the settings file {path} cannot be read: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the settings file {path} is not TOML: {error}") from error
    for home in AXES:
        if isinstance(data.get(home), dict):
            pairs = list(sweep_pairs(data[home], home))
            data[home] = dict(pairs)
            if len(pairs) != len(data[home]):
                verb = "sweeps over" if home == "sweep" else "samples"
                raise UsageError(f"the settings file {path} {verb} a field twice")
    return data


def apply(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> Settings:
    """`base` with everything that `overlay` gives replaced; neither is changed.

    What the overlay says of a field, as one value, a sweep or a sample's column, also removes
    what the base's sweep and sample say of it; a sweep over a field replaces the base's sweep
    over it where it stands.
    """
    merged = {k: dict(v) if isinstance(v, Mapping) else v for k, v in base.items()}
    for section, fields in overlay.items():
        if not isinstance(fields, Mapping) or not isinstance(merged.get(section, {}), Mapping):
            merged[section] = fields
            continue
        merged[section] = {**merged.get(section, {}), **fields}
        said = [name if section in AXES else f"{section}.{name}" for name in fields]
        for home in AXES:
            if home != section and isinstance(merged.get(home), Mapping):
                for path in said:
                    if path not in overlay.get(home, {}):
                        merged[home].pop(path, None)
    return merged


def convert(path: str, value: Any, kinds: Kinds, name: str | None = None) -> Any:
    """`value` as the type of field `path` (compfast.config.values.convert) of these `kinds`.

    The word "none" stands for None where the field may be None (TOML has no null). `name` is what
    an error's sentence calls the field (a flag), `path` if it is not given.
    """
    return values.convert(name or path, _spelt(path, value, kinds), field_hint(path, kinds))


def is_list_field(path: str, kinds: Kinds) -> bool:
    """Whether one value of the field is itself a list (task.anchors, run.snapshots, ...)."""
    return typing.get_origin(values.inner(field_hint(path, kinds))) is tuple


def _spelt(path: str, value: Any, kinds: Kinds) -> Any:
    """The value, None where it is the word for it and the field may be None."""
    none = isinstance(value, str) and value.lower() == "none"
    return None if none and values.is_optional(field_hint(path, kinds)) else value


def _section(section: str, value: Any, kinds: Kinds) -> Any:
    if not isinstance(value, Mapping):
        raise UsageError(f"[{section}] is {value!r}; it must be a table of fields")
    return {name: _spelt(f"{section}.{name}", inner, kinds) for name, inner in value.items()}


def _axis(home: str, path: str, points: Any, kinds: Kinds) -> Axis:
    if path not in SEEDS and isinstance(points, (list, tuple)) and path.partition(".")[0] != "run":
        points = [_spelt(path, point, kinds) for point in points]
    return (axis if home == "sweep" else column)(path, points, kinds)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
