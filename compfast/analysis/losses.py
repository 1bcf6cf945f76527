"""The training loss of one network on a fixed batch, its gradient and its Hessian's products.

The batch is one that the member's training would draw from its task, at a step that no training
reaches. Dropout and the rounded products of a precision below fp32 are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.analysis.inputs import at_once
from compfast.config import MemberSpec
from compfast.config.section import MOST
from compfast.errors import UsageError
from compfast.models.families import family_of
from compfast.models.params import parameter_table
from compfast.runs.reading import Run
from compfast.tasks import make_task

if TYPE_CHECKING:
    from torch import Tensor

Weights = Mapping[str, NDArray[Any]]
Float64 = NDArray[np.float64]

RESERVED = 2**31 - 1  # a run has at most so many steps, counted from 0
ITEMS = 256  # sequences of a batch where nothing is said
_GRAPHS = 4  # passes' worth of activations that the graph of a gradient holds, a layer


class Batch(NamedTuple):
    inputs: NDArray[Any]
    targets: NDArray[Any]


def fixed_batch(specs: Sequence[MemberSpec], items: int | None = None) -> Batch:
    """Of each data seed among these members, of one shape, `items` sequences, in their order.

    None: 256, or the training's batch size where the task cannot draw so many. Raises UsageError
    where it cannot draw `items`.
    """
    task, size = make_task(specs[0].task), items
    try:
        if items is not None and not 1 <= items <= MOST:
            raise UsageError(f"it must be in 1..{MOST}")
        task.check_batch(size := items or ITEMS)
    except UsageError as error:
        if items is not None:
            raise UsageError(f"items is {items}; {error}") from None
        size = specs[0].training.batch_size
    seeds = dict.fromkeys(spec.data_seed for spec in specs)
    drawn = [task.batch(seed, RESERVED, size) for seed in seeds]
    inputs, targets = (np.concatenate(each) for each in zip(*drawn, strict=True))
    return Batch(inputs, targets)


def step_of(run: Run, step: int | None) -> int:
    """The step that a table says: a snapshot's, or None the newest weights'.

    Raises UsageError for one that there is not.
    """
    if step is not None and step not in run.snapshots:
        run.params(run.groups[0][0].member, step)  # which says so
    return run.step if step is None else step


def finite_or_null(table: pl.DataFrame) -> pl.DataFrame:
    numbers = pl.col(pl.Float64)
    return table.with_columns(pl.when(numbers.is_finite()).then(numbers))


class BatchLoss:
    """A network of a member's shape, and the batch on which its loss is taken.

    Sequences go in passes of a size that its shape says, so that memory is bounded and numbers
    hang on nothing but spec, weights and batch. Not to be made in inference mode.
    """

    def __init__(
        self, spec: MemberSpec, weights: Weights, batch: Batch, float64: bool = False
    ) -> None:
        import torch

        self.positions = spec.model.loss_positions
        self.module: Any = family_of(spec.model).holding(spec.model, weights).eval()
        self.type = torch.float64 if float64 else torch.float32
        self.module.to(self.type)
        self.parameters = {
            t.name: self.module.get_parameter(t.name) for t in parameter_table(spec.model)
        }
        self.size = sum(p.numel() for p in self.parameters.values())
        layers = getattr(spec.model, "layers", 1)
        most = max(1, at_once(spec, batch.inputs) // (_GRAPHS * layers))
        self.items = n = len(batch.inputs)
        self.parts = [
            (
                min(most, n - first) / n,
                self.tensor(batch.inputs[first : first + most]),
                self.tensor(batch.targets[first : first + most]),
            )
            for first in range(0, n, most)
        ]
        self._kept: Tensor | None = None  # the gradient of a single pass, with its graph

    def tensor(self, given: NDArray[Any]) -> Tensor:
        """As the network reads it: ids, or numbers of its type."""
        import torch

        found = torch.from_numpy(np.ascontiguousarray(given))
        return found.to(self.type) if found.is_floating_point() else found.long()

    def put(self, weights: Weights) -> None:
        """Other weights, rounded to the network's type once."""
        import torch

        self._kept = None
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(weights[name])))

    def value(self) -> float:
        import torch

        with torch.no_grad():
            return sum(share * float(self._loss(x, y)) for share, x, y in self.parts)

    def gradient(self) -> Float64:
        """[P], parameters in the order of the family's table."""
        total = np.zeros(self.size)
        for share, x, y in self.parts:
            total += share * self._flat(self._slopes(x, y, False))
        return total

    def product(self, vector: Float64) -> Float64:
        """The Hessian times a vector [P]: the gradient of (gradient . vector)."""
        import torch

        along = torch.from_numpy(vector).to(self.type)
        total = np.zeros(self.size)
        for share, x, y in self.parts:
            if self._kept is None or len(self.parts) > 1:
                self._kept = torch.cat([part.flatten() for part in self._slopes(x, y, True)])
            found = torch.autograd.grad(
                self._kept @ along,
                list(self.parameters.values()),
                retain_graph=len(self.parts) == 1,
                materialize_grads=True,
            )
            total += share * self._flat(found)
        return total

    def of(self, module: Any) -> Tensor:
        """The loss of another module of this kind, with its graph where that is asked for."""
        found = sum(share * module.loss(x, y, self.positions) for share, x, y in self.parts)
        return cast("Tensor", found)

    def _slopes(self, x: Tensor, y: Tensor, graph: bool) -> tuple[Tensor, ...]:
        import torch

        every = list(self.parameters.values())
        loss = self._loss(x, y)
        return torch.autograd.grad(loss, every, create_graph=graph, materialize_grads=True)

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = self.module.loss(x, y, self.positions)
        return found

    @staticmethod
    def _flat(parts: Sequence[Tensor]) -> Float64:
        return np.concatenate([p.detach().numpy().ravel() for p in parts]).astype(np.float64)
