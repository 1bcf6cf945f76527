"""What engine triton is asked in the interpreter and on a GPU, and networks that no preset has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ensembles import member, random_state, same_bits, start
from greedy_oracle import check_told
from oracle import ORDERS, random_batch, random_params, reference

from compfast.config import Config, MemberSpec, Prompts, TrainingConfig
from compfast.ensembles.grid import member_specs

TINY: dict[str, Any] = {"name": "fuzzy", "samples": 5}
DEEP: dict[str, Any] = {"attention": "rms_head", "value_path": "deep"}
SMALL: dict[str, Any] = {"d_model": 12, "layers": 1, "heads": 3, "d_k": 2, "d_v": 2, "d_ff": 8}

# tensor cores: heads apart and all in one tile; more than one block of queries, of keys past 64
WIDE: dict[str, tuple[int, dict[str, Any]]] = {
    "heads_apart": (17, {"d_k": 18, "d_v": 20, "heads": 2}),
    "only_keys_wide": (17, {"d_k": 16, "d_v": 2, "attention": "linear"}),
    "heads_together": (17, {"d_k": 16, "d_v": 17, "attention": "rms_head"}),
    "wide_deep": (17, {"d_k": 16, "d_v": 3, "attention": "rms_head", "value_path": "deep"}),
    "blocks_of_queries": (34, {"heads": 13, "attention": "rms_head", "value_path": "relu"}),
    "blocks_of_deep": (35, {"heads": 16, "value_path": "deep", "causal": True}),
    "past_64": (96, {"attention": "rms_head", "value_path": "relu", "causal": True}),
}


def small_members(
    task: Any, *, batch: int = 3, seeds: tuple[int, ...] = (3, 4), **model: Any
) -> list[MemberSpec]:
    """Members of a small network, two unless there are more seeds, with what `model` says."""
    network: Any = {**SMALL, **model}
    training = TrainingConfig(steps=20, batch_size=batch)
    return member_specs(
        Config(task=task, model=network, training=training, sweep=(("seed", seeds),))
    )


def check_scratch(specs: Sequence[MemberSpec], steps: int = 1) -> None:
    """What is in memory before a step does not matter."""
    every = range(len(specs))
    clean, poisoned = start("triton", specs), start("triton", specs)
    clean.advance(steps)
    for tensor in poisoned._step_of(every).program.workspace():
        tensor.fill_(float("nan"))
    poisoned.advance(steps)
    same_bits(clean.state(), poisoned.state(), every, every)


def check_greedy(specs: Sequence[MemberSpec]) -> None:
    """Of two members every token that engine triton tells is the best in float64."""
    made, state = start("triton", specs), random_state(specs)
    made.load(state)
    prompts = Prompts(np.array([[3, 1, -1], [2, 0, 1], [5, -1, -1]]), np.array([2, 3, 1]), 3)
    told = made.generate(prompts, [1, 0])
    for own, row in zip(told, (1, 0), strict=True):
        check_told(specs[0].model, member(state.params, row), prompts, own)


def check_within_budget(specs: list[MemberSpec], size: int, orders: int = ORDERS) -> None:
    """Forward and every gradient of one network of vectors on engine triton against float64."""
    made, state = start("triton", specs), random_state(specs)
    made.load(state)
    model = specs[0].model
    batch = random_batch(model, model.max_positions or 0, size, 7)
    params = [random_params(model, 100 + i) for i in range(len(specs))]
    wanted = reference(model, params, *batch, orders)
    loss, grads = made.gradients(*batch)
    wanted.check("loss", loss)
    for tensor, gradient in grads.items():
        wanted.check(tensor, gradient)
