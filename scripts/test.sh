#!/usr/bin/env bash
# Every check, on a fresh machine too: sets up .venv, then lint, types, the manual, the C++ code
# under sanitizers and pytest. The first check that fails ends it.
set -euo pipefail
cd "$(dirname "$0")/.."

# What is compiled for one process serves the next ones: tests start some hundred.
unset PYTHONDONTWRITEBYTECODE

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

step "environment: .venv"
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
# shellcheck disable=SC1091
. .venv/bin/activate
# torch by itself and first: what is installed satisfies the package, which then takes no other.
# Python compiles what is imported, not all that lies there.
pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0
pip install --quiet --no-compile --disable-pip-version-check --editable '.[test]'

step "lint"
ruff check .
ruff format --check .
clang-format --dry-run -Werror csrc/*.h csrc/*.cpp csrc/cuda/* csrc/tasks/* tests/cpp/*.cpp

step "types"
MYPY_NUM_WORKERS=2 mypy compfast tests # an older mypy takes one all the same

step "manual: warnings are errors, internal links are checked, examples are run"
python -m sphinx -W -q docs build/docs
python -m sphinx -W -q -b doctest -d build/docs/.doctrees docs build/doctest

step "C++ under AddressSanitizer, UBSan and ThreadSanitizer"
mkdir -p build
# The least and the widest instruction set of this machine: the same source, by two widths.
isas=$(python -c 'from compfast import _native as n; i = n.supported_isas(); print(*dict.fromkeys([i[0], i[-1]]), sep=";")')
cmake -S . -B build/checks -GNinja -DCOMPFAST_SANITIZE=ON -DCOMPFAST_TESTS=ON -DCOMPFAST_ISAS="$isas" \
  -DPython_EXECUTABLE="$(command -v python)" -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" \
  >build/checks.log || { cat build/checks.log; exit 1; }
ninja -C build/checks --quiet
ctest --test-dir build/checks --output-on-failure --timeout 120
compiler=${CXX:-c++}
sanitized() {
  LD_PRELOAD="$($compiler -print-file-name=libasan.so) $($compiler -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc python "$@"
}
stepping=()
for isa in ${isas//;/ }; do
  sanitized tests/cpp/sanitized_step.py build/checks/_native*.so "$isa" &
  stepping+=($!)
done
sanitized tests/cpp/fuzzed_bindings.py build/checks/_native*.so
for process in "${stepping[@]}"; do wait "$process"; done

step "pytest"
# One more than there are cores: many tests wait for a process of theirs.
python -m pytest --numprocesses "$(python -c 'import os; print(min(8, 1 + len(os.sched_getaffinity(0))))')" \
  --dist worksteal "$@"
