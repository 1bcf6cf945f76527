"""Other machines, under qemu's user mode: aarch64, and an x86-64 without AVX; another compiler.

    apt-get install g++-aarch64-linux-gnu qemu-user clang
    python -m pytest -m portability

Without the tools it fails, as it was asked for. The kernels run under UBSan and, but for x86-64
in qemu, under AddressSanitizer.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from test_isa import CMAKE_FLAGS, exported_symbols, isas

pytestmark = pytest.mark.portability

ROOT = Path(__file__).parent.parent
PACKAGES = "g++-aarch64-linux-gnu qemu-user clang"
CROSS = "aarch64-linux-gnu-"
LIBRARIES = "/usr/aarch64-linux-gnu"
OLD_CPU = "Nehalem"  # x86-64-v2: what NumPy's wheels need, and no AVX
V3_CPU = "Haswell"


def tool(name: str) -> str:
    """Where it is, also beside the interpreter; fails where it is not."""
    places = [sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        pytest.fail(f"{name} is missing: apt-get install {PACKAGES}")
    return found


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Leaks are looked for by ptrace, which qemu's user mode has not.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)


def build(folder: Path, targets: tuple[str, ...], *options: str) -> Path:
    """Builds these targets as CMakeLists.txt says; returns the folder of the C++ tests."""
    import pybind11

    configured = run(
        tool("cmake"),
        f"-S{ROOT}",
        f"-B{folder}",
        "-GNinja",
        f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
        "-DCOMPFAST_TESTS=ON",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        *options,
    )
    assert configured.returncode == 0, configured.stdout + configured.stderr
    built = run(tool("ninja"), "-C", str(folder), *targets)
    assert built.returncode == 0, built.stdout
    return folder / "tests" / "cpp"


@pytest.fixture(scope="module")
def aarch64(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(
        tmp_path_factory.mktemp("aarch64"),
        ("kernels_test_neon", "group_test_address_undefined", "supports"),
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={tool(CROSS + 'g++')}",
    )


@pytest.fixture(scope="module")
def x86(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # qemu fills all memory with AddressSanitizer's shadow of an x86-64.
    return build(
        tmp_path_factory.mktemp("x86"),
        ("kernels_test_generic", "kernels_test_v3"),
        "-DCOMPFAST_KERNELS_SANITIZERS=undefined",
    )


def on_aarch64(*command: str) -> subprocess.CompletedProcess[str]:
    return run(tool("qemu-aarch64"), "-L", LIBRARIES, *command)


def on_x86(cpu: str, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(tool("qemu-x86_64"), "-cpu", cpu, *command, **environment)


def test_neon_kernels(aarch64: Path) -> None:
    tested = on_aarch64(str(aarch64 / "kernels_test_neon"))
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert tested.stdout == "4 lanes: 0 failures\n"


def test_the_worker_pool_on_aarch64(aarch64: Path) -> None:
    tested = on_aarch64(str(aarch64 / "group_test_address_undefined"))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_aarch64_holds_neon_and_nothing_else(aarch64: Path) -> None:
    assert on_aarch64(str(aarch64 / "supports"), "neon").returncode == 0
    refused = on_aarch64(str(aarch64 / "supports"), "generic")
    assert refused.returncode == 77
    assert refused.stdout.endswith(
        "COMPFAST_ISA is 'generic'; this machine and build can run neon\n"
    )


def test_a_neon_object_exports_one_symbol(tmp_path: Path) -> None:
    ((name, width, flags),) = (entry for entry in CMAKE_FLAGS if entry[0] == "neon")
    found = exported_symbols(tool(CROSS + "g++"), tool(CROSS + "nm"), name, width, flags, tmp_path)
    assert found == ["compfast_kernels_neon"]


def test_generic_kernels_on_an_old_cpu(x86: Path) -> None:
    tested = on_x86(OLD_CPU, str(x86 / "kernels_test_generic"))
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert tested.stdout == "4 lanes: 0 failures\n"


def test_an_old_cpu_cannot_run_v3_code(x86: Path) -> None:
    """Otherwise the tests beside this one would say nothing."""
    program = str(x86 / "kernels_test_v3")
    assert on_x86(V3_CPU, program).stdout == "8 lanes: 0 failures\n"
    assert on_x86(OLD_CPU, program).returncode == -signal.SIGILL


def test_training_on_an_old_cpu(native_extension: None) -> None:
    """`auto` takes the generic code, and its bits are those it has here."""
    program = (sys.executable, str(ROOT / "tests" / "one_step.py"))
    old = on_x86(OLD_CPU, *program, COMPFAST_ISA="")
    assert old.returncode == 0, old.stderr
    chosen, digests = old.stdout.splitlines()
    assert chosen == "generic of generic"
    assert run(*program, COMPFAST_ISA="generic").stdout.splitlines()[1] == digests


def test_an_old_cpu_refuses_what_it_cannot_run(native_extension: None) -> None:
    doctor = (sys.executable, "-m", "compfast.doctor")
    old = on_x86(OLD_CPU, *doctor, COMPFAST_ISA="v4", PYTHONPATH=str(ROOT))
    assert old.returncode == 1, old.stderr
    assert old.stderr == ""
    problems = old.stdout.split("\nproblems\n")[1].splitlines()
    assert "  COMPFAST_ISA is 'v4'; this machine and build can run generic" in problems


@pytest.fixture(scope="module")
def clang(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(
        tmp_path_factory.mktemp("clang"),
        tuple(f"kernels_test_{isa}" for isa in isas("supported")),
        f"-DCMAKE_CXX_COMPILER={tool('clang++')}",
    )


@pytest.mark.parametrize("isa", isas("supported"))
def test_kernels_built_by_clang(clang: Path, isa: str) -> None:
    tested = run(str(clang / f"kernels_test_{isa}"))
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert tested.stdout.endswith(" lanes: 0 failures\n")


@pytest.mark.parametrize("isa", isas("supported"))
def test_an_object_of_clang_exports_one_symbol(isa: str, tmp_path: Path) -> None:
    ((name, width, flags),) = (entry for entry in CMAKE_FLAGS if entry[0] == isa)
    found = exported_symbols(tool("clang++"), tool("nm"), name, width, flags, tmp_path)
    assert found == [f"compfast_kernels_{isa}"]
