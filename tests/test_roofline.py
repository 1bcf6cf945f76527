"""Ceilings, floor and report of `python -m compfast.doctor --roofline`."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
from ensembles import group

from compfast import _native, doctor
from compfast.engines import roofline
from compfast.engines.arithmetic import step_flops, step_traffic
from compfast.engines.cores import usable_cores
from compfast.engines.roofline import Ceilings, Level, kind_rows, op_rows, step_floor

pytestmark = pytest.mark.usefixtures("native_extension")

FASTEST_CLOCK = 8.0  # GHz
MOST_UNITS = 4  # vector multiply-adds that a core may begin in a cycle
LANES = {"generic": 4, "v3": 8, "v4": 16, "v4bf16": 16}
CEILINGS = Ceilings(
    isa="v4bf16",
    threads=2,
    fma=200.0,
    bf16=400.0,
    levels=(
        Level("L1", 2**15, 2**14, 300.0),
        Level("L2", 2**20, 2**19, 100.0),
        Level("memory", None, 2**28, 10.0),
    ),
    caches_known=True,
)
TINY = ["--d-model", "8", "--batch-size", "4", "--seq-len", "5", "--layers", "1"]


@pytest.mark.parametrize("isa", _native.supported_isas())
def test_no_peak_is_beyond_what_a_core_can_do(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that the compiler emptied or merged would be."""
    monkeypatch.setenv("COMPFAST_ISA", isa)
    fma, bf16 = _native.fma_peak(1), _native.bf16_peak(1)
    assert 0.1 < fma < 2 * LANES[isa] * MOST_UNITS * FASTEST_CLOCK
    assert (bf16 is not None) == (isa == "v4bf16")
    if bf16 is not None:
        assert 0.2 < bf16 / fma < 3.5
    near, far = _native.read_bandwidth(2**14, 1), _native.read_bandwidth(2**26, 1)
    assert 0.1 < far < near < 4 * LANES[isa] * MOST_UNITS * FASTEST_CLOCK


def test_wrong_arguments_of_the_loops_are_refused() -> None:
    for measure in (_native.fma_peak, _native.bf16_peak, lambda n: _native.read_bandwidth(4096, n)):
        with pytest.raises(ValueError, match="threads is 0"):
            measure(0)
    with pytest.raises(ValueError, match="bytes is 16"):
        _native.read_bandwidth(16, 1)
    assert len(_native.cache_bytes()) == 3


def test_the_nearest_memory_that_holds_the_bytes() -> None:
    sizes = (1, 2**15, 2**15 + 1, 2**20, 2**20 + 1, 2**40)
    names = [CEILINGS.level_of(size) for size in sizes]
    assert names == ["L1", "L1", "L2", "L2", "memory", "memory"]


@pytest.mark.parametrize(("precision", "linear"), [("fp32", 200.0), ("bf16", 400.0)])
def test_the_floor_is_the_larger_of_two_times(precision: str, linear: float) -> None:
    engine = roofline.make_engine(group("default", batch_size=64)[0], 1)
    flops = step_flops(engine.plan.plan, 9, 64)
    passes, update = step_traffic(engine.plan)
    others = flops["attention"] + flops["head_linear"]
    arithmetic = (flops["linear"] / linear + others / 200.0) / 1e6
    rates = {passes.held: 500.0, update.held: 250.0}
    floor = step_floor(engine.plan, CEILINGS, precision, rates.__getitem__)
    assert floor.arithmetic == pytest.approx(arithmetic)
    assert floor.memory == pytest.approx((passes.moved / 500.0 + update.moved / 250.0) / 1e6)
    assert (floor.ms, floor.bound) == (floor.arithmetic, "arithmetic")
    slow = step_floor(engine.plan, CEILINGS, precision, lambda held: 1e-3)
    assert (slow.ms, slow.bound) == (slow.memory, "bytes")
    assert slow.arithmetic == floor.arithmetic


def test_an_instruction_set_without_bfloat16_emulates_it_on_its_fma_units() -> None:
    plain = dataclasses.replace(CEILINGS, bf16=None)
    assert [c.peak("linear", "bf16") for c in (CEILINGS, plain)] == [400.0, 200.0]
    assert CEILINGS.peak("attention", "bf16") == CEILINGS.peak("linear", "fp32") == 200.0


