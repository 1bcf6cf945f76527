"""Builds compfast._native (and _cuda, where nvcc is) with CMake and ninja; all else is in
pyproject.toml.

Whatever stops the build is said in one sentence on the last line.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CMAKE = (3, 20)
SETUPTOOLS = 77  # the first that reads `license = "Apache-2.0"`
COMPILER = "a C++17 compiler (GCC >= 11 or Clang >= 14; set CXX to choose one)"


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        if ext.optional:
            return  # CMake makes it beside the first where it finds what it takes
        pybind11 = _pybind11_folder()
        cmake, ninja = _tool("cmake"), _tool("ninja")
        _check_cmake(cmake)
        _check_headers()
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve() / "cmake"
        # A kept cache would hold on to the compiler and the tools of an earlier try.
        shutil.rmtree(build, ignore_errors=True)
        build.mkdir(parents=True)
        configure = [
            cmake,
            str(ROOT),
            "-GNinja",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11}",
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]
        given = f" with CXX={os.environ['CXX']}" if os.environ.get("CXX") else ""
        if subprocess.run(configure, cwd=build).returncode:
            _fail(f"CMake could not set up the build{given}; it needs {COMPILER}")
        if subprocess.run([ninja], cwd=build).returncode:
            _fail(f"the native extension did not compile{given}; it needs {COMPILER}")


def _tool(name: str) -> str:
    # Beside the interpreter too: without build isolation a venv's tools need not be on PATH.
    places = [sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        _fail(f"{name} is needed to build and was not found; pip install {name}")
    return found


def _check_cmake(cmake: str) -> None:
    answer = subprocess.run([cmake, "--version"], capture_output=True, text=True)
    version = re.search(r"cmake version (\d+)\.(\d+)", answer.stdout)
    if version is None or tuple(map(int, version.groups())) < CMAKE:
        said = version.group(0) if version else "no version"
        _fail(
            f"CMake >= {CMAKE[0]}.{CMAKE[1]} is needed and {cmake} says {said}; pip install cmake"
        )


def _check_headers() -> None:
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").is_file():
        _fail(f"Python.h is not in {include}; install the headers of this Python (python3-dev)")


def _pybind11_folder() -> str:
    try:
        import pybind11
    except ImportError:
        _fail("pybind11 is needed to build without build isolation; pip install pybind11")
    return str(pybind11.get_cmake_dir())


def _fail(sentence: str) -> None:
    sys.stdout.flush()
    raise SystemExit(f"compfast: {sentence}")


if int(setuptools.__version__.split(".")[0]) < SETUPTOOLS:
    _fail(
        f"setuptools >= {SETUPTOOLS} is needed and {setuptools.__version__} is installed;"
        f" pip install 'setuptools>={SETUPTOOLS}'"
    )

setup(
    ext_modules=[
        Extension("compfast._native", sources=[]),
        Extension("compfast._cuda", sources=[], optional=True),
    ],
    cmdclass={"build_ext": CMakeBuild},
)
