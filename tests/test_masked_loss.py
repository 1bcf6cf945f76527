"""Losses under a mask: of a sequence's positions only those count that have a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from ensembles import member, random_state, same_bits, start
from oracle import Array, random_batch, reference

from compfast.config import (
    Config,
    EvaluationConfig,
    MemberSpec,
    ModelConfig,
    Ports,
    TaskSection,
    TrainingConfig,
)
from compfast.ensembles.grid import member_specs
from compfast.errors import UsageError
from compfast.models.families import resolve
from compfast.models.sequences import sequence_loss
from compfast.streams import philox
from compfast.tasks.base import Task

LENGTH = 11


@dataclass(frozen=True, slots=True)
class EchoConfig(TaskSection):
    name: str = "test_masked_loss:EchoTask"


class EchoTask(Task[EchoConfig]):
    """Says each token again, after the first few, whose number is drawn."""

    Config = EchoConfig
    candidates = ("echo",)
    length, vocabulary, masked = LENGTH, 20, True

    def __init__(self, config: EchoConfig) -> None:
        self.config = config

    def batch(self, seed: int, step: int, size: int) -> tuple[Array, Array]:
        words = philox.words(seed, philox.TRAIN, step, 0, 0, size * 12).reshape(size, 12)
        tokens = philox.integers(words[:, :LENGTH], 20).astype(np.int32)
        first = philox.integers(words[:, LENGTH], LENGTH + 1)  # sometimes nothing is asked
        hidden = np.arange(LENGTH) < first[:, None]
        return tokens, np.where(hidden, np.int32(-1), tokens)

    def exam(self, evaluation: EvaluationConfig) -> Any:
        raise NotImplementedError


def specs_of(**model: Any) -> list[MemberSpec]:
    network = {"d_model": 20, "heads": 2, "loss_positions": "masked", **model}
    config = Config(
        task=EchoConfig(),
        model=network,
        sweep=(("seed", (3, 4, 5)),),
        training=TrainingConfig(steps=20, batch_size=13),
    )
    return member_specs(config)


@pytest.mark.parametrize("size", [3, 22])
@pytest.mark.parametrize("model", [{}, {"tied_head": True, "norm": "post", "position": "relative"}])
def test_forward_and_every_gradient(engine: str, model: dict[str, Any], size: int) -> None:
    specs = specs_of(**model)
    made, state = start(engine, specs), random_state(specs)
    made.load(state)
    batch = random_batch(specs[0].model, LENGTH, size, seed=size)
    batch[1][0] = -1  # a sequence in which nothing is asked
    wanted = reference(specs[0].model, [member(state.params, i) for i in range(3)], *batch)
    loss, grads = made.gradients(*batch)
    for tensor, gradient in grads.items():
        wanted.check(tensor, gradient)
    wanted.check("loss", loss)
    wanted.check("logits", made.outputs(batch[0], range(3)))
    assert made.predict(batch[0]).shape == (3, size, LENGTH)


def test_the_loss_by_hand() -> None:
    logits = torch.log(torch.tensor([[[0.5, 0.5], [0.25, 0.75]], [[0.9, 0.1], [0.2, 0.8]]]))
    targets = torch.tensor([[0, 1], [-1, 0]])
    one, two = -(np.log(0.5) + np.log(0.75)) / 2, -np.log(0.2)
    found = sequence_loss(logits, torch.zeros(2, 2), targets, "masked")
    assert float(found) == pytest.approx((one + two) / 2, rel=1e-6)


def test_members_train_alone_as_among_others(engine: str) -> None:
    specs = specs_of()
    whole, alone = start(engine, specs, threads=2), start(engine, specs[1:2])
    result = whole.advance(20)
    for until in (7, 20):
        alone.advance(until)
    same_bits(alone.state(), whole.state(), [0], [1])
    assert np.isfinite(result.loss).all()
    assert (result.loss[:, -1] < result.loss[:, 0]).all()


def test_a_mask_and_a_loss_without_one_do_not_meet() -> None:
    with pytest.raises(UsageError, match=r"needs model\.loss_positions = masked"):
        specs_of(loss_positions="all")
    with pytest.raises(UsageError, match="this task's targets have no mask"):
        member_specs(Config(model={"loss_positions": "masked"}))
    made = start("native", specs_of())
    tokens, targets = random_batch(specs_of()[0].model, LENGTH, 4, 0)
    with pytest.raises(UsageError, match=r"targets reach from -2 to -2; they must be in -1\.\."):
        made.gradients(tokens, np.full_like(targets, -2))


def test_a_single_logit_and_a_mask_do_not_meet() -> None:
    binary = Ports(LENGTH, 2, asked=LENGTH, masked=True)
    with pytest.raises(UsageError, match=r"a loss under a mask needs model\.logits = vocabulary"):
        resolve(ModelConfig(logits="single", loss_positions="masked"), binary)
