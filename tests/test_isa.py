"""Every compiled instruction set that this machine runs: right, repeatable, and kept apart."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import test_engines
from ensembles import group, mixed, start

from compfast.errors import UsageError

pytestmark = pytest.mark.usefixtures("native_extension")

ROOT = Path(__file__).parent.parent
CMAKE_FLAGS = re.findall(
    r"set\(COMPFAST_FLAGS_(\w+) (\d+)([^)]*)\)", (ROOT / "CMakeLists.txt").read_text()
)


def isas(which: str) -> list[str]:
    """What `_native` says it holds or can run; empty where it is not built."""
    try:
        from compfast import _native
    except ImportError:
        return []
    found: list[str] = getattr(_native, f"{which}_isas")()
    return found


@pytest.fixture(params=isas("supported"))
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each supported instruction set in turn, forced."""
    name: str = request.param
    monkeypatch.setenv("COMPFAST_ISA", name)
    return name


def test_this_machine_runs_at_least_the_weakest() -> None:
    assert isas("supported")[0] in ("generic", "neon")
    assert isas("supported")[0] == isas("compiled")[0]
    assert set(isas("supported")) <= set(isas("compiled"))


def test_the_strongest_is_taken_unless_one_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMPFAST_ISA", raising=False)
    assert start("native", group("one_layer")).isa == isas("supported")[-1]


def test_the_forced_one_is_taken(isa: str) -> None:
    assert start("native", group("one_layer")).isa == isa


@pytest.mark.parametrize("name", ["own_head_sizes", "tied_all_post", "long_heads_all", "no_biases"])
def test_forward_and_every_gradient(isa: str, name: str) -> None:
    test_engines.test_forward_and_every_gradient("native", name)


@pytest.mark.parametrize("case", ["paper", "large_eps_and_betas"])
def test_ten_steps(isa: str, case: str) -> None:
    test_engines.test_ten_steps("native", case)


def digest() -> str:
    """Of everything that a few members of awkward shapes are after five steps."""
    found = hashlib.sha256()
    for name in ("own_head_sizes", "four_layers_post", "tied_all_post", "long"):
        made = start("native", mixed(group(name, batch_size=11)))
        result, state = made.advance(5), made.state()
        for array in (result.loss, result.grad_norm):
            found.update(array.tobytes())
        for named in (state.params, state.exp_avg, state.exp_avg_sq):
            for tensor in sorted(named):
                found.update(named[tensor].tobytes())
    return found.hexdigest()


def digests() -> list[str]:
    """One digest an instruction set."""
    found = []
    for name in isas("supported"):
        os.environ["COMPFAST_ISA"] = name
        found.append(digest())
    return found


def test_the_same_bits_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPFAST_ISA", "")
    elsewhere = subprocess.run(
        [sys.executable, "-c", "import test_isa; print(*test_isa.digests())"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert elsewhere.stdout.split() == digests() == digests()


def test_another_name_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPFAST_ISA", "v9")
    with pytest.raises(UsageError) as refused:
        start("native", group("one_layer"))
    sentence = str(refused.value)
    assert "COMPFAST_ISA is 'v9'" in sentence
    assert sentence.endswith("can run " + ", ".join(isas("supported")))


def test_what_is_compiled_is_what_the_build_lists() -> None:
    assert set(isas("compiled")) <= {isa for isa, _, _ in CMAKE_FLAGS}


def exported_symbols(
    compiler: str, nm: str, name: str, width: str, flags: str, folder: Path
) -> list[str]:
    """Of the kernels' object of one instruction set, weak symbols included.

    Compiled without optimisation nothing is inlined away, so that a function outside the
    anonymous namespace shows whatever the compiler would make of it later.
    """
    target = folder / "kernels.o"
    defines = [f"-DCOMPFAST_ISA={name}", f"-DCOMPFAST_WIDTH={width}"]
    options = ["-O0", "-std=gnu++17", "-fPIC", "-ffp-contract=off", *flags.split()]
    source = str(ROOT / "csrc" / "kernels.cpp")
    compiled = subprocess.run(
        [compiler, *options, *defines, "-c", source, "-o", str(target)],
        capture_output=True,
        text=True,
    )
    assert compiled.returncode == 0, compiled.stderr
    listed = subprocess.run(
        [nm, "--defined-only", "--extern-only", str(target)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split()[-1] for line in listed.stdout.splitlines()]


@pytest.mark.parametrize(("name", "width", "flags"), CMAKE_FLAGS)
def test_a_kernels_object_exports_one_symbol(
    name: str, width: str, flags: str, tmp_path: Path
) -> None:
    """A weak symbol could be taken by the linker for code that a lesser machine runs."""
    compiler, nm = shutil.which(os.environ.get("CXX", "c++")), shutil.which("nm")
    if compiler is None or nm is None:
        pytest.skip("no compiler or no nm")
    if name not in isas("compiled"):
        pytest.skip("for another kind of machine")
    found = exported_symbols(compiler, nm, name, width, flags, tmp_path)
    assert found == [f"compfast_kernels_{name}"]
