"""Tensors of all members of a shape, stacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compfast.config import values
from compfast.engines.base import Float32
from compfast.ensembles.groups import Groups
from compfast.errors import UsageError
from compfast.models.params import parameter_table


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Of members of one shape, in their order in the run."""

    members: tuple[int, ...]
    arrays: dict[str, Float32]  # tensor -> [M, *shape]


def stacked(
    groups: Groups, names: Sequence[str] | None, read: Callable[[int, str], Float32]
) -> list[Stack]:
    """See `Run.stack`; `read(group, name)` gives one tensor of a group."""
    if isinstance(names, str) or (names is not None and not len(names)):
        raise UsageError(f"names is {names!r}; it must be a list of tensors' names, or None")
    tables = [[tensor.name for tensor in parameter_table(specs[0].model)] for specs in groups]
    every = list(dict.fromkeys(name for table in tables for name in table))
    for name in names or ():
        if groups and name not in every:
            raise UsageError(values.unknown(f"the tensor {name!r}", name, every, "tensors"))
    return [
        Stack(
            tuple(spec.member for spec in specs),
            {name: read(g, name) for name in table if names is None or name in names},
        )
        for g, (specs, table) in enumerate(zip(groups, tables, strict=True))
    ]
