"""Networks of vectors, chains and masks on a real GPU: what the interpreter is asked, at full size.

Run with -m gpu.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import test_binary_networks
import test_bottleneck
import test_masked_loss
import vector_checks
from architectures import BOTTLENECKS, VECTORS
from ensembles import group, start
from triton_networks import (
    DEEP,
    TINY,
    WIDE,
    check_greedy,
    check_scratch,
    check_within_budget,
    small_members,
)

from compfast.config import Config, MemberSpec, ModelConfig, TrainingConfig
from compfast.ensembles.grid import member_specs
from compfast.models.dropout import keep_mask
from compfast.tasks.modular import ModularConfig

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("device")]

VECTOR_RUNS = ("rms_head_relu", "softmax_deep", "rows_rms_relu")
BOTTLENECK_RUNS = ("sees_query", "empty_token")


@pytest.mark.parametrize("name", [*VECTORS, *BOTTLENECKS])
def test_forward_and_every_gradient(name: str) -> None:
    """Against 16 orders of float32 PyTorch.

    Of a deep path's second layer 24 orders err by 0.8e-6 to 4.3e-6 (linear_deep), so that the
    largest of 4 is 1.7e-6 on one machine and 2.6e-6 on another.
    """
    vector_checks.check_forward_and_gradients("triton", name, 22, orders=16)


@pytest.mark.parametrize("name", WIDE)
def test_tiles_of_other_forms(name: str) -> None:
    samples, model = WIDE[name]
    check_within_budget(small_members({"name": "fuzzy", "samples": samples}, **model), 5)


@pytest.mark.parametrize("name", [*VECTOR_RUNS, *BOTTLENECK_RUNS])
def test_ten_steps(name: str) -> None:
    """Batches from the host, copied before each replay of the graph."""
    vector_checks.check_ten_steps("triton", name)


@pytest.mark.parametrize("name", [*VECTOR_RUNS, *BOTTLENECK_RUNS])
def test_a_member_is_the_same_alone(name: str) -> None:
    vector_checks.check_alone("triton", vector_checks.specs_of(name))


def test_a_member_with_dropped_weights_is_the_same_alone() -> None:
    specs = small_members(TINY, batch=13, seeds=(3, 4, 5), attention_dropout=0.2, **DEEP)
    vector_checks.check_alone("triton", specs)


def test_masks_are_those_of_the_streams() -> None:
    specs = small_members(TINY, attention_dropout=0.3, layers=2)
    made = start("triton", specs)
    made.advance(4)
    keep: Any = made._step_of(range(2)).program.keep
    for i, spec in enumerate(specs):
        for layer in range(2):
            wanted = keep_mask(0.3, spec.init_seed, 3, layer, 5)
            assert keep[i, layer].cpu().numpy().tobytes() == wanted.tobytes()


@pytest.mark.parametrize("model", [{}, {"tied_head": True, "norm": "post", "position": "relative"}])
def test_a_loss_under_a_mask(model: dict[str, Any]) -> None:
    test_masked_loss.test_forward_and_every_gradient("triton", model, 22)


@pytest.mark.parametrize("name", test_binary_networks.SINGLE)
def test_a_single_logit(name: str) -> None:
    test_binary_networks.test_a_single_logit_is_two_of_which_one_is_zero("triton", name, 22)


@pytest.mark.parametrize("name", ["usual", "empty_token_sees_query"])
def test_what_a_code_depends_on(name: str) -> None:
    test_bottleneck.test_what_the_code_depends_on("triton", name)


def test_a_table_trains_as_in_eager() -> None:
    specs = member_specs(
        Config(
            task=ModularConfig(modulus=7),
            model=ModelConfig(layers=1, d_model=16),
            training=TrainingConfig(steps=40, batch_size=8),
            sweep=(("seed", (0, 1)), ("data_seed", (5, 6))),
        )
    )
    found, wanted = (_losses(engine, specs) for engine in ("triton", "eager"))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def _losses(engine: str, specs: list[MemberSpec]) -> Any:
    made = start(engine, specs)
    return np.concatenate([made.advance(until).loss for until in (1, 6)], axis=1)


def test_scratch_is_never_read_before_it_is_written() -> None:
    check_scratch(small_members({"name": "sraven"}, attention_dropout=0.1, **DEEP))


SPOKEN: dict[str, Callable[[], list[MemberSpec]]] = {
    "last": lambda: group("one_layer"),
    "relative": lambda: test_masked_loss.specs_of(position="relative", attention="linear"),
}


@pytest.mark.parametrize("name", SPOKEN)
def test_every_token_is_the_best_in_float64(name: str) -> None:
    check_greedy(SPOKEN[name]()[:2])
