"""The build: what a source archive holds, and one sentence where something is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SENTENCE = re.compile(r"compfast: [^.\n]+(\.\d+[^.\n]*)*")


def build(tmp_path: Path, **environment: str) -> list[str]:
    """The lines that a failing build of the extension says."""
    pytest.importorskip("setuptools", "77")
    pytest.importorskip("pybind11")
    result = subprocess.run(
        [sys.executable, "setup.py", "build_ext", f"-b{tmp_path / 'lib'}", f"-t{tmp_path / 'tmp'}"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 1, result.stdout
    return result.stdout.rstrip().splitlines()


def test_a_wrong_compiler(tmp_path: Path) -> None:
    wrong = shutil.which("false")
    assert wrong is not None
    last = build(tmp_path, CXX=wrong)[-1]
    assert SENTENCE.fullmatch(last)
    assert f"CXX={wrong}" in last
    assert "GCC >= 11 or Clang >= 14" in last


def test_a_compiler_that_cannot_compile_the_sources(tmp_path: Path) -> None:
    """It passes CMake's questions and fails on the first real file."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no compiler")
    broken = _script(tmp_path / "c++", f'case "$*" in *csrc*) exit 1;; esac\nexec {compiler} "$@"')
    last = build(tmp_path, CXX=str(broken))[-1]
    assert SENTENCE.fullmatch(last)
    assert "did not compile" in last
    assert str(broken) in last


def test_an_old_cmake(tmp_path: Path) -> None:
    old = _script(tmp_path / "bin" / "cmake", "echo cmake version 3.16.3")
    last = build(tmp_path, PATH=str(old.parent), PYTHONPATH=_patched(tmp_path))[-1]
    assert SENTENCE.fullmatch(last)
    assert "CMake >= 3.20 is needed" in last
    assert "3.16" in last


def test_no_cmake(tmp_path: Path) -> None:
    last = build(tmp_path, PATH=str(tmp_path / "bin"), PYTHONPATH=_patched(tmp_path))[-1]
    assert last == "compfast: cmake is needed to build and was not found; pip install cmake"


def _patched(tmp_path: Path) -> str:
    """A path entry that hides the tools beside the interpreter."""
    hide = "import sysconfig; sysconfig.get_path = (lambda get: lambda name, *a, **k:"
    hide += f" {str(tmp_path)!r} if name == 'scripts' else get(name, *a, **k))(sysconfig.get_path)"
    ninja = _script(tmp_path / "bin" / "ninja", "true")
    assert ninja.exists()
    (tmp_path / "sitecustomize.py").write_text(hide)
    return str(tmp_path)


def _script(path: Path, body: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_a_source_archive_holds_all_that_the_build_reads(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", "77")
    copy = tmp_path / "source"
    always = shutil.ignore_patterns(".*", "*.so", "__pycache__", "*.egg-info")

    def left_out(folder: str, names: list[str]) -> set[str]:
        top = {"build", "runs"} if Path(folder) == ROOT else set()
        return always(folder, names) | (top & set(names))

    shutil.copytree(ROOT, copy, ignore=left_out)
    program = f"from setuptools import build_meta as b; b.build_sdist({str(tmp_path)!r})"
    made = subprocess.run([sys.executable, "-c", program], cwd=copy, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    wanted = {"CMakeLists.txt", "setup.py", "pyproject.toml", "README.md", "LICENSE"}
    for folder, pattern in (("csrc", "*"), ("compfast", "*.py*"), ("tests", "*.cpp")):
        wanted |= {str(f.relative_to(ROOT)) for f in (ROOT / folder).rglob(pattern) if f.is_file()}
    wanted = {name for name in wanted if "__pycache__" not in name}
    assert wanted <= names, sorted(wanted - names)
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
