"""The Triton step on paper: kernel launches a step, and what gpu_roofline.py computes."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.gpu_roofline import ASSUMED, HBM, MEMBERS, PEAK, Paper, main, on_paper
from benchmarks.triton_resources import PRECISIONS, step_launches
from compfast.engines.arithmetic import step_flops
from compfast.engines.flat import pad
from compfast.models.families import model_plan

FEW = 12


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_tiny_step_is_a_handful_of_launches(precision: str) -> None:
    assert len(step_launches("tiny", precision)) <= FEW


@pytest.mark.parametrize("shape", ["d64", "d128"])
def test_so_is_a_step_of_wider_members(shape: str) -> None:
    """Layers are fused to width 128; the paper's 400 takes a launch an op."""
    assert len(step_launches(shape, "fp32")) <= FEW < len(step_launches("paper", "fp32"))


def test_bytes_and_operations_of_tiny_by_hand() -> None:
    """Pre-norm, L 2, d 48, FFN 96, T 9, B 32, V 48: every tensor's rows padded to 16."""
    from benchmarks.triton_resources import spec_of

    spec, row = spec_of("tiny", "fp32"), on_paper("tiny", "fp32")
    d, ff, vocabulary, length = 48, 96, 48, 9
    layer = 4 * (d * d + d) + 2 * d * ff + ff + d + 4 * d
    size = (vocabulary + length) * d + 2 * layer + 2 * d + vocabulary * d + pad(vocabulary)
    assert row.least == 512 * 6 * 4 * size
    batch = spec.training.batch_size
    counted = step_flops(model_plan(spec.model, absorb=False), length, batch)
    assert row.operations == 512 * sum(counted.values())
    assert row.on_chip == row.operations * 4 // 16
    assert row.design > row.least


def test_times_follow_from_counts() -> None:
    row = Paper("x", "bf16", 1, 10, int(989e12), int(3.35e12), int(6.7e12), 0)
    assert row.floor == 1.0
    assert row.bound == "arithmetic"
    assert row.expected == pytest.approx(1 / ASSUMED["bf16"] + 10 * ASSUMED["launch"])
    moving = dataclasses.replace(row, operations=0)
    assert (moving.floor, moving.bound) == (moving.least / HBM, "memory")
    assert moving.expected == pytest.approx(2 / ASSUMED["hbm"] + 10 * ASSUMED["launch"])
    assert dataclasses.replace(row, precision="fp32").floor == pytest.approx(989 / 67)


def test_the_table_says_that_it_is_computed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    out = capsys.readouterr().out
    assert "never measured" in out
    assert out.count("\n|") == 2 + len(MEMBERS) * len(PEAK)
