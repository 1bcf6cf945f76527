"""The doctor: what it lists, one sentence for each problem, and its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

import pytest

from compfast import doctor
from compfast.engines.processor import processor


def test_a_sound_machine(capsys: pytest.CaptureFixture[str], native_extension: None) -> None:
    assert doctor.main() == 0
    from compfast import _native

    out = capsys.readouterr().out
    for words in (
        f"build: {_native.build_info()}",
        f"compiled: {' '.join(_native.compiled_isas())}",
        f"chosen: {_native.selected_isa()}",
        "auto: takes native",
        "cores usable",
        "CUDA devices",
        f"numpy {metadata.version('numpy')}",
        f"torch {metadata.version('torch')}",
        "the main job can run",
    ):
        assert words in out


def test_an_extension_that_is_not_built_is_fatal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("compfast._native", raising=False)
    monkeypatch.setitem(sys.modules, "compfast._native", None)
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert "not built" in out
    problems = out.split("problems\n")[1].splitlines()
    assert len(problems) == 2
    assert "pip install -e . with a C++17 compiler" in problems[0]
    assert problems[1] == "the main job cannot run"


def _without(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    version, find = metadata.version, util.find_spec

    def absent(name: str) -> str:
        if name == missing:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", absent)
    monkeypatch.setattr(util, "find_spec", lambda n: None if n == missing else find(n))


@pytest.mark.parametrize(
    ("package", "fatal"), [("torch", False), ("triton", False), ("polars", True)]
)
def test_missing_packages(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, package: str, fatal: bool
) -> None:
    _without(monkeypatch, package)
    assert doctor.main() == int(fatal)
    out = capsys.readouterr().out
    assert f"{package} missing" in out
    assert (f"{package} is missing" in out) == (package != "triton")


def test_an_instruction_set_that_is_not_there_is_fatal(native_extension: None) -> None:
    root = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "COMPFAST_ISA": "v9", "PYTHONPATH": str(root)}
    answer = subprocess.run(
        [sys.executable, "-m", "compfast.doctor"], capture_output=True, text=True, env=environment
    )
    assert answer.returncode == 1
    assert answer.stderr == ""
    assert "COMPFAST_ISA is 'v9'" in answer.stdout


def test_processor_of_a_machine_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(path: Path, **_: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", absent)
    name, features = processor()
    assert name
    assert features == ()
