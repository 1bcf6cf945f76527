"""What every peer trains: the members, their initial weights and their batches. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compfast.config import (
    Config,
    MemberSpec,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
)
from compfast.engines.base import Named
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import Tables, make_tables
from compfast.models.init import initial_parameters
from compfast.models.params import parameter_table
from compfast.tasks.anchor import AnchorConfig, AnchorTask

Int32 = NDArray[np.int32]

LAYERS = 2
STEPS = 20_000  # of a whole training; a longer measurement starts afresh


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Members of one shape that differ in their seed only."""

    specs: tuple[MemberSpec, ...]
    tables: Tables
    task: AnchorTask

    @property
    def model(self) -> ModelConfig:
        model: ModelConfig = self.specs[0].model
        return model

    @property
    def optimizer(self) -> OptimizerConfig:
        return self.specs[0].optimizer

    @property
    def members(self) -> int:
        return len(self.specs)

    @property
    def batch_size(self) -> int:
        return self.specs[0].training.batch_size

    @property
    def positions(self) -> int:
        """T, tokens a sequence."""
        return self.task.config.seq_len

    def initial(self) -> Named:
        """compfast's initial weights: name -> float32 [M, *shape]."""
        drawn = [
            initial_parameters(spec, std)
            for spec, std in zip(self.specs, self.tables.std, strict=True)
        ]
        names = [tensor.name for tensor in parameter_table(self.model)]
        return {name: np.stack([draw[name] for draw in drawn]) for name in names}

    def batch(self, step: int) -> tuple[Int32, Int32]:
        """compfast's batch of one step: tokens [M, B, T], targets [M, B]."""
        drawn = [self.task.batch(spec.seed, step, self.batch_size) for spec in self.specs]
        tokens, targets = zip(*drawn, strict=True)
        return np.stack(tokens), np.stack(targets)


def make_problem(
    d: int,
    members: int = 16,
    *,
    batch_size: int = 256,
    first: int = 0,
    weight_decay: float = 0.3,
    clip: float = 1.0,
    heads: int = 1,
) -> Problem:
    """Members first .. first + members - 1: pre-norm GELU with biases, L 2, FFN 2d; peers have
    one head, of d_k = d.

    The learning rate is constant, so that the first twenty steps already tell a wrong update
    from a right one. Raises UsageError for sizes below 1.
    """
    optimizer = OptimizerConfig(lr=1e-3, schedule="constant", weight_decay=weight_decay, clip=clip)
    task = AnchorConfig()
    config = Config(
        task=task,
        model=ModelConfig(layers=LAYERS, d_model=d, heads=heads),
        optimizer=optimizer,
        training=TrainingConfig(steps=STEPS, batch_size=batch_size),
        sweep=(("seed", tuple(range(first, first + members))),),
    )
    specs = tuple(member_specs(config))
    return Problem(specs, make_tables(specs), AnchorTask(task))
