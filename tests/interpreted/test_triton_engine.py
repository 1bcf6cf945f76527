"""The whole triton engine under the interpreter: what test_engines and others ask of the rest."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import numpy as np
import pytest
import quick_interpreter  # noqa: F401
import test_engines
import test_independence
import test_precision
import torch
import triton
from architectures import NAMES
from ensembles import Axes, group, mixed, random_state, same_bits, start
from oracle import random_batch
from process_state import DISTURBANCES
from triton_networks import check_scratch

from compfast.cluster.part import here
from compfast.config import Config, MemberSpec, RunConfig
from compfast.engines import make_engine, resolve_engine
from compfast.engines.base import ACTIVE, DIVERGED, FROZEN
from compfast.engines.triton import fused, memory, step
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import make_tables
from compfast.errors import UsageError
from compfast.tasks import make_task

pytestmark = pytest.mark.filterwarnings(
    "ignore:TRITON_INTERPRET=1",
    "ignore::RuntimeWarning",  # NumPy's, where NaN is computed with
)

STEPS = 2
# fused: layers in one kernel, for narrow members; ops: one launch an op, for all others
QUICK = {
    "fused": (
        "default",
        "one_layer_post",
        "own_head_sizes",
        "tied_all_post",
    ),
    "ops": ("one_layer", "paper_form"),
}
WAYS = tuple(QUICK)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways, for members that would by themselves take the fused one."""
    choose(monkeypatch, request.param)
    return str(request.param)


@pytest.fixture(autouse=True)
def _two_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the other engines are given three: each takes the interpreter as long again."""

    def two(name: str, axes: Axes = (("seed", (3, 4)),), **how: Any) -> list[MemberSpec]:
        return group(name, axes, **how)

    monkeypatch.setattr(test_engines, "group", two)


def choose(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if way == "ops":
        monkeypatch.setattr(fused, "fits", lambda *shape: False)


@pytest.mark.parametrize(("way", "name"), [(w, name) for w in QUICK for name in QUICK[w]])
def test_forward_and_every_gradient(way: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, way)
    monkeypatch.setattr(test_engines, "SIZES", (5,))
    test_engines.test_forward_and_every_gradient("triton", name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_forward_and_every_gradient_of_all(way: str, name: str) -> None:
    test_engines.test_forward_and_every_gradient("triton", name)


@pytest.mark.slow
@pytest.mark.parametrize("case", test_engines.TRAININGS)
def test_ten_steps_of_all(way: str, case: str) -> None:
    test_engines.test_ten_steps("triton", case)


@pytest.mark.slow
def test_engines_round_the_same_operands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_precision, "start", lambda engine, specs: start("triton", specs))
    test_precision.test_engines_round_the_same_operands(None, "default")


def test_launches_of_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw with embedding, a layer 1 + 2, head, embed backward, optimiser 3."""
    specs = member_specs(Config())
    assert specs[0].model.layers == 2
    assert start("triton", specs).launches() == 12
    choose(monkeypatch, "ops")
    assert start("triton", specs).launches() == 52


def members(count: int) -> list[MemberSpec]:
    """The first has a weight decay of its own for one group of its tensors."""
    specs = mixed(group("one_layer", (("seed", tuple(range(count))),), batch_size=7, steps=20))
    own = dataclasses.replace(specs[0].optimizer, weight_decay_vo=0.9)
    return [dataclasses.replace(specs[0], optimizer=own), *specs[1:]]


def test_bits_depend_on_no_neighbour_order_stack_or_chunk() -> None:
    specs = members(5)
    whole = start("triton", specs)
    found = whole.advance(STEPS)
    assert np.isfinite(found.loss).all()
    order = [3, 0, 4]
    parts = make_engine("triton", [specs[i] for i in order], make_tables(specs[:3]))
    tables = make_tables([specs[i] for i in order])
    engine = type(parts)([specs[i] for i in order], tables, stacked=2)  # type: ignore[call-arg]
    engine.initialise()
    losses = np.concatenate([engine.advance(until).loss for until in (1, STEPS)], axis=1)
    same_bits(engine.state(), whole.state(), range(3), order)
    assert losses.tobytes() == found.loss[order].tobytes()


def test_scratch_is_never_read_before_it_is_written(way: str) -> None:
    check_scratch(members(2), 2)


@pytest.mark.parametrize("wrong", [np.nan, pytest.param(-np.inf, marks=pytest.mark.slow)])
def test_a_broken_neighbour_and_a_frozen_one(wrong: float) -> None:
    specs = members(4)
    alone = start("triton", [specs[0]])
    alone.advance(STEPS)
    made = start("triton", specs)
    before = made.state()
    before.params["embed.position.weight"][1, 0] = wrong
    before.step[3] = 1
    made.load(before)
    made.freeze(np.array([False, False, True, False]))
    result, after = made.advance(STEPS), made.state()
    same_bits(after, alone.state(), [0], [0])
    assert after.status.tolist() == [ACTIVE, DIVERGED, FROZEN, ACTIVE]
    assert after.step.tolist() == [STEPS, 0, 0, STEPS]
    for name, value in before.params.items():
        assert after.params[name][1].tobytes() == value[1].tobytes()
        assert after.params[name][2].tobytes() == value[2].tobytes()
    assert not np.isfinite([result.loss[1, 0], result.grad_norm[1, 0]]).all()
    assert np.isnan(result.loss[1:3, 1:]).all()
    assert np.isnan(result.loss[3, 0])
    assert np.isfinite(result.loss[3, 1:]).all()


