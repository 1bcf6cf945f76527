"""How sharp the training loss is where members stand: the Hessian's top, and its trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from compfast.analysis.curvature import hutchinson, lanczos
from compfast.analysis.effort import Effort, effort_of, timed
from compfast.analysis.losses import BatchLoss, finite_or_null, fixed_batch, step_of
from compfast.analysis.stacked import chosen
from compfast.analysis.work import Tick, each_work
from compfast.config import MemberSpec
from compfast.errors import UsageError
from compfast.models.params import parameter_count
from compfast.runs.reading import Run


def sharpness(
    run: Run,
    step: int | None = None,
    members: Sequence[int] | None = None,
    *,
    items: int | None = None,
    eigenvalues: int = 1,
    iterations: int = 100,
    tolerance: float = 1e-4,
    probes: int = 16,
    float64: bool = False,
    progress: Tick | None = None,
) -> pl.DataFrame:
    """The Hessian of each member's training loss on a fixed batch: its top, and its trace.

    A row a member. `eigenvalue1` to `eigenvalue{eigenvalues}` are the largest, in falling order,
    by Lanczos with at most `iterations` products; it ends where each is told to `tolerance` of
    the largest |eigenvalue|, and `residual` says how far off the worst of them may be. `trace` is
    Hutchinson's estimate from `probes` vectors of signs, `trace_error` its standard error (null
    with fewer than 2). Beside them `loss`, `gradient_norm`, `n` (sequences of the batch),
    `parameters` and `products` (that were made). Members of one init seed share their vectors; a
    member's numbers are the same whichever others are there.

    The batch has `items` sequences of the member's own training stream, at a step that no
    training reaches (None: 256, or the training's batch size where its task cannot draw so
    many). `step` is a snapshot's; None: the newest weights. Numbers that are not finite are
    null. Raises UsageError for a step, members, items or counts that there are not.
    """
    work = _Sharpness(run, step, items, eigenvalues, iterations, tolerance, probes, float64)
    todo = [spec for specs in chosen(run.groups, members) for spec in specs]
    rows = list(each_work(work.row, todo, "sharpness's", progress))
    ints = ("member", "step", "n", "parameters", "products")
    schema = {name: pl.Int64 if name in ints else pl.Float64 for name in rows[0]}
    return finite_or_null(pl.DataFrame(rows, schema=schema).sort("member"))


def sharpness_effort(
    run: Run,
    step: int | None = None,
    members: Sequence[int] | None = None,
    *,
    items: int | None = None,
    eigenvalues: int = 1,
    iterations: int = 100,
    tolerance: float = 1e-4,
    probes: int = 16,
    float64: bool = False,
) -> Effort:
    """What `sharpness` of the same arguments takes, from one product of each shape.

    Raises UsageError as it does.
    """
    work = _Sharpness(run, step, items, eigenvalues, iterations, tolerance, probes, float64)
    groups = chosen(run.groups, members)
    parts = [
        (len(specs) * work.products(specs[0]), timed(work.prepared(specs[0]))) for specs in groups
    ]
    return effort_of("products with Hessians", parts, sum(map(len, groups)))


@dataclass(frozen=True, slots=True)
class _Sharpness:
    run: Run
    step: int | None
    items: int | None
    eigenvalues: int
    iterations: int
    tolerance: float
    probes: int
    float64: bool

    def __post_init__(self) -> None:
        step_of(self.run, self.step)
        for name, least in (("eigenvalues", 1), ("iterations", self.eigenvalues), ("probes", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.tolerance < 1:
            raise UsageError(f"tolerance is {self.tolerance}; it must be in [0, 1)")

    def products(self, spec: MemberSpec) -> int:
        """At most, for one member."""
        return min(self.iterations, parameter_count(spec.model)) + self.probes

    def prepared(self, spec: MemberSpec) -> Callable[[], Callable[[], Any]]:
        """For `timed`."""

        def prepare() -> Callable[[], Any]:
            loss = self._loss(spec)
            return lambda: loss.product(np.ones(loss.size))

        return prepare

    def row(self, spec: MemberSpec) -> dict[str, float]:
        loss = self._loss(spec)
        size, seed = loss.size, spec.init_seed
        top = lanczos(loss.product, size, seed, self.eigenvalues, self.iterations, self.tolerance)
        trace = hutchinson(loss.product, size, seed, self.probes)
        values = {f"eigenvalue{i}": float(v) for i, v in enumerate(top.values, start=1)}
        return {
            "member": spec.member,
            "step": step_of(self.run, self.step),
            **values,
            "residual": float(top.residuals.max()),
            "trace": trace.value,
            "trace_error": trace.error,
            "loss": loss.value(),
            "gradient_norm": float(np.linalg.norm(loss.gradient())),
            "n": loss.items,
            "parameters": size,
            "products": top.products + self.probes,
        }

    def _loss(self, spec: MemberSpec) -> BatchLoss:
        batch = fixed_batch([spec], self.items)
        return BatchLoss(spec, self.run.params(spec.member, self.step), batch, self.float64)
