"""Batches drawn by the kernel are those of NumPy, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import quick_interpreter  # noqa: F401
import torch

from compfast.engines.triton import anchor
from compfast.tasks.anchor import AnchorConfig, AnchorTask

TASKS = {
    "fresh": AnchorConfig(),
    "long": AnchorConfig(seq_len=20, key_modulus=9),
    "short": AnchorConfig(seq_len=3, anchors=(1, 2), shifts=(3, -4), overridden=(), unseen=()),
    "drawn": AnchorConfig(data="fixed", fixed_total=5_000),
    "drawn_small": AnchorConfig(data="fixed", fixed_total=90, seq_len=5),
}
SEEDS = (0, 7, 2**32 + 5, 2**53 - 1)
STEPS = (0, 1, 13, 20_000)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("batch", [1, 37])
def test_batches_are_those_of_numpy(name: str, batch: int) -> None:
    task = AnchorTask(TASKS[name])
    table = task.stream()
    for key in ("pairs", "combos"):
        table[key] = torch.from_numpy(np.ascontiguousarray(table[key]))
    members = len(SEEDS)
    live = torch.tensor([1, 1, 1, 1, 0], dtype=torch.int32)
    seed = torch.tensor([*SEEDS, 3])
    step = torch.tensor([*STEPS, 3])
    tokens = torch.full((5, batch, TASKS[name].seq_len), -7, dtype=torch.int32)
    targets = torch.full((5, batch), -7, dtype=torch.int32)
    anchor.draw(table, seed, step, tokens, targets, live).run()
    for i in range(members):
        wanted = task.batch(SEEDS[i], STEPS[i], batch)
        np.testing.assert_array_equal(tokens[i].numpy(), wanted[0])
        np.testing.assert_array_equal(targets[i].numpy(), wanted[1])
    assert (tokens[4] == -7).all()
    assert (targets[4] == -7).all()
