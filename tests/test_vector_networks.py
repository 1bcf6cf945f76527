"""Networks of vectors: every attention kind and value path, against float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from architectures import VECTORS
from ensembles import random_state, start
from vector_checks import check_alone, check_forward_and_gradients, check_ten_steps, specs_of

from compfast.config import (
    Config,
    EvaluationConfig,
    MemberSpec,
    TaskSection,
    TrainingConfig,
)
from compfast.ensembles.grid import member_specs
from compfast.errors import UsageError
from compfast.streams import philox
from compfast.tasks import make_task
from compfast.tasks.base import Task

SIZES = (3, 22)  # sequences in a batch: less and more than a microbatch


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", VECTORS)
def test_forward_and_every_gradient(engine: str, name: str, size: int) -> None:
    check_forward_and_gradients(engine, name, size)


@pytest.mark.parametrize("name", ["rms_head_relu", "softmax_deep", "rows_rms_relu"])
def test_ten_steps(engine: str, name: str) -> None:
    check_ten_steps(engine, name)


@pytest.mark.parametrize("name", ["linear_deep", "rows_softmax"])
def test_a_member_is_the_same_alone(engine: str, name: str) -> None:
    """With dropped attention weights."""
    check_alone(engine, specs_of(name, attention_dropout=0.2))


def test_dropout_is_of_training_alone_and_of_the_init_seed(engine: str) -> None:
    plain, dropped = specs_of("softmax_none"), specs_of("softmax_none", attention_dropout=0.5)
    one, two = start(engine, plain), start(engine, dropped)
    inputs, targets = make_task(plain[0].task).batch(0, 0, 9)
    for made in (one, two):
        made.load(random_state(plain))
    assert one.outputs(inputs, [0]).tobytes() == two.outputs(inputs, [0]).tobytes()
    assert (one.advance(1).loss != two.advance(1).loss).all()
    assert one.gradients(inputs, targets)[0].shape == (3,)
    twice = start(engine, dropped)
    twice.load(random_state(dropped))
    first = twice.advance(1).loss[0, 0]
    assert first == start_loss(engine, dropped)


def start_loss(engine: str, specs: list[MemberSpec]) -> float:
    made = start(engine, specs[:1])
    state = random_state(specs[:1])
    made.load(state)
    return float(made.advance(1).loss[0, 0])


def test_dropout_with_positions_to_spare(engine: str) -> None:
    """A mask is of the task's length, however many positions a network could take."""
    wide = start(
        engine, specs_of("linear_none", attention_dropout=0.5, max_positions=40, buckets=9)
    )
    exact = start(engine, specs_of("linear_none", attention_dropout=0.5, buckets=9))
    assert wide.advance(3).loss.tobytes() == exact.advance(3).loss.tobytes()


@dataclass(frozen=True, slots=True)
class EverywhereConfig(TaskSection):
    name: str = "test_vector_networks:EverywhereTask"


class EverywhereTask(Task[EverywhereConfig]):
    """Asks every position for the sum of its numbers."""

    Config = EverywhereConfig
    candidates = ("sum",)
    length, width, outputs, asked = 6, 3, 1, 6
    loss = "squared_error"

    def __init__(self, config: EverywhereConfig) -> None:
        self.config = config

    def batch(self, seed: int, step: int, size: int) -> tuple[Any, Any]:
        words = philox.words(seed, philox.TRAIN, step, 0, 0, size * 20).reshape(size, 20)
        vectors = philox.uniforms(words[:, :18]).reshape(size, 6, 3)
        return vectors, vectors.sum(axis=2, keepdims=True)

    def exam(self, evaluation: EvaluationConfig) -> Any:
        raise NotImplementedError


def test_every_position_may_be_asked() -> None:
    """As on engine eager, on a workspace that other steps have used."""
    specs = member_specs(
        Config(
            task=EverywhereConfig(),
            model={"d_model": 12, "heads": 2},
            sweep=(("seed", (0, 1)),),
            training=TrainingConfig(steps=20, batch_size=9),
        )
    )
    native, eager = start("native", specs), start("eager", specs)
    np.testing.assert_allclose(native.advance(6).loss, eager.advance(6).loss, rtol=1e-4)


def test_what_a_network_of_vectors_cannot_be() -> None:
    for model, sentence in (
        ({"tied_head": True}, "model.tied_head is True; for a task of vectors it must be False"),
        ({"position": "learned"}, "model.position is learned"),
        ({"loss_positions": "all"}, "model.loss_positions is all"),
        ({"logits": "single"}, "model.logits is single"),
        ({"vocab_size": 7}, "model.vocab_size is 7; for a task of vectors it must be 1"),
        ({"input_width": 3}, "model.input_width is 3; this task has 5"),
        ({"asked": 2}, "model.asked is 2; this task has 1"),
        ({"loss": "cross_entropy"}, "model.loss is cross_entropy; this task has squared_error"),
        ({"family": "canonical"}, "model.family is canonical, for tokens"),
    ):
        with pytest.raises(UsageError, match=sentence):
            member_specs(Config(task=VECTORS["no_attention"][0], model=model))  # type: ignore[arg-type]
