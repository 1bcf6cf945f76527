"""Contract 2 as a property: no ensemble that can be drawn changes a bit of a member.

Three levels, since a small whole can hide a variant kernel: engine, run folder, single op. Each
has a control that lets a reduction depend on the number of members; the property must see it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from random_ensembles import Course, check_course, courses, native
from random_ops import Call, calls, check_call
from random_runs import Journey, check_journey, journeys
from small_runs import small_config

from compfast import _native
from compfast.config import MemberSpec
from compfast.engines import make_engine
from compfast.engines.native_plan import NativePlan

pytestmark = pytest.mark.usefixtures("native_extension")


def quick(examples: int) -> settings:
    """The same few examples each time, for every check of a change."""
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        report_multiple_bugs=False,
    )


def thorough(examples: int) -> settings:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=examples, deadline=None, suppress_health_check=checks)


def engine_property(course: Course) -> None:
    check_course(course)


def run_property(drawn: tuple[Journey, int]) -> None:
    with TemporaryDirectory() as folder, mock.patch("compfast.storage.durable.sync"):
        check_journey(*drawn, Path(folder))


def op_property(call: Call) -> None:
    _native.poison_scratch(True)
    try:
        check_call(call)
    finally:
        _native.poison_scratch(False)


def test_engine() -> None:
    quick(40)(given(courses())(engine_property))()


def test_run() -> None:
    quick(12)(given(journeys())(run_property))()


def test_ops() -> None:
    quick(60)(given(calls())(op_property))()


@pytest.mark.parametrize("isa", _native.supported_isas()[:-1])
def test_engine_and_ops_of_the_other_instruction_sets(
    isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has kernels of its own; the strongest is what the other tests run."""
    monkeypatch.setenv("COMPFAST_ISA", isa)
    quick(10)(given(courses())(engine_property))()
    quick(25)(given(calls())(op_property))()


def test_a_member_that_is_done_keeps_no_window(tmp_path: Path) -> None:
    rates = (("optimizer.lr", (1e-4, 1e20)),)
    config = small_config(sweep=rates, steps=3, log_every=3, eval_every=1)
    check_journey(Journey(config, ()), 1, tmp_path)


@pytest.mark.slow
def test_engine_thoroughly() -> None:
    thorough(2000)(given(courses())(engine_property))()


@pytest.mark.slow
def test_run_thoroughly() -> None:
    thorough(300)(given(journeys())(run_property))()


@pytest.mark.slow
def test_ops_thoroughly() -> None:
    thorough(3000)(given(calls())(op_property))()


def with_microbatch(specs: Sequence[MemberSpec]) -> Any:
    """Gradients of ensembles are summed over other microbatches than those of one member."""
    sequences = 16 if len(specs) > 1 else 1
    return mock.patch.object(NativePlan, "_microbatches", return_value=[sequences])


def test_the_engine_s_control_is_caught() -> None:
    def broken(specs: Sequence[MemberSpec], threads: int) -> Any:
        with with_microbatch(specs):
            return native(specs, threads)

    with pytest.raises(AssertionError, match=r"differs|loss|norm|logits"):
        quick(60)(given(courses())(lambda course: check_course(course, broken)))()


def test_the_run_s_control_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, specs: Sequence[MemberSpec], *more: Any, **options: Any) -> Any:
        with with_microbatch(specs):
            return make_engine(name, specs, *more, **options)

    monkeypatch.setattr("compfast.training.runs.make_engine", broken)
    with pytest.raises(AssertionError):
        quick(60)(given(journeys())(run_property))()


def test_the_op_s_control_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product whose inner sum is cut in two where there are neighbours."""
    module = importlib.import_module("compfast.ops.linear")
    whole = module._linear

    def broken(x: Any, weight: Any, bias: Any, *options: str) -> Any:
        if len(x) == 1 or x.shape[2] == 1 or options[0] != "none":
            return whole(x, weight, bias, *options)
        cut = x.shape[2] // 2
        left = whole(x[..., :cut], weight[..., :cut], bias, *options)[0]
        right, slope = whole(x[..., cut:], weight[..., cut:], None, *options)
        return torch.add(left, right), slope

    monkeypatch.setattr(module, "_linear", broken)
    with pytest.raises(AssertionError, match="linear: out"):
        quick(400)(given(calls())(op_property))()
