"""What a name in a configuration stands for, when it stands for a class: tasks, families.

A class is found in this order: "package.module:Class" says where it is; a module of that name in
`compfast/tasks/` (families: `compfast/models/families/`); an entry point of that name in the group
`compfast.tasks` (`compfast.families`), through which other packages bring theirs. A name that two
of them claim is refused.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import Any

from compfast.errors import UsageError

# Field -> the package of the shipped ones, and the group of entry points.
TASKS = "task.name", "compfast.tasks", "compfast.tasks"
FAMILIES = "model.family", "compfast.models.families", "compfast.families"


def task_class(name: str) -> Any:
    """The class of task `name`; raises UsageError for one that there is not, or twice."""
    return _find(*TASKS, name)


def family_class(name: str) -> Any:
    """The class of the networks' family `name`; raises UsageError for none, or two."""
    return _find(*FAMILIES, name)


def known_tasks() -> tuple[str, ...]:
    """Names of the shipped tasks and of those that installed packages bring."""
    return _known(*TASKS)


def known_families() -> tuple[str, ...]:
    """Names of the shipped families and of those that installed packages bring."""
    return _known(*FAMILIES)


def _known(_: str, package: str, group: str) -> tuple[str, ...]:
    return tuple(sorted({*_shipped(package), *_entries(group)}))


def _find(field: str, package: str, group: str, name: str) -> Any:
    if ":" in name:
        return _imported(field, name)
    own, foreign = _shipped(package), _entries(group)
    if name not in own and name not in foreign:
        raise UsageError(
            f"{field} is {name!r}; it must be one of {', '.join(sorted({*own, *foreign}))}, or"
            " package.module:Class"
        )
    claims = [f"{package}.{name}"] * (name in own) + [e.value for e in foreign.get(name, ())]
    if len(claims) > 1:
        raise UsageError(f"{field} {name!r} is claimed by {' and by '.join(claims)}")
    return own[name] if name in own else _checked(field, name, _loaded(field, foreign[name][0]))


def _imported(field: str, place: str) -> Any:
    module, _, attribute = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"{field} is {place!r}, which cannot be imported: {error}") from error
    return _checked(field, place, found)


def _loaded(field: str, entry: metadata.EntryPoint) -> Any:
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"{field} {entry.name!r} is {entry.value}, which cannot be imported: {error}"
        ) from error


def _checked(field: str, name: str, found: Any) -> Any:
    if not (inspect.isclass(found) and inspect.isclass(getattr(found, "Config", None))):
        raise UsageError(f"{field} is {name!r}, which is no class with a Config of its own")
    return found


@functools.cache
def _shipped(package: str) -> dict[str, Any]:
    """Module name -> its class; modules without one are helpers of the others."""
    home = importlib.import_module(package)
    found = {}
    for module in pkgutil.iter_modules(home.__path__):
        inner = importlib.import_module(f"{package}.{module.name}")
        own = [kind for kind in vars(inner).values() if _defined_in(inner.__name__, kind)]
        if own:
            (found[module.name],) = own
    return found


def _defined_in(module: str, kind: Any) -> bool:
    return inspect.isclass(kind) and kind.__module__ == module and "Config" in vars(kind)


def _entries(group: str) -> dict[str, list[metadata.EntryPoint]]:
    return _read_entries(group, metadata.entry_points, _installed())


@functools.lru_cache(maxsize=16)
def _read_entries(
    group: str, read: Callable[..., Iterable[metadata.EntryPoint]], installed: object
) -> dict[str, list[metadata.EntryPoint]]:
    """Entry points by name. To read them takes milliseconds, and every field of a config asks."""
    found: dict[str, list[metadata.EntryPoint]] = {}
    for entry in read(group=group):
        found.setdefault(entry.name, []).append(entry)
    return found


def _installed() -> tuple[tuple[str, int], ...]:
    """What changes when a package is installed: where Python looks, and when that was changed."""
    times = []
    for place in sys.path:
        try:
            times.append((place, os.stat(place or ".").st_mtime_ns))
        except OSError:
            times.append((place, 0))
    return tuple(times)
