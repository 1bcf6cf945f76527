"""Tasks: one file each, a data generator with named splits and the candidate solutions of it."""

from __future__ import annotations

import functools
from typing import Any

from compfast.config import TaskSection
from compfast.config.plugins import known_tasks, task_class
from compfast.errors import UsageError
from compfast.tasks.base import (
    Exam,
    Scores,
    Settings,
    Task,
    known_answers_of,
    labels_of,
    measures_of,
    prompts_of,
)
from compfast.tasks.known_answers import KnownAnswers

__all__ = [
    "Exam",
    "KnownAnswers",
    "Scores",
    "Settings",
    "Task",
    "known_answers_of",
    "labels_of",
    "make_task",
    "measures_of",
    "preset",
    "preset_names",
    "prompts_of",
    "start_of",
]


@functools.lru_cache(maxsize=64)
def make_task(config: TaskSection) -> Task[Any]:
    """The task that a section describes; raises UsageError for one that makes none."""
    made: Task[Any] = task_class(config.name)(config)
    return made


def preset(name: str) -> Settings:
    """Settings (a copy) of a preset, its task's name among them; raises UsageError."""
    found = _all_presets()
    if name not in found:
        raise UsageError(f"preset is {name!r}; it must be one of {', '.join(found)}")
    return _named(*found[name])


def preset_names() -> tuple[str, ...]:
    """What `preset` takes."""
    return tuple(_all_presets())


def start_of(task: str) -> Settings:
    """Settings (a copy) from which a run starts that names a task and no preset."""
    return _named(task, next(iter(_presets(task).values()), {}))


def _all_presets() -> dict[str, tuple[str, Settings]]:
    """Name -> task and settings."""
    return {n: (task, given) for task in known_tasks() for n, given in _presets(task).items()}


def _presets(task: str) -> dict[str, Settings]:
    return dict(task_class(task).presets)


def _named(task: str, given: Settings) -> Settings:
    copied = {section: dict(fields) for section, fields in given.items()}
    copied["task"] = {"name": task, **copied.get("task", {})}
    return copied
