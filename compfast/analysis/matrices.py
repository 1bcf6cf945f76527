"""How near members' matrices are to rank one, at every snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.analysis.snapshots import snapshots_of
from compfast.errors import UsageError
from compfast.models.params import parameter_table
from compfast.runs.reading import Run

Float64 = NDArray[np.float64]

_CHUNK = 2**22  # numbers of a stack that are decomposed at once: 32 MB in float64
_SCHEMA: dict[str, type[pl.DataType]] = {
    "member": pl.Int64,
    "step": pl.Int64,
    "tensor": pl.String,
    "energy": pl.Float64,
    "place": pl.Int64,  # of the tensor among its group's, to sort by
}


def rank_one_energy(run: Run, tensors: Sequence[str] | None = None) -> pl.DataFrame:
    """The share of each matrix's squared Frobenius norm that is its first singular value's.

    s_1^2 / sum_i s_i^2 (arXiv 2406.03072): 1 for a matrix of rank one, 1 / n for the identity.
    A row a (member, step, tensor), sorted so, tensors in the order of the parameters; a member
    has rows of its own matrices alone. `tensors` names some by the end of their names, as
    init.constants does ("value.weight" is every layer's); None: all. The energy of a matrix that
    is 0 or not finite is null. Raises UsageError for a run without snapshots, and for a name
    that no matrix of any member has.
    """
    steps, chosen = snapshots_of(run), chosen_matrices(run, tensors)
    parts = [pl.DataFrame(schema=_SCHEMA)]
    for group, (specs, names) in enumerate(zip(run.groups, chosen, strict=True)):
        members = [spec.member for spec in specs]
        for step in steps:
            for place, name in enumerate(names):
                found = energies(run.stacked(group, name, step))
                m = len(found)
                columns = (members, [step] * m, [name] * m, found, [place] * m)
                rows = dict(zip(_SCHEMA, columns, strict=True))
                parts.append(pl.DataFrame(rows, schema=_SCHEMA))
    table = pl.concat(parts).sort("member", "step", "place").drop("place")
    return table.with_columns(pl.col("energy").fill_nan(None))


def energies(stack: NDArray[Any]) -> Float64:
    """`rank_one_energy` of each matrix of [M, rows, cols]: [M], nan for 0 and not finite ones."""
    members, rows, columns = stack.shape
    found = np.full(members, np.nan)
    at_once = max(1, _CHUNK // (rows * columns))
    for first in range(0, members, at_once):
        part = np.asarray(stack[first : first + at_once], np.float64)
        # LAPACK finds no singular values of one that is not finite, and then none of the stack.
        regular = np.isfinite(part).all(axis=(1, 2)) & (part != 0).any(axis=(1, 2))
        squares = np.linalg.svd(part[regular], compute_uv=False) ** 2  # [.., min(rows, cols)]
        found[first : first + at_once][regular] = squares[:, 0] / squares.sum(axis=1)
    return found


def chosen_matrices(run: Run, tensors: Sequence[str] | None) -> list[list[str]]:
    """The matrices of each group to look at, None: all. See `rank_one_energy` for their names."""
    own = [[t.name for t in parameter_table(specs[0].model) if t.matrix] for specs in run.groups]
    every = list(dict.fromkeys(name for names in own for name in names))
    if not every:
        raise UsageError(
            f"model.family is {run.groups[0][0].model.family}; no tensor of {run.path} is a matrix"
        )
    if tensors is None:
        return own
    if isinstance(tensors, str) or not tensors:
        raise UsageError(f"tensors is {tensors!r}; it must be a list of names")
    for key in tensors:
        if not any(_is_called(name, key) for name in every):
            raise UsageError(
                f"tensors names {key!r}; the matrices of {run.path} are {', '.join(every)}"
            )
    return [[n for n in names if any(_is_called(n, key) for key in tensors)] for names in own]


def _is_called(name: str, key: str) -> bool:
    return name == key or name.endswith(f".{key}")
