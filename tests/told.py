"""The hyperteacher told its code: sequences of the task in which some token shows it.

The paper's construction (arXiv 2407.12275, appendix A) is of a network that knows the code z; the
task hides it. Here each token has M numbers more, zeros but at one token, `at`, which holds
z over the operator norm of sum_m z_m theta_m: the mix is W = sum_m code_m theta_m itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from compfast.config import EvaluationConfig, TaskSection
from compfast.streams import philox
from compfast.tasks import hyperteacher_net as net
from compfast.tasks.base import Float32, Int32, Task
from compfast.tasks.hyperteacher import HyperteacherConfig, HyperteacherTask


@dataclass(frozen=True, slots=True)
class ToldConfig(TaskSection):
    name: str = "told:ToldTask"
    samples: int = 9
    dim: int = 5
    hidden: int = 4
    at: int = -1  # the token that shows the code; -1: the query's


class ToldTask(Task[ToldConfig]):
    """`teacher` is the hyperteacher that it tells of."""

    Config = ToldConfig
    candidates = ("inferential",)
    loss, outputs = "squared_error", 1

    def __init__(self, config: ToldConfig) -> None:
        self.config = config
        self.teacher = HyperteacherTask(
            HyperteacherConfig(samples=config.samples, dim=config.dim, hidden=config.hidden)
        )
        self.modules = self.teacher.config.modules
        self.length, self.width = self.teacher.length, self.teacher.width + self.modules

    def batch(self, seed: int, step: int, size: int) -> tuple[Float32, Float32]:
        return self.drawn(seed, philox.TRAIN, step, size, self.teacher.trained)

    def drawn(
        self, seed: int, purpose: int, step: int, size: int, masks: Int32
    ) -> tuple[Float32, Float32]:
        """Sequences of these masks, and their answers."""
        _, z, x = self.teacher._drawn(seed, purpose, step, 0, size, masks)
        y = self.teacher._values(net.mixed(z, self.teacher.theta), x)
        norm = net.operator_norm(np.einsum("bm,mhd->bhd", z, self.teacher.theta))
        shown = self.teacher._shown(x, y)
        vectors = np.concatenate([shown, np.zeros((*shown.shape[:2], self.modules))], axis=2)
        vectors[:, self.config.at, -self.modules :] = z / norm[:, None]
        return vectors.astype(np.float32), y[:, -1].reshape(size, 1, 1)

    def exam(self, evaluation: EvaluationConfig) -> Any:
        raise NotImplementedError("this task has no exam")