def test_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = members(3)
    made, state = start("triton", specs), random_state(specs)
    made.load(state)
    tokens, _ = random_batch(specs[0].model, make_task(specs[0].task).length, 20, seed=0)
    logits = made.outputs(tokens, [2, 0])
    alone = start("triton", [specs[2]])
    alone.load(test_independence._row(state, 2))
    assert alone.outputs(tokens, [0]).tobytes() == logits[:1].tobytes()
    answers = made.predict(tokens)
    assert (answers.dtype, answers.shape) == (np.int32, (3, 20))
    np.testing.assert_array_equal(answers[[2, 0]], logits.argmax(-1))
    state.params["head.weight"][:] = 0
    state.params["head.bias"][:] = -1
    state.params["head.bias"][0, [9, 4, 77]] = 2
    state.params["head.bias"][1, 3] = np.nan
    made.load(state)
    answers = made.predict(tokens[:2])
    assert [set(row) for row in answers.tolist()] == [{4}, {3}, {0}]


def test_stopping_and_ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = members(2)
    made = start("triton", specs)
    run, done = step.Step.run, []

    def stopping(self: step.Step) -> None:
        run(self)
        done.append(1)
        if len(done) == 2:
            made.request_stop()

    monkeypatch.setattr(step.Step, "run", stopping)
    monkeypatch.setattr("compfast.engines.triton.engine.TICK", 0.0)
    ticks: list[int] = []
    result = made.advance(20, ticks.append)
    assert (result.stopped, result.loss.shape, ticks) == (True, (2, 20), [4])
    assert np.isfinite(result.loss[:, :2]).all()
    assert np.isnan(result.loss[:, 2:]).all()
    monkeypatch.setattr(step.Step, "run", run)
    made.advance(3)
    whole = start("triton", specs)
    whole.advance(3)
    same_bits(made.state(), whole.state(), range(2), range(2))


def test_memory_that_runs_out_halves_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than two members at once do not fit: the same bits, in more pieces."""
    specs = members(5)
    build, sizes = step.Step.__init__, []

    def small(self: step.Step, specs: Any, *rest: Any) -> None:
        sizes.append(len(specs))
        if len(specs) > 2:
            raise torch.OutOfMemoryError
        build(self, specs, *rest)

    whole = start("triton", specs)
    whole.advance(1)
    monkeypatch.setattr(step.Step, "__init__", small)
    made = start("triton", specs)
    made.advance(1)
    assert sizes == [5, 3, 2, 2, 1]
    same_bits(made.state(), whole.state(), range(5), range(5))


def test_memory_model() -> None:
    specs = members(1)
    flat = step.flat_layout(specs[0])
    each = memory.workspace_bytes(specs[0], flat)
    program = start("triton", specs)._step_of(range(1)).program
    real = [program.tokens, program.targets, program.gradients, *program.workspace()]
    assert each == sum(tensor.nbytes for tensor in real)
    free = int(7.5 * each / memory.SHARE)
    assert [memory.fitting(specs[0], flat, n, free) for n in (3, 100)] == [3, 7]
    assert memory.fitting(specs[0], flat, 9, 0) == 1


def test_the_interpreter_says_that_it_is_slow() -> None:
    assert [resolve_engine("triton", device) for device in ("auto", "cpu")] == ["triton"] * 2
    with pytest.warns(UserWarning, match="interpreter on the CPU, thousands of times slower"):
        assert start("triton", members(1)).isa == "interpreter"


def test_an_engine_takes_one_shape() -> None:
    specs = members(2)
    training = dataclasses.replace(specs[1].training, batch_size=15)
    specs[1] = dataclasses.replace(specs[1], training=training)
    with pytest.raises(ValueError, match="differ in training"):
        make_engine("triton", specs, make_tables(specs))


@pytest.mark.parametrize("setting", ["default dtype float64", "set_default_device"])
def test_settings_of_the_user_change_no_bit(setting: str, way: str) -> None:
    specs = group("one_layer", (("seed", (1,)),), steps=1, batch_size=2)
    states = []
    for disturbed in (False, True):
        with DISTURBANCES[setting]() if disturbed else contextlib.nullcontext():
            made = start("triton", specs)
            made.advance(1)
            states.append(made.state())
    same_bits(states[0], states[1], [0], [0])


def test_a_cluster_compares_the_same_isa(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node says of itself what its engine will write into the run; each GPU is another."""
    triton_run = Config(run=RunConfig(engine="triton"))
    found = here(triton_run)
    assert found.isa == start("triton", members(1)).isa == "interpreter"
    assert f"triton {triton.__version__}" in found.versions
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    monkeypatch.setattr("compfast.engines.cuda_devices", lambda: 1)
    with pytest.raises(UsageError, match=r"needs PyTorch to see the GPU, but torch .* sees none"):
        here(triton_run)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability in ((8, 0), (9, 0), (12, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda found=capability: found)
        assert here(triton_run).isa == "sm_{}{}".format(*capability)
