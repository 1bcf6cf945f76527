"""What a run says of itself: settings, those that differ from the preset first; versions; files."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compfast.config import Config, settings
from compfast.config.labels import brief, extent
from compfast.config.plugins import task_class
from compfast.runs.reading import Run
from compfast.storage import durable
from compfast.tasks import preset, start_of

_AXES = ("sweep", "sample")
Rows = list[tuple[str, str, str]]


def changed_settings(config: Config, command: Sequence[str]) -> tuple[str, Rows]:
    """The preset that the run is compared with, and (path, value, the preset's) where they differ.

    That is the one that its command line names, else the task's own whose settings are nearest.
    What was swept or drawn stands first.
    """
    plain = settings.to_dict(config)
    own = _flat(plain)
    varied = {path: points for axes in _AXES for path, points in plain.get(axes, {}).items()}
    found = {name: _flat(settings.to_dict(base)) for name, base in _bases(config.task.name)}
    named = next((name for name in found if _names(command, name)), None)
    name = named or min(found, key=lambda n: len(_unlike(own, found[n])))
    base = found[name]
    rows = [
        (path, f"{len(points)} values: {extent(_hashable(points))}", _said(base.get(path)))
        for path, points in varied.items()
    ]
    rows += [
        (path, _said(own.get(path)), _said(base.get(path)) if path in base else "none")
        for path in _unlike(own, base)
        if path not in varied
    ]
    return name, rows


def all_settings(config: Config) -> list[tuple[str, str]]:
    return [(path, _said(value)) for path, value in _flat(settings.to_dict(config)).items()]


def about(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Versions, engine, instruction set, commit, date and command line, as config.json has them."""
    found = [("engine", info.get("engine")), ("instruction set", info.get("isa"))]
    versions = info.get("versions") or {}
    found += [(name, version) for name, version in versions.items()]
    found += [("commit", info.get("commit")), ("created", info.get("created"))]
    command = info.get("command")
    if isinstance(command, list) and command:
        found.append(("command line", shlex.join(map(str, command))))
    return [(name, str(value)) for name, value in found if value is not None]


def parents(config: Config) -> list[tuple[str, str]]:
    """The run that this one started from."""
    start = config.start
    if start.run is None:
        return []
    step = "its newest checkpoint" if start.step is None else str(start.step)
    found = [("run", start.run), ("step", step), ("mode", start.mode)]
    return [*found, *([("SHA-256 of its manifest", start.digest)] if start.digest else [])]


def digests(run: Any) -> list[tuple[str, str]]:
    """(file, SHA-256) as the newest checkpoint's manifest has them; its own too."""
    if not isinstance(run, Run) or run.checkpoint is None:
        return []
    folder = run.checkpoint.path
    manifest = durable.read_json(folder / "manifest.json")
    place = folder.relative_to(run.path) if folder.is_relative_to(run.path) else folder
    found = [(f"{place}/manifest.json", durable.digest_of(folder / "manifest.json").sha256)]
    for key, home in (("run", ""), ("metrics", "metrics/"), ("files", f"{place}/")):
        for name, entry in manifest.get(key, {}).items():
            found.append((f"{home}{name}", str(entry["sha256"])))
    return found


def _bases(task: str) -> Iterator[tuple[str, Config]]:
    names = list(task_class(task).presets)
    for name in names:
        yield name, settings.from_dict(preset(name))
    if not names:
        yield f"the defaults of {task}", settings.from_dict(start_of(task))


def _names(command: Sequence[str], name: str) -> bool:
    """Whether a command line has --preset NAME."""
    words = [str(word) for word in command]
    given = [after for flag, after in itertools.pairwise(words) if flag == "--preset"]
    return name in given or f"--preset={name}" in words


def _flat(plain: Mapping[str, Any]) -> dict[str, Any]:
    """section.field -> value of what members are; how the run is run says nothing of them."""
    return {
        f"{section}.{name}": value
        for section, fields in plain.items()
        if section not in (*_AXES, "run", "start")
        for name, value in fields.items()
    }


def _unlike(own: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    return [path for path, value in own.items() if path not in base or base[path] != value]


def _hashable(points: Sequence[Any]) -> list[Any]:
    return [json.dumps(point) if isinstance(point, list) else point for point in points]


def _said(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return brief(text)
