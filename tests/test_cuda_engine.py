"""Engine cuda on the driver of fake_cuda.py: the protocol, its launches, the refusals."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_cuda
import numpy as np
import pytest
import test_engine_protocol as protocol
import test_engines
import test_independence as independence
import torch
from ensembles import group, mixed, random_state, same_bits, start
from fake_cuda import FakeDriver
from oracle import random_batch
from small_runs import assert_same_run, interrupted_at, resumed

import compfast
import compfast.engines
from compfast.cluster.part import here
from compfast.config import (
    Config,
    EvaluationConfig,
    MemberSpec,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
)
from compfast.engines import make_engine, resolve_engine
from compfast.engines.base import FROZEN, State
from compfast.engines.cuda import network, pace
from compfast.engines.cuda.driver import TorchDriver
from compfast.engines.cuda.pace import Pace
from compfast.ensembles.schedule import make_tables
from compfast.errors import UsageError
from compfast.tasks import make_task
from compfast.tasks.anchor import AnchorConfig

STEPS = 6
SHAPE = {"layers": 2, "positions": 9, "d_model": 32, "d_ff": 64, "vocabulary": 112}
pytestmark = pytest.mark.usefixtures("native_extension")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[FakeDriver]:
    """Drivers as they are opened."""
    return fake_cuda.install(monkeypatch)


def take_default_network(patch: pytest.MonkeyPatch) -> None:
    """Tests written for any network get the kernel's, and little work."""

    def own(name: str, *axes: Any, **how: Any) -> list[MemberSpec]:
        return group("default", *axes, **{**how, "batch_size": min(how.get("batch_size", 5), 5)})

    for module in (protocol, independence):
        patch.setattr(module, "group", own)


def members(count: int, steps: int = STEPS, **how: Any) -> list[MemberSpec]:
    return mixed(
        group("default", (("seed", tuple(range(count))),), batch_size=5, steps=steps, **how)
    )


Check = tuple[Callable[..., None], tuple[Any, ...]]  # what is called with the engine, and then

PROTOCOL: list[Check] = [
    (protocol.test_initial_state, ()),
    (protocol.test_a_state_is_a_copy, ()),
    (protocol.test_a_loaded_state_is_a_copy, ()),
    *(
        (protocol.test_a_wrong_tensor_is_refused, ("exp_avg", wrong))
        for wrong in (protocol._without, protocol._with_more, protocol._cut, protocol._double)
    ),
    (protocol.test_wrong_progress_is_refused, ("step", np.zeros(3, np.int32))),
    (protocol.test_wrong_progress_is_refused, ("status", np.zeros(2, np.uint8))),
    (protocol.test_answers_are_the_largest_logit_and_ties_go_to_the_smaller_token, ()),
    (protocol.test_frozen_members_still_answer, ()),
    (protocol.test_nothing_to_do, ()),
    (protocol.test_more_steps_than_the_schedule_has_are_refused, ()),
    (protocol.test_ticks_count_member_steps_on_the_calling_thread, ()),
    (protocol.test_a_stopped_training_goes_on_with_the_same_bits, ()),
    (protocol.test_an_error_in_tick_ends_the_training, ()),
    (protocol.test_mixed_groups_are_refused, ("model", {"d_ff": 41})),
    (protocol.test_mixed_groups_are_refused, ("optimizer", {"beta2": 0.5})),
    (protocol.test_an_engine_needs_members_and_threads, ()),
    (protocol.test_initialise_begins_anew, ()),
    (independence.test_a_broken_neighbour, ("head.bias", np.nan)),
    (independence.test_a_broken_neighbour, ("blocks.0.ffn.up.weight", -np.inf)),
    (independence.test_divergence_in_the_middle_keeps_the_last_finite_step, ()),
    (independence.test_a_frozen_neighbour, ()),
    (independence.test_members_of_a_group_may_stand_at_different_steps, ()),
]
INDEPENDENCE: list[Check] = [
    (independence.test_number_of_members, (1,)),
    (independence.test_order, ()),
    (independence.test_chunks, ((2, 5, 6),)),
    (independence.test_a_saved_state_goes_on_in_another_engine, ()),
]


