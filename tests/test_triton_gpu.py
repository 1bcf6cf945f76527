"""The triton engine on a real GPU: values, the same bits every time, graphs, memory.

Run with -m gpu. Beside these, `python -m benchmarks.gpu` measures speed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import architectures
import numpy as np
import pytest
import test_engines
from ensembles import group, mixed, random_state, same_bits, start
from oracle import random_batch

from compfast.config import MemberSpec
from compfast.engines import make_engine
from compfast.ensembles.schedule import make_tables
from compfast.tasks import make_task

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("device")]

STEPS = 40  # more than one window of steps
NAMES = ("default", "paper_form", "own_head_sizes", "tied_all_post", "long_heads_all")


def members(count: int, name: str = "default", **training: Any) -> list[MemberSpec]:
    specs = mixed(group(name, (("seed", tuple(range(count))),), batch_size=37, steps=STEPS))
    changed = dataclasses.replace(specs[0].training, **training)
    return [dataclasses.replace(spec, training=changed) for spec in specs]


def engine(specs: list[MemberSpec], **how: Any) -> Any:
    made = type(start("triton", specs))(specs, make_tables(specs), **how)
    made.initialise()
    return made


@pytest.mark.parametrize("name", architectures.NAMES)
def test_forward_and_every_gradient(name: str) -> None:
    test_engines.test_forward_and_every_gradient("triton", name)


@pytest.mark.parametrize("case", test_engines.TRAININGS)
def test_ten_steps(case: str) -> None:
    test_engines.test_ten_steps("triton", case)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_same_bits_for_any_run_stack_and_neighbour(name: str, precision: str) -> None:
    specs = members(9, name, precision=precision)
    whole, again = engine(specs), engine(specs)
    first, second = whole.advance(STEPS), again.advance(STEPS)
    assert np.isfinite(first.loss).all()
    assert first.loss.tobytes() == second.loss.tobytes()
    same_bits(whole.state(), again.state(), range(9), range(9))
    order = [7, 2, 5]
    part = engine([specs[i] for i in order], stacked=2)
    for until in (1, 17, STEPS):
        part.advance(until)
    same_bits(part.state(), whole.state(), range(3), order)


def test_a_broken_neighbour_changes_nothing() -> None:
    specs = members(3)
    clean, made = engine(specs), engine(specs)
    before = made.state()
    before.params["embed.token.weight"][1] = np.nan
    made.load(before)
    made.advance(STEPS)
    clean.advance(STEPS)
    same_bits(made.state(), clean.state(), [0, 2], [0, 2])
    assert made.state().step.tolist() == [STEPS, 0, STEPS]


def test_a_replayed_graph_is_the_launches_one_by_one() -> None:
    specs = members(4)
    replayed, launched = engine(specs), engine(specs)
    step = launched._step_of(range(4))
    assert step._graph is not None
    step._graph = None
    replayed.advance(STEPS)
    launched.advance(STEPS)
    same_bits(replayed.state(), launched.state(), range(4), range(4))


def test_the_data_is_the_streams() -> None:
    specs = members(3)
    made = engine(specs)
    made.advance(3)
    program = made._step_of(range(3)).program
    for i, spec in enumerate(specs):
        tokens, targets = make_task(spec.task).batch(spec.seed, 2, 37)
        assert np.array_equal(program.tokens[i].cpu().numpy(), tokens)
        assert np.array_equal(program.targets[i].cpu().numpy(), targets)


def test_the_memory_model_is_the_memory_taken() -> None:
    import torch

    from compfast.engines.triton import memory
    from compfast.engines.triton.step import flat_layout

    specs = members(64)
    flat = flat_layout(specs[0])
    made = make_engine("triton", specs, make_tables(specs))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    made._step_of(range(64))  # type: ignore[attr-defined]
    taken = torch.cuda.memory_allocated() - before
    model = 64 * memory.workspace_bytes(specs[0], flat)
    assert model <= taken <= 1.1 * model + 2**20


def test_memory_that_runs_out_halves_the_stack() -> None:
    """A cap on this process's memory that holds some members' workspace, not all of them."""
    import torch

    from compfast.engines.triton import memory
    from compfast.engines.triton.step import SPARE, flat_layout

    specs = members(16, precision="fp32")
    whole = engine(specs)
    whole.advance(3)
    total = torch.cuda.get_device_properties(0).total_memory
    del whole._step
    whole._step = None
    torch.cuda.empty_cache()
    made = engine(specs, stacked=16)
    room = 6 * memory.workspace_bytes(specs[0], flat_layout(specs[0])) + SPARE
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + room) / total)
    try:
        made.advance(3)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    same_bits(made.state(), whole.state(), range(16), range(16))


def test_answers_are_the_oracles() -> None:
    specs = members(3)
    state = random_state(specs)
    tokens, _ = random_batch(specs[0].model, make_task(specs[0].task).length, 200, seed=0)
    made, oracle = engine(specs), start("eager", specs)
    for one in (made, oracle):
        one.load(state)
    np.testing.assert_allclose(
        made.outputs(tokens, range(3)), oracle.outputs(tokens, range(3)), atol=1e-4
    )
    assert (made.predict(tokens) == made.outputs(tokens, range(3)).argmax(-1)).all()
