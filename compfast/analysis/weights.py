"""How large members' weights are and how far from their beginning, at every step kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.analysis.long import joined, part, stacks, tensors_of
from compfast.analysis.singular import spectrum
from compfast.analysis.snapshots import checked_steps
from compfast.errors import UsageError
from compfast.runs.reading import Run

Float64 = NDArray[np.float64]


def norms(run: Run, steps: Sequence[int] | None = None) -> pl.DataFrame:
    """`norm` of every tensor and of all of them together; `spectral_norm` of matrices.

    A long table; `norm` is Euclidean (of a matrix Frobenius's). Raises UsageError for steps that
    there are not.
    """
    parts, whole = [], _Squares()
    for members, step, name, stack in stacks(run, checked_steps(run, steps), tensors_of(run)):
        own = _norms(stack)
        found = {"norm": own}
        if stack.ndim == 3:
            found["spectral_norm"] = spectrum(stack)[:, 0]
        parts.append(part(members, step, name, found))
        whole.add("norm", members, step, own)
    return joined([*parts, *whole.parts()])


def distances(run: Run, steps: Sequence[int] | None = None) -> pl.DataFrame:
    """`distance` of every tensor, and of all, from the initial weights, which are snapshot 0.

    Beside it `relative_distance`, over the initial norm (null where that is 0), and
    `initial_cosine`, between the weights and the initial ones. A long table. Raises UsageError
    for a run without snapshot 0, and for steps that there are not.
    """
    if 0 not in run.snapshots:
        raise UsageError(
            f"{run.path} has no snapshot of step 0, from which distances are; train it with 0 among"
            " --snapshots (log:N has it)"
        )
    chosen, names = checked_steps(run, steps), tensors_of(run)
    parts, whole = [], _Squares()
    for group, own in enumerate(names):
        for name in own:
            # The initial weights first, then the same tensor at each step.
            only = [[name] if g == group else [] for g in range(len(names))]
            start: Float64 | None = None
            for members, step, _, stack in stacks(run, [0, *chosen], only):
                if start is None:
                    start = stack
                    continue
                found = {"distance": _norms(stack - start), "norm": _norms(stack)}
                found |= {"start": _norms(start), "product": _products(stack, start)}
                for sums in ("distance", "norm", "start"):
                    whole.add(sums, members, step, found[sums])
                whole.add_product(members, step, found["product"])
                parts.append(part(members, step, name, _relative(found)))
    return joined([*parts, *whole.relative()])


class _Squares:
    """Sums over a member's tensors, of squares or of products."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[tuple[tuple[int, ...], int], Float64]] = {}

    def add(self, name: str, members: Sequence[int], step: int, norm: Float64) -> None:
        self._add(name, members, step, np.square(norm))

    def add_product(self, members: Sequence[int], step: int, product: Float64) -> None:
        self._add("product", members, step, product)

    def parts(self) -> list[pl.DataFrame]:
        return [
            part(members, step, None, {name: np.sqrt(total)})
            for name, sums in self._sums.items()
            for (members, step), total in sums.items()
        ]

    def relative(self) -> list[pl.DataFrame]:
        found = []
        for members, step in self._sums.get("distance", {}):
            own = {name: sums[members, step] for name, sums in self._sums.items()}
            roots = {name: np.sqrt(own[name]) for name in ("distance", "norm", "start")}
            found.append(part(members, step, None, _relative({**own, **roots})))
        return found

    def _add(self, name: str, members: Sequence[int], step: int, values: Float64) -> None:
        sums, key = self._sums.setdefault(name, {}), (tuple(members), step)
        sums[key] = sums[key] + values if key in sums else values


def _relative(found: dict[str, Float64]) -> dict[str, Float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "distance": found["distance"],
            "relative_distance": found["distance"] / found["start"],
            "initial_cosine": found["product"] / (found["norm"] * found["start"]),
        }


def _norms(stack: Float64) -> Float64:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.sqrt(np.square(stack.reshape(len(stack), -1)).sum(axis=1)))


def _products(one: Float64, other: Float64) -> Float64:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray((one * other).reshape(len(one), -1).sum(axis=1))
