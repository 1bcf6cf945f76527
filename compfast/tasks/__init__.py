"""Tasks: a data generator with named splits and the candidate solutions of each."""

from __future__ import annotations

from compfast.config import TaskConfig
from compfast.errors import UsageError
from compfast.tasks.anchor import AnchorTask, Exam

TASKS = {"anchor": AnchorTask}

__all__ = ["TASKS", "AnchorTask", "Exam", "make_task"]


def make_task(config: TaskConfig) -> AnchorTask:
    """The task that `config.name` names; raises UsageError when it is not registered."""
    if config.name not in TASKS:
        raise UsageError(f"task.name is {config.name!r}; known tasks: {', '.join(sorted(TASKS))}")
    return TASKS[config.name](config)