def named(case: Check) -> str:
    return "-".join([case[0].__name__[len("test_") :], *map(_word, case[1])])


def _word(argument: Any) -> str:
    return "".join(c for c in getattr(argument, "__name__", str(argument)) if c.isalnum())


@pytest.mark.parametrize("case", PROTOCOL, ids=named)
@pytest.mark.usefixtures("fakes")
def test_protocol(case: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    take_default_network(monkeypatch)
    case[0]("cuda", *case[1])


@pytest.mark.parametrize("case", INDEPENDENCE, ids=named)
@pytest.mark.usefixtures("fakes")
def test_independence(case: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    take_default_network(monkeypatch)
    case[0](("cuda", independence.SHAPES[0]), *case[1])


@pytest.mark.usefixtures("fakes")
def test_ten_steps() -> None:
    test_engines.test_ten_steps("cuda", "default")


@pytest.mark.usefixtures("fakes")
def test_a_drawn_set_trains_as_in_the_native_engine() -> None:
    """The same sequences in the same order, over more than one epoch."""
    specs = []
    for spec in members(2):
        task: Any = dataclasses.replace(spec.task, data="fixed", fixed_total=40)  # type: ignore[type-var]
        specs.append(dataclasses.replace(spec, task=task))
    cuda, native = (start(name, specs).advance(STEPS) for name in ("cuda", "native"))
    np.testing.assert_allclose(cuda.loss, native.loss, rtol=1e-4)
    fresh = start("cuda", members(2)).advance(STEPS)
    assert (np.abs(fresh.loss - cuda.loss) > 1e-4).any()


def test_launches_cover_every_step_once(
    fakes: list[FakeDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where members take turns; the bits are those of one launch."""
    specs = members(5)
    whole = start("cuda", specs)
    expected = whole.advance(STEPS)
    monkeypatch.setattr("compfast.engines.cuda.engine.MOST_SEQUENCES", 10)
    monkeypatch.setattr(pace, "LAUNCH", 100.0)  # as many steps as may be
    made = start("cuda", specs)
    found = made.advance(STEPS)
    same_bits(made.state(), whole.state(), range(5), range(5))
    assert found.loss.tobytes() == expected.loss.tobytes()
    assert found.grad_norm.tobytes() == expected.grad_norm.tobytes()
    launches = fakes[-1].launches[1:]  # the first is the trial
    counts = [(launch.count, launch.base, launch.until) for launch in launches]
    assert counts[:3] == [(2, 0, 1), (2, 1, 3), (2, 3, 6)]
    rows = [launch.members["status"] for launch in launches]
    first = min(rows)
    covered = np.zeros((5, STEPS), int)
    for row, (count, base, until) in zip(rows, counts, strict=True):
        covered[row - first : row - first + count, base:until] += 1
    assert (covered == 1).all()


def test_the_trial_launch_moves_nobody(fakes: list[FakeDriver]) -> None:
    made = make_engine("cuda", members(2), make_tables(members(2)))
    assert [launch.count for launch in fakes[-1].launches] == [1]
    state = made.state()
    assert not state.step.any()
    assert not state.status.any()


def test_a_gpu_that_cannot_run_it_is_refused(
    fakes: list[FakeDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: FakeDriver, *arguments: Any) -> None:
        raise RuntimeError("a thread block needs 200000 bytes of shared memory: invalid argument")

    monkeypatch.setattr(FakeDriver, "train", refuse)
    with pytest.raises(UsageError, match=r"^engine cuda cannot run here \(a thread block needs"):
        start("cuda", members(2))


def test_no_room_on_the_device_is_out_of_memory(
    fakes: list[FakeDriver], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(self: FakeDriver, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        raise MemoryError

    monkeypatch.setattr(FakeDriver, "zeros", full)
    with pytest.raises(UsageError, match="out of memory"):
        compfast.train(config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# What the fake must notice: one argument of a launch, made wrong.
BROKEN: dict[str, Callable[[dict[str, Any]], None]] = {
    "is in no tensor": lambda at: at.update(params=at["params"] + 2**40),
    "lr is torch.float32": lambda at: at.update(lr=at["params"]),
    "is not aligned": lambda at: at.update(step=at["step"] + 4),
    "is too short": lambda at: at.update(loss=at["loss"] + 4),
    "overlap": lambda at: at.update(exp_avg=at["exp_avg_sq"]),
    "rows begin at different": lambda at: at.update(status=at["status"] + 1),
}


@pytest.mark.parametrize("complaint", BROKEN)
def test_the_fake_notices_a_wrong_argument(
    fakes: list[FakeDriver], monkeypatch: pytest.MonkeyPatch, complaint: str
) -> None:
    made, right = start("cuda", members(3)), FakeDriver.train
    monkeypatch.setattr("compfast.engines.cuda.engine.MOST_SEQUENCES", 10)  # two of three rows

    def wrong(self: FakeDriver, *arguments: Any) -> None:
        BROKEN[complaint](arguments[4])
        right(self, *arguments)

    monkeypatch.setattr(FakeDriver, "train", wrong)
    with pytest.raises(AssertionError, match=complaint):
        made.advance(1)


def test_the_fake_notices_freed_memory_and_unread_steps(fakes: list[FakeDriver]) -> None:
    made = start("cuda", members(1))
    made._launch(slice(0, 1), range(1))  # the window's loss is dropped
    with pytest.raises(AssertionError, match=r"has been freed|is in no tensor"):
        fakes[-1].synchronise()


def test_a_launch_waits_for_the_members_in_it() -> None:
    few = Pace()
    assert few.steps(1) == 1
    few.saw(1, 1, 0.001)
    assert few.steps(1) == 2
    few.saw(64, 64, 0.064)
    assert few.steps(1) == 100
    assert few.steps(10) == 10  # ten times the members: as if each took its own time
    few.saw(50, 500, 0.5)
    assert few.steps(1) == 10  # fewer members: as slow as before
    few.saw(1, 10, 9.0)
    assert few.steps(10) == 1
    few.saw(1024, 1024, 1e-9)
    assert few.steps(1) == pace.MOST_STEPS


def test_answers_follow_the_weights(fakes: list[FakeDriver]) -> None:
    specs = members(2)
    made, native = start("cuda", specs), start("native", specs)
    tokens, _ = random_batch(specs[0].model, make_task(specs[0].task).length, 8, seed=0)
    changes: list[Callable[[], object]] = [
        lambda: made.load(random_state(specs)),
        lambda: made.advance(3),
        lambda: made.advance(5),
        made.initialise,
    ]
    for change in changes:
        made.logits(tokens, [0])
        change()
        native.load(made.state())
        assert made.logits(tokens, [1, 0]).tobytes() == native.logits(tokens, [1, 0]).tobytes()
        assert made.predict(tokens).tobytes() == native.predict(tokens).tobytes()


def test_a_state_of_the_native_engine_goes_on(fakes: list[FakeDriver]) -> None:
    specs = members(3)
    native = start("native", specs)
    native.advance(3)
    native.freeze(np.array([False, True, False]))
    made = start("cuda", specs)
    made.load(native.state())
    result = made.advance(STEPS)
    assert result.base == 3
    state: State = made.state()
    assert state.step.tolist() == [STEPS, 3, STEPS]
    assert state.status.tolist() == [0, FROZEN, 0]
    native.advance(STEPS)
    np.testing.assert_allclose(
        state.params["head.weight"], native.state().params["head.weight"], atol=1e-4
    )


def test_every_field_is_checked_or_free() -> None:
    assert SHAPE.items() <= FakeDriver().shape().items()
    spec = members(1)[0]
    paths = {
        f"{section}.{field.name}"
        for section in ("task", "model", "optimizer", "training")
        for field in dataclasses.fields(getattr(spec, section))
    }
    checked = network.taken(SHAPE).keys()
    assert checked | network.FREE == paths
    assert not checked & network.FREE


OTHERS = {
    "model.norm": "post",
    "model.activation": "relu",
    "model.loss_positions": "all",
    "optimizer.decay": "matrices",
    "training.precision": "bf16",
}


@pytest.mark.parametrize("path", [path for path in network.taken(SHAPE) if path != "task.name"])
@pytest.mark.usefixtures("fakes")
def test_another_network_is_refused(path: str) -> None:
    section, _, name = path.partition(".")
    spec = members(1)[0]
    own = getattr(spec, section)
    old = getattr(own, name)
    new = OTHERS.get(path, not old if isinstance(old, bool) else None)
    changes = {name: old + 1 if new is None else new}
    if path == "model.d_model":
        changes = {"d_model": 48}
    other = dataclasses.replace(spec, **{section: dataclasses.replace(own, **changes)})
    with pytest.raises(UsageError) as refused:
        make_engine("cuda", [other], make_tables([spec]))
    assert str(refused.value) == (
        f"{path} is {changes[name]}; engine cuda is compiled for {old} alone, and engines native,"
        f" eager and triton take {changes[name]}"
    )


@pytest.mark.usefixtures("fakes")
def test_tf32_is_triton_s() -> None:
    spec = members(1)[0]
    training = dataclasses.replace(spec.training, precision="tf32")
    other = dataclasses.replace(spec, training=training)
    with pytest.raises(UsageError, match=r"for fp32 alone, and engine triton takes tf32$"):
        make_engine("cuda", [other], make_tables([spec]))


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(("device", "taken"), [("auto", "cuda"), ("cuda", "cuda")])
def test_choice(device: str, taken: str) -> None:
    assert resolve_engine("cuda", device) == taken
    assert resolve_engine("auto") == "native"
    assert resolve_engine("auto", "cuda") == "triton"


def test_refused_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compfast.engines, "cuda_devices", lambda: 0)
    with pytest.raises(UsageError, match="engine cuda was asked for, but this machine has no CUDA"):
        resolve_engine("cuda")
    with pytest.raises(UsageError, match="engine cuda needs a CUDA device, but device cpu"):
        resolve_engine("cuda", "cpu")
    monkeypatch.setattr(compfast.engines, "cuda_devices", lambda: 1)
    monkeypatch.delattr("compfast._cuda", raising=False)
    monkeypatch.setitem(sys.modules, "compfast._cuda", None)
    with pytest.raises(UsageError, match=r"the cuda engine is not built .* nvcc is on PATH"):
        resolve_engine("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_pytorch_without_cuda_is_refused(
    fakes: list[FakeDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compfast.engines.cuda.driver.open_driver", TorchDriver)
    with pytest.raises(UsageError, match=r"^engine cuda needs PyTorch to see the GPU, but torch 2"):
        start("cuda", members(1))


def config(run: dict[str, Any] | None = None, **training: Any) -> Config:
    chosen: dict[str, Any] = {"steps": 23, "batch_size": 4, "log_every": 5, "eval_every": 8}
    return Config(
        task=AnchorConfig(),
        model=ModelConfig(layers=2, d_model=32, heads=1),
        optimizer=OptimizerConfig(),
        training=TrainingConfig(**{**chosen, **training}),
        evaluation=EvaluationConfig(seen_items=24, unseen_items=24),
        run=RunConfig(**{"engine": "cuda", "threads": 1, "checkpoint_every": 7, **(run or {})}),
        sweep=(("seed", (0, 1, 2)),),
    )


@pytest.mark.usefixtures("fakes", "fast_disk")
def test_a_run_and_its_resumption(tmp_path: Path) -> None:
    whole = compfast.train(config(), tmp_path / "whole")
    assert whole.info["engine"] == "cuda"
    assert whole.info["isa"].startswith("host_")
    interrupted_at(tmp_path / "part", config(), 10)
    assert_same_run(resumed(tmp_path / "part"), whole)


@pytest.mark.usefixtures("fakes")
def test_a_run_of_another_network_leaves_no_folder(tmp_path: Path) -> None:
    other = dataclasses.replace(config(), model=ModelConfig(layers=1, d_model=32))
    with pytest.raises(UsageError, match=r"model\.layers is 1"):
        compfast.train(other, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("fakes", "fast_disk")
def test_another_gpu_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = interrupted_at(tmp_path / "run", config(), 10)
    monkeypatch.setattr(FakeDriver, "isa", "other")
    with pytest.raises(UsageError, match=rf"{run.info['isa']} .* other bits; go on where it began"):
        compfast.train(None, run.path, resume=True)


@pytest.mark.usefixtures("fakes")
def test_a_cluster_compares_the_same_isa() -> None:
    assert here(config()).isa == start("cuda", members(1)).isa
