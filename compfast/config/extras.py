"""Packages that only some uses need, found when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from compfast.errors import UsageError


def needed(module: str, who: str, package: str | None = None) -> Any:
    """The module of a package that need not be installed; UsageError with the pip line without it.

    `who` is what the sentence says needs it; `package` is its name for pip where that is not the
    module's.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = package or module.partition(".")[0]
        inner = error.name and error.name.partition(".")[0] != module.partition(".")[0]
        what = f"cannot be imported ({error})" if inner else "is not installed"
        raise UsageError(
            f"{who} needs the package {top}, which {what}: pip install {top}"
        ) from None
