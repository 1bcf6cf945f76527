"""What every engine does beside arithmetic: saved states, stops, refusals, the choice of one."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from ensembles import group, mixed, random_state, same_bits, start
from oracle import random_batch

import compfast.engines
from compfast.engines import make_engine, resolve_engine
from compfast.engines.base import State
from compfast.ensembles.schedule import make_tables
from compfast.errors import UsageError
from compfast.models.init import initial_parameters
from compfast.tasks import make_task

LONG = 20_000  # steps; more than any test waits for


def test_initial_state(engine: str) -> None:
    specs = mixed(group("own_head_sizes", init={"bias": "uniform", "residual_scale": True}))
    std, state = make_tables(specs).std, start(engine, specs).state()
    for i, spec in enumerate(specs):
        for name, value in initial_parameters(spec, std[i]).items():
            assert state.params[name][i].tobytes() == value.tobytes(), name
            assert not state.exp_avg[name][i].any()
            assert not state.exp_avg_sq[name][i].any()
    assert (state.step.tolist(), state.status.tolist()) == ([0] * 3, [0] * 3)
    assert (state.step.dtype, state.status.dtype) == (np.int64, np.uint8)


def test_a_state_is_a_copy(engine: str) -> None:
    made = start(engine, group("one_layer"))
    made.advance(2)
    first = made.state()
    for named in (first.params, first.exp_avg, first.exp_avg_sq):
        for value in named.values():
            value[:] = 7
    first.step[:] = 9
    assert made.state().step.tolist() == [2] * 3
    assert (made.state().params["head.bias"] != 7).all()
    same_bits(made.state(), made.state(), range(3), range(3))


def test_a_loaded_state_is_a_copy(engine: str) -> None:
    specs = group("one_layer")
    made, state = start(engine, specs), random_state(specs)
    made.load(state)
    made.advance(2)
    same_bits(state, random_state(specs), range(3), range(3))


def _without(state: State, part: str) -> None:
    del getattr(state, part)["head.bias"]


def _with_more(state: State, part: str) -> None:
    getattr(state, part)["blocks.9.ffn.up.bias"] = np.zeros((3, 40), np.float32)


def _cut(state: State, part: str) -> None:
    getattr(state, part)["head.bias"] = getattr(state, part)["head.bias"][:, :-1]


def _fewer_members(state: State, part: str) -> None:
    getattr(state, part)["head.bias"] = getattr(state, part)["head.bias"][:1]


def _double(state: State, part: str) -> None:
    getattr(state, part)["head.bias"] = getattr(state, part)["head.bias"].astype(np.float64)


@pytest.mark.parametrize("part", ["params", "exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("wrong", [_without, _with_more, _cut, _fewer_members, _double])
def test_a_wrong_tensor_is_refused(engine: str, part: str, wrong: Any) -> None:
    specs = group("one_layer")
    made, state = start(engine, specs), random_state(specs)
    wrong(state, part)
    named = "blocks.9.ffn.up.bias" if wrong is _with_more else "head.bias"
    with pytest.raises(UsageError, match=named):
        made.load(state)
    same_bits(made.state(), start(engine, specs).state(), range(3), range(3))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", np.zeros(3, np.int32)),
        ("step", np.zeros(1, np.int64)),
        ("status", np.zeros(3, np.int64)),
        ("status", np.zeros(2, np.uint8)),
    ],
)
def test_wrong_progress_is_refused(engine: str, field: str, value: Any) -> None:
    specs = group("one_layer")
    made, state = start(engine, specs), random_state(specs)
    setattr(state, field, value)
    with pytest.raises(UsageError, match=rf"^{field} is .* is needed$"):
        made.load(state)


def test_answers_are_the_largest_logit_and_ties_go_to_the_smaller_token(engine: str) -> None:
    specs = group("no_final_norm")
    made, state = start(engine, specs), random_state(specs)
    tokens, _ = random_batch(specs[0].model, make_task(specs[0].task).length, 50, seed=0)
    made.load(state)
    assert np.array_equal(made.predict(tokens), made.outputs(tokens, range(3)).argmax(-1))
    state.params["head.weight"][:] = 0
    state.params["head.bias"][:] = -1
    last = state.params["head.bias"].shape[1] - 1
    state.params["head.bias"][0, [9, 4, last - 3]] = 2
    state.params["head.bias"][1, [last, last - 1]] = 2
    made.load(state)
    answers = made.predict(tokens)
    assert (answers.dtype, answers.shape) == (np.int32, (3, 50))
    assert [set(row) for row in answers.tolist()] == [{4}, {last - 1}, {0}]


def test_frozen_members_still_answer(engine: str) -> None:
    specs = group("one_layer")
    made = start(engine, specs)
    tokens, _ = random_batch(specs[0].model, make_task(specs[0].task).length, 20, seed=0)
    before = made.predict(tokens)
    made.freeze(np.array([True, True, True]))
    result = made.advance(5)
    assert (result.base, result.loss.shape, result.stopped) == (5, (3, 0), False)
    assert np.array_equal(made.predict(tokens), before)


def test_nothing_to_do(engine: str) -> None:
    made = start(engine, group("one_layer"))
    made.advance(4)
    before = made.state()
    for until in (4, 2, 0):
        assert made.advance(until).loss.shape == (3, 0)
    same_bits(made.state(), before, range(3), range(3))


def test_more_steps_than_the_schedule_has_are_refused(engine: str) -> None:
    made = start(engine, group("one_layer", steps=20))
    with pytest.raises(UsageError, match=r"step 21; the schedule has 20 steps"):
        made.advance(21)
    assert made.state().step.tolist() == [0] * 3


def test_ticks_count_member_steps_on_the_calling_thread(engine: str) -> None:
    made = start(engine, group("one_layer", (("seed", (1, 2)),), steps=LONG), threads=2)
    ticks: list[int] = []

    def tick(done: int) -> None:
        ticks.append(done)
        if len(ticks) == 3:
            made.request_stop()

    result = made.advance(LONG, tick)
    assert result.stopped
    assert ticks == sorted(ticks)
    assert 0 < ticks[2] < 2 * LONG
    steps = made.state().step
    assert (steps < LONG).all()
    for i, step in enumerate(steps):
        assert np.isfinite(result.loss[i, :step]).all()
        assert np.isnan(result.loss[i, step:]).all()


def test_a_stopped_training_goes_on_with_the_same_bits(engine: str) -> None:
    specs = mixed(group("one_layer", (("seed", (1, 2, 3)),), steps=LONG))
    made = start(engine, specs, threads=2)
    assert made.advance(LONG, lambda done: made.request_stop()).stopped
    until = int(made.state().step.max()) + 3
    assert not made.advance(until).stopped
    whole = start(engine, specs)
    whole.advance(until)
    same_bits(made.state(), whole.state(), range(3), range(3))


def test_an_error_in_tick_ends_the_training(engine: str) -> None:
    specs = group("one_layer", steps=LONG)
    made = start(engine, specs, threads=2)

    def tick(done: int) -> None:
        raise KeyError("from tick")

    with pytest.raises(KeyError, match="from tick"):
        made.advance(LONG, tick)
    before = made.state()
    assert (before.step < LONG).any()
    until = int(before.step.max()) + 1
    assert not made.advance(until).stopped
    assert (made.state().step == until).all()


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("training", {"batch_size": 14}),
        ("model", {"d_ff": 41}),
        ("task", {"key_modulus": 9}),
        ("optimizer", {"beta2": 0.5}),
        ("optimizer", {"decay": "matrices"}),
    ],
)
def test_mixed_groups_are_refused(engine: str, section: str, changes: dict[str, Any]) -> None:
    specs = group("one_layer")
    other = dataclasses.replace(getattr(specs[1], section), **changes)
    tables = make_tables(specs)
    specs[1] = dataclasses.replace(specs[1], **{section: other})
    with pytest.raises(UsageError, match=f"members 0 and 1 differ in {section}"):
        make_engine(engine, specs, tables)


def test_an_engine_needs_members_and_threads(engine: str) -> None:
    specs = group("one_layer")
    with pytest.raises(UsageError, match="at least one member"):
        make_engine(engine, [], make_tables(specs))
    with pytest.raises(UsageError, match="threads is 0"):
        make_engine(engine, specs, make_tables(specs), threads=0)


def test_tf32_is_refused_on_the_cpu(engine: str) -> None:
    specs = group("one_layer")
    training = dataclasses.replace(specs[0].training, precision="tf32")
    specs = [dataclasses.replace(spec, training=training) for spec in specs]
    with pytest.raises(UsageError, match=f"tf32 needs engine triton; engine {engine} has"):
        make_engine(engine, specs, make_tables(specs))


def test_the_eager_engine_restores_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        specs = group("one_layer")
        made = start("eager", specs)
        tokens, targets = random_batch(specs[0].model, 5, 4, seed=0)
        made.advance(2)
        made.predict(tokens)
        made.gradients(tokens, targets)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("devices", [0, 1])
@pytest.mark.parametrize(
    ("name", "device", "taken"),
    [
        ("auto", "auto", "native"),
        ("auto", "cpu", "native"),
        ("native", "auto", "native"),
        ("native", "cpu", "native"),
        ("eager", "auto", "eager"),
        ("eager", "cpu", "eager"),
    ],
)
@pytest.mark.usefixtures("native_extension")
def test_choice(
    monkeypatch: pytest.MonkeyPatch, name: str, device: str, taken: str, devices: int
) -> None:
    monkeypatch.setattr(compfast.engines, "cuda_devices", lambda: devices)
    assert resolve_engine(name, device) == taken


@pytest.mark.parametrize(
    ("name", "device", "devices", "sentence"),
    [
        ("fast", "auto", 0, "engine is 'fast'; it must be one of auto, eager, native, triton"),
        ("native", "gpu", 0, "device is 'gpu'; it must be one of auto, cpu, cuda"),
        ("triton", "auto", 0, "engine triton was asked for, but this machine has no CUDA device"),
        ("triton", "cpu", 1, "engine triton needs a CUDA device, but device cpu was asked for"),
        ("auto", "cuda", 0, "device cuda was asked for, but this machine has no CUDA device"),
        ("native", "cuda", 1, "engine native runs on the CPU, but device cuda was asked for"),
        ("eager", "cuda", 0, "engine eager runs on the CPU, but device cuda was asked for"),
    ],
)
def test_refused_choice(
    monkeypatch: pytest.MonkeyPatch, name: str, device: str, devices: int, sentence: str
) -> None:
    monkeypatch.setattr(compfast.engines, "cuda_devices", lambda: devices)
    with pytest.raises(UsageError, match=sentence):
        resolve_engine(name, device)


@pytest.mark.parametrize(
    ("name", "device"), [("triton", "auto"), ("triton", "cuda"), ("auto", "cuda")]
)
def test_a_cuda_device_takes_triton(
    monkeypatch: pytest.MonkeyPatch, name: str, device: str
) -> None:
    monkeypatch.setattr(compfast.engines, "cuda_devices", lambda: 1)
    assert resolve_engine(name, device) == "triton"
    monkeypatch.setattr("compfast.engines.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="triton is not installed: pip install triton"):
        resolve_engine(name, device)


def test_the_interpreter_is_no_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(compfast.engines, "cuda_devices", lambda: 0)
    assert resolve_engine("triton") == "triton"
    with pytest.raises(UsageError, match="this machine has no CUDA device"):
        resolve_engine("triton", "cuda")


@pytest.mark.parametrize("name", ["auto", "native"])
def test_without_the_extension_there_is_no_fall_back(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delattr("compfast._native", raising=False)
    monkeypatch.setitem(sys.modules, "compfast._native", None)
    with pytest.raises(UsageError, match="the native engine is not built"):
        resolve_engine(name)
    assert resolve_engine("eager") == "eager"


def test_initialise_begins_anew(engine: str) -> None:
    specs = group("default", batch_size=16)
    made = start(engine, specs)
    fresh = made.state()
    assert all(not value.any() for value in fresh.exp_avg.values())
    made.advance(2)
    made.initialise()
    everyone = range(len(specs))
    same_bits(made.state(), fresh, everyone, everyone)


@pytest.mark.usefixtures("native_extension")
def test_the_native_engine_never_imports_torch() -> None:
    program = """
import sys
from compfast.config import Config, TrainingConfig
from compfast.engines import make_engine, resolve_engine
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import make_tables

specs = member_specs(Config(training=TrainingConfig(steps=2, batch_size=4)))
for device in ("auto", "cpu"):
    engine = make_engine(resolve_engine("auto", device), specs, make_tables(specs), device=device)
    engine.initialise()
    engine.advance(2)
assert engine.name == "native"
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
