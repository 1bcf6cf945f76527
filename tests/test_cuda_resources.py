"""csrc/cuda is real code for GPUs that are not here: nvcc compiles it and nothing spills."""

from __future__ import annotations

import dataclasses
import shutil
from typing import Any

import pytest

from benchmarks import cuda_resources
from benchmarks.cuda_resources import SEQUENCES, Resources, committed, resources

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes of shared memory a block


def check(row: Resources) -> None:
    assert row.spill_stores == row.spill_loads == 0, f"sm_{row.architecture} spills"
    assert row.registers * 256 <= 65536, f"sm_{row.architecture}: a block does not fit"
    assert row.shared <= LIMIT[row.architecture]


def same_as_table(architecture: int) -> None:
    found = resources(architecture)
    check(found)
    (kept,) = (row for row in committed() if row.architecture == architecture)
    if found.nvcc == kept.nvcc:
        assert found == kept


@needs_nvcc
def test_the_build_found_the_compiler() -> None:
    """A build that missed it would ship no kernel, and nothing else would say so."""
    from compfast import _cuda

    assert _cuda.shape()["chip_bytes"].keys() == set(SEQUENCES.values())


def test_the_table_is_whole_and_shows_no_spill() -> None:
    rows = committed()
    assert [row.architecture for row in rows] == list(SEQUENCES)
    for row in rows:
        check(row)


@needs_nvcc
@pytest.mark.parametrize("architecture", SEQUENCES)
def test_it_compiles_as_the_table_says(architecture: int) -> None:
    same_as_table(architecture)


def test_spills_and_drift_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    row = committed()[1]
    for wrong in (
        dataclasses.replace(row, spill_loads=4),
        dataclasses.replace(row, registers=257),
        dataclasses.replace(row, shared=228 * 1024),
    ):
        with pytest.raises(AssertionError):
            check(wrong)

    def other(architecture: int) -> Resources:
        return dataclasses.replace(row, registers=row.registers + 1)

    monkeypatch.setitem(globals(), "resources", other)
    with pytest.raises(AssertionError):
        same_as_table(90)


def test_without_a_compiler_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(name: str) -> Any:
        return None

    monkeypatch.setattr(shutil, "which", nothing)
    monkeypatch.setattr("sys.argv", ["cuda_resources"])
    assert cuda_resources.main() == 2
    assert capsys.readouterr().err == (
        "compfast: nvcc is not on PATH; the table needs the CUDA compiler\n"
    )
