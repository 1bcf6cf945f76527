"""Paths as a user gives them."""

from __future__ import annotations

import os
from pathlib import Path

from compfast.errors import UsageError


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path that a user gave: absolute from now on, `~` is the home folder.

    Raises UsageError for what is no path, and for the home of nobody.
    """
    if not isinstance(path, (str, os.PathLike)) or isinstance(path := os.fspath(path), bytes):
        raise UsageError(f"the path is {path!r}; it must be text or a path")
    try:
        return Path(path).expanduser().absolute()
    except (RuntimeError, OSError) as error:  # no such user; the working folder is gone
        raise UsageError(f"the path {path!r} leads nowhere: {error}") from None
