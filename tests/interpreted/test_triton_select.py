"""The last rows of each sequence on engine triton, some of them or all: the kernel alone, and the
gradients of networks that ask every position, which others read too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import quick_interpreter  # noqa: F401
import torch
from oracle import random_batch, random_params, reference
from triton_op_cases import buffer, filled, inside, live

from compfast.config import ModelConfig, Ports
from compfast.engines.flat import FlatLayout
from compfast.engines.triton import adamw, select
from compfast.engines.triton.program import Program
from compfast.models.families import model_plan, resolve

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.mark.parametrize("asked", [1, 3, 4])
def test_the_kernel_alone(asked: int) -> None:
    """Of 4 rows a sequence; backward adds to the rows it took and touches no other."""
    g = torch.Generator().manual_seed(asked)
    x, dy, before = (torch.randn(2, 5 * n, 7, generator=g) for n in (4, asked, 4))
    y, dx = buffer(2, 5 * asked, 7, asked, column=2), filled(before, 4, column=3)
    select.forward(filled(x, 4, column=1), y, live(2)).run()
    assert torch.equal(inside(y), x.view(2, 5, 4, 7)[:, :, 4 - asked :].flatten(1, 2))
    select.backward(filled(dy, asked, column=1), dx, live(2)).run()
    wanted = before.view(2, 5, 4, 7).clone()
    wanted[:, :, 4 - asked :] += dy.view(2, 5, asked, 7)
    assert torch.equal(inside(dx), wanted.flatten(1, 2))


@pytest.mark.parametrize("asked", [pytest.param(2, marks=pytest.mark.slow), 5])
def test_gradients_where_all_rows_or_some_are_asked(asked: int) -> None:
    """Within the budget, on buffers of NaN: what nobody has written yet is not added to."""
    ports = Ports(5, 3, width=4, asked=asked, loss="squared_error")
    small: Any = {"d_model": 8, "layers": 1, "heads": 2, "d_ff": 6, "position": "relative"}
    model = resolve(ModelConfig(**small), ports)
    plan = model_plan(model, absorb=False)
    assert any(op.kind == "select" for op in plan.ops)
    flat = FlatLayout(model, plan, "matrices")
    members = [random_params(model, seed) for seed in (1, 2)]
    inputs, targets = random_batch(model, 5, 3, asked)
    packed = np.zeros((2, flat.size), np.float32)
    flat.pack({name: np.stack([m[name] for m in members]) for name in members[0]}, packed)
    program = Program(
        plan, flat, torch.from_numpy(packed), live(2), batch=3, length=5, precision="fp32"
    )
    for tensor in program.workspace():
        tensor.fill_(float("nan"))
    program.tokens.copy_(torch.from_numpy(inputs))
    program.targets.copy_(torch.from_numpy(targets))
    squares = torch.zeros((2, adamw.programs(flat.size)))
    last = adamw.reduce(program.gradients, squares, live(2))
    for launch in (program.embed, *program.train, last):
        launch.run()
    wanted = reference(model, members, inputs, targets)
    wanted.check("loss", program.losses.sum(1).numpy())
    for name, gradient in flat.unpack(program.gradients[:, 0].numpy()).items():
        wanted.check(name, gradient)