def test_rows_by_kind_are_sums_of_the_rows_by_op() -> None:
    engine = roofline.make_engine(group("default", batch_size=16)[0], 1)
    profile = engine.profile(0, 3)
    rows = op_rows(engine.plan, profile)
    kinds = kind_rows(rows)
    wanted = ["embed", "norm", "linear", "attention", "head_linear", "loss"]
    assert [row.kind for row in kinds] == wanted
    for part in ("forward", "backward"):
        total = sum(getattr(row, part) for row in kinds)
        assert total == pytest.approx(sum(getattr(profile, part)))
    flops = step_flops(engine.plan.plan, 9, 16)
    assert {row.kind: row.flops for row in kinds if row.flops} == flops
    assert len({row.name for row in rows}) == len(rows)


def test_a_member_that_diverges_is_said() -> None:
    spec = group("default", batch_size=16, optimizer={"lr": 1e30, "clip": 0.0})[0]
    engine = roofline.make_engine(spec, 1)
    with pytest.raises(roofline.DivergedError, match=r"diverged at step \d+; lower optimizer.lr"):
        roofline.measure_step(engine, 0.2)


def test_measured_times_are_of_a_model_step() -> None:
    """A wider batch takes longer, and the profile's step as long as the measured one."""
    short, long = (
        roofline.make_engine(group("default", batch_size=size)[0], 1) for size in (8, 256)
    )
    quick, slow = (np.median(roofline.measure_step(engine, 0.05)) for engine in (short, long))
    assert 6 < slow / quick < 64
    profile = roofline.measure_profile(long, float(slow), 0.05)
    assert 0.3 < 1e3 * profile.total / profile.steps / slow < 3


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "measure_ceilings", lambda threads: CEILINGS)
    monkeypatch.setattr(roofline, "ROUND_SECONDS", 0.01)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("each", [False, True])
def test_the_report(each: bool, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--roofline", "--threads", "1", *TINY, *(["--ops"] if each else [])]
    assert doctor.main(flags) == 0
    out = capsys.readouterr().out
    assert "d 8, L 1, 2 x (4, 4), FFN 16, 5 tokens, batch 4, fp32" in out
    assert "FMA peak: 200.0 GFLOP/s" in out
    assert ("linear blocks.0.ffn.up" in out) == each
    found = re.search(r"measured: ([\d.]+) ms .*, ([\d.]+) x the floor", out)
    floor = re.search(r"floor: ([\d.]+) ms a model-step, set by (arithmetic|bytes)", out)
    assert found is not None
    assert floor is not None
    assert float(found[1]) > 0
    shares = [row.split("│")[4] for row in out.splitlines() if row.startswith("│")]
    assert math.isclose(sum(float(x.strip(" %")) for x in shares), 100, abs_tol=2)


def test_ceilings_of_this_machine() -> None:
    ceilings = roofline.measure_ceilings(1)
    assert ceilings.isa == _native.selected_isa()
    names = [level.name for level in ceilings.levels]
    assert names[:2] == ["L1", "L2"]
    assert names[-1] == "memory"
    sizes = [level.read for level in ceilings.levels]
    assert sizes == sorted(sizes)
    assert sizes[-1] >= 2 * _native.cache_bytes()[2]
    assert ceilings.levels[-1].bandwidth < ceilings.levels[0].bandwidth


RAGGED = "ragged_task:RaggedTask"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--d-model", "32"], "--d-model needs --roofline"),
        (["--ops"], "--ops needs --roofline"),
        (
            ["--roofline", "--task", RAGGED, "--set", "model.loss_positions=masked"],
            "trains a sequence up to its last target only",
        ),
        (["--roofline", "--d-modell", "3"], "did you mean --d-model?"),
        (["--roofline", "--d-model", "32,64"], "model.d_model has several values"),
        (["--roofline", "--d-model", "x"], "'x' is not a whole number"),
        (["--roofline", "--engine", "eager"], "--engine is not known"),
        (["--roofline", "--precision", "fp64"], "one of fp32, tf32, bf16"),
        (["--roofline", "--set", "model.foo=1"], "model.foo is not known"),
        (["--roofline", "--threads", "0"], "at least 1"),
        (["--roofline", "--threads", "100000"], f"{usable_cores().count} cores"),
        (["--roofline", "--preset", "huge"], "--preset"),
    ],
)
def test_wrong_flags(flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(flags) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 1
    assert sentence in lines[0]


def test_an_instruction_set_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMPFAST_ISA", "v9")
    assert doctor.main(["--roofline", *TINY]) == 2
    assert "COMPFAST_ISA is 'v9'" in capsys.readouterr().err
