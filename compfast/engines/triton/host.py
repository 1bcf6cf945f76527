"""Training batches that no kernel draws: from the task's own `batch`, copied before each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compfast.config import MemberSpec
from compfast.tasks import Task


class HostBatches:
    """Fills a program's tokens or vectors, and targets; equal seeds are drawn once."""

    def __init__(
        self,
        task: Task[Any],
        specs: Sequence[MemberSpec],
        tokens: torch.Tensor,
        targets: torch.Tensor,
    ) -> None:
        self._task, self._specs = task, specs
        self._tokens, self._targets = tokens, targets

    def fill(self, steps: NDArray[np.int64]) -> None:
        """The batches of each member's own step, steps [M]; past the end there is none."""
        size, last = self._specs[0].training.batch_size, self._specs[0].training.steps - 1
        drawn: dict[tuple[int, int], Any] = {}
        rows = []
        for spec, step in zip(self._specs, np.minimum(steps, last).tolist(), strict=True):
            key = (spec.data_seed, step)
            if key not in drawn:
                drawn[key] = self._task.batch(spec.data_seed, step, size)
            rows.append(drawn[key])
        for target, arrays in zip(
            (self._tokens, self._targets), zip(*rows, strict=True), strict=True
        ):
            target.copy_(torch.from_numpy(np.stack(arrays)).view(target.shape))
