"""Fixtures that every test may use."""

from __future__ import annotations

import os

import pytest

# These need kernels interpreted, which triton decides at import; tests/test_triton.py runs them.
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]

ENGINES = ("eager", "native")


@pytest.fixture(scope="session")
def native_extension() -> None:
    """Fails, never skips: without the extension half of what is promised would go untested."""
    try:
        from compfast import _native  # noqa: F401  (only its presence matters)
    except ImportError as error:
        pytest.fail(f"compfast._native is not built, run pip install -e . first ({error})")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The name of each engine in turn."""
    name: str = request.param
    if name == "native":
        request.getfixturevalue("native_extension")
    return name
