"""csrc/cuda is real code for GPUs that are not here: nvcc compiles it and nothing spills."""

from __future__ import annotations

import dataclasses
import shutil
from itertools import product
from typing import Any

import pytest

from benchmarks import cuda_resources
from benchmarks.cuda_resources import CHIPS, Resources, committed, resources

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes of shared memory a block


def check(row: Resources) -> None:
    assert row.spill_stores == row.spill_loads == 0, f"sm_{row.architecture} spills"
    assert row.registers * 256 <= 65536, f"sm_{row.architecture}: a block does not fit"
    assert row.shared <= LIMIT[row.architecture]


def same_as_table(architecture: int) -> None:
    found = resources(architecture)
    for row in found:
        check(row)
    kept = [row for row in committed() if row.architecture == architecture]
    if found[0].nvcc == kept[0].nvcc:
        assert found == kept


@needs_nvcc
def test_the_build_found_the_compiler() -> None:
    """A build that missed it would ship no kernel, and nothing else would say so."""
    from compfast import _cuda

    rows = committed()
    for i, shape in enumerate(_cuda.shapes()):
        assert shape["chips"].keys() == set(CHIPS.values())
        own = [row for row in rows if row.network == rows[i].network]
        assert [(row.kept, row.shared) for row in own] == [
            (shape["chips"][chip]["kept"], shape["chips"][chip]["bytes"]) for chip in CHIPS.values()
        ]


def test_the_table_is_whole_and_shows_no_spill() -> None:
    rows = committed()
    networks = [row.network for row in rows[:2]]
    assert networks == ["9-48-2-96-48", "9-32-1-64-112"]
    assert [(row.architecture, row.network) for row in rows] == list(product(CHIPS, networks))
    for row in rows:
        check(row)
        assert row.kept == row.parameters or row.architecture == 80, "an H100 keeps everything"


@needs_nvcc
@pytest.mark.slow  # nvcc takes 20 s
@pytest.mark.parametrize("architecture", CHIPS)
def test_it_compiles_as_the_table_says(architecture: int) -> None:
    same_as_table(architecture)


def test_spills_and_drift_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    row = next(row for row in committed() if row.architecture == 90)
    for wrong in (
        dataclasses.replace(row, spill_loads=4),
        dataclasses.replace(row, registers=257),
        dataclasses.replace(row, shared=228 * 1024),
    ):
        with pytest.raises(AssertionError):
            check(wrong)

    def other(architecture: int) -> list[Resources]:
        return [dataclasses.replace(row, registers=row.registers + 1)]

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
