"""A task under a mask whose sequences end at their own length, and members that train on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compfast.config import Config, EvaluationConfig, MemberSpec, TaskSection, TrainingConfig
from compfast.ensembles.grid import member_specs
from compfast.streams import philox
from compfast.tasks.base import Task

LENGTH, VOCABULARY = 58, 20
FILLER = 0  # the token after a sequence's last target, and nowhere else

Ids = NDArray[np.int32]

MODEL: dict[str, Any] = {"d_model": 20, "heads": 2, "loss_positions": "masked"}
# name -> what differs from MODEL
RAGGED: dict[str, dict[str, Any]] = {
    "usual": {},
    "post_relative_tied": {"norm": "post", "position": "relative", "tied_head": True},
    "narrow_heads": {"d_model": 24, "heads": 8, "norm_bias": False, "layers": 1},
    "whole_vectors": {"d_model": 32, "heads": 2, "norm": "none", "position": "none"},
    "linear": {"attention": "linear", "tied_head": True, "norm_bias": False},
    "rms_head_relu": {"attention": "rms_head", "value_path": "relu", "position": "relative"},
    "deep": {"value_path": "deep", "norm": "post", "layers": 1},
    "dropping": {"attention_dropout": 0.2, "layers": 1},
    "no_attention": {"attention": "none"},
}


@dataclass(frozen=True, slots=True)
class RaggedConfig(TaskSection):
    name: str = "ragged_task:RaggedTask"
    length: int = LENGTH
    ends: str = "any"  # any length from 0 on; full: all of it; half: few positions in the second


class RaggedTask(Task[RaggedConfig]):
    """Says each token again, at three of four positions; some sequences ask nothing."""

    Config = RaggedConfig
    candidates = ("echo",)
    vocabulary, masked = VOCABULARY, True

    def __init__(self, config: RaggedConfig) -> None:
        self.config, self.length = config, config.length

    def batch(self, seed: int, step: int, size: int) -> tuple[Ids, Ids]:
        wide = -(-(2 * self.length + 1) // 4) * 4
        words = philox.words(seed, philox.TRAIN, step, 0, 0, size * wide).reshape(size, wide)
        ends = philox.integers(words[:, -1], self.length + 1)
        if self.config.ends == "full":
            ends = np.full(size, self.length)
        elif self.config.ends == "half":
            ends[size // 2 :] %= 4
        return made(words[:, : 2 * self.length], ends)

    def exam(self, evaluation: EvaluationConfig) -> Any:
        raise NotImplementedError


def made(words: NDArray[Any], ends: NDArray[Any] | Sequence[int]) -> tuple[Ids, Ids]:
    """tokens and targets [B, T] of words [B, 2 T] and ends [B], the positions up to the last
    target."""
    given, (size, length) = np.asarray(ends), (len(words), words.shape[1] // 2)
    at = np.arange(length)
    tokens = 1 + philox.integers(words[:, :length], VOCABULARY - 1).astype(np.int32)
    asked = (philox.integers(words[:, length:], 4) > 0) | (at == given[:, None] - 1)
    asked &= at < given[:, None]
    tokens = np.where(at < given[:, None], tokens, np.int32(FILLER))
    assert asked.shape == (size, length)
    return tokens, np.where(asked, tokens, np.int32(-1))


def sequences(ends: Sequence[int], length: int = LENGTH, seed: int = 1) -> tuple[Ids, Ids]:
    """Sequences that end there."""
    words = philox.words(seed, philox.TRAIN, 0, 0, 0, len(ends) * 2 * length)
    return made(words.reshape(len(ends), -1), ends)


def ragged_specs(
    seeds: Sequence[int] = (3, 4, 5),
    *,
    task: RaggedConfig | None = None,
    batch_size: int = 13,
    optimizer: dict[str, Any] | None = None,
    **model: Any,
) -> list[MemberSpec]:
    """Members that differ in their seed."""
    config = Config(
        task=task or RaggedConfig(),
        model={**MODEL, **model},
        optimizer=optimizer or {},  # type: ignore[arg-type]
        training=TrainingConfig(steps=20, batch_size=batch_size),
        sweep=(("seed", tuple(seeds)),),
    )
    return member_specs(config)
