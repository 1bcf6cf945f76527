"""Builds compfast._native with CMake and ninja; everything else is in pyproject.toml."""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            str(ROOT),
            "-GNinja",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]
        try:
            subprocess.run(configure, cwd=build, check=True)
            subprocess.run(["cmake", "--build", "."], cwd=build, check=True)
        except FileNotFoundError as error:
            raise SystemExit(f"compfast: {error.filename} is needed to build and is not on PATH")
        except subprocess.CalledProcessError:
            raise SystemExit(
                "compfast: the native extension did not build; it needs a C++17 compiler"
                " (GCC >= 10 or Clang >= 14, set CXX to choose one); the messages are above"
            ) from None


setup(ext_modules=[Extension("compfast._native", sources=[])], cmdclass={"build_ext": CMakeBuild})
