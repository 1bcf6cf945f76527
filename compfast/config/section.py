"""What every section of a configuration is: a frozen dataclass, converted and checked.

Tasks (compfast/tasks/) and families of networks (compfast/models/families/) make theirs from it.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from compfast.config import values
from compfast.errors import UsageError

MOST = 2**24  # items, sequences: no configuration may ask for all memory or time
MAX_SEED = 2**53  # exclusive; seeds stay exact in JSON and float64


class NotTogether(UsageError):
    """Values of which each is allowed, but not beside the others."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def require_together(condition: bool, message: str) -> None:
    """Of several fields: members may differ in one of them, and then theirs count."""
    if not condition:
        raise NotTogether(message)


def check_seed(name: str, seed: int) -> None:
    require(0 <= seed < MAX_SEED, f"{name} is {seed}; it must be in [0, 2^53)")


def positive(section: str, value: Any, *names: str) -> None:
    for name in names:
        number = getattr(value, name)
        if number is not None:
            require(number >= 1, f"{section}.{name} is {number}; it must be at least 1")


def at_most(section: str, value: Any, **limits: int) -> None:
    """A configuration may come from anybody: no field alone may ask for all memory or time."""
    for name, most in limits.items():
        number = getattr(value, name)
        if number is not None:
            require(number <= most, f"{section}.{name} is {number}; it must be at most {most}")


def finite(section: str, value: Any, *names: str, low: float = -math.inf) -> None:
    for name in names:
        number = getattr(value, name)
        if number is not None:
            require(
                math.isfinite(number) and number >= low,
                f"{section}.{name} is {number}; it must be a finite number"
                + ("" if low == -math.inf else f" of at least {low:g}"),
            )


def choice(section: str, value: Any, **allowed: tuple[str, ...]) -> None:
    for name, options in allowed.items():
        got = getattr(value, name)
        require(
            got in options, f"{section}.{name} is {got!r}; it must be one of {', '.join(options)}"
        )


class Section:
    """A frozen dataclass whose fields are converted to their types, then checked together.

    Construction raises UsageError, which names the field as "section.field".
    """

    __slots__ = ()
    section: ClassVar[str]

    def __post_init__(self) -> None:
        for name, hint in hints(type(self)).items():
            given = getattr(self, name)
            object.__setattr__(self, name, values.convert(f"{self.section}.{name}", given, hint))
        self._check()

    def _check(self) -> None:
        """Raise UsageError for values that are not allowed, alone or together."""


_HINTS: dict[type, dict[str, Any]] = {}


def hints(section: type) -> dict[str, Any]:
    """Type of each field of a section."""
    if section not in _HINTS:
        found = typing.get_type_hints(section, include_extras=True).items()
        _HINTS[section] = {n: hint for n, hint in found if typing.get_origin(hint) is not ClassVar}
    return _HINTS[section]


def names(section: Any) -> Iterable[str]:
    """Field names of a section (or its instance)."""
    return hints(section if isinstance(section, type) else type(section)).keys()


class TaskSection(Section):
    """The section of a task; each task's own class has its fields."""

    __slots__ = ()
    section = "task"

    name: str  # a task by name, or package.module:Class

    def describe(self, varied: frozenset[str]) -> str:
        """What a caption says of the task; `varied` names the fields that members differ in."""
        return self.name


class ModelSection(Section):
    """The section of a network; each family's own class has its fields, these among them."""

    __slots__ = ()
    section = "model"

    family: str  # a family of networks by name, or package.module:Class
    vocab_size: int | None  # token ids it takes; None: derived from the task
    max_positions: int | None  # tokens a sequence at most; None: task.seq_len
    loss_positions: Literal["last", "all", "masked"]  # which positions the loss reads

    # What a caption says of a network: field -> text around its value.
    shown: ClassVar[Mapping[str, str]] = {"family": "{} network"}
