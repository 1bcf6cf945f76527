"""What a figure must say beside it: versions, commit, CPU, peak, and the BLAS that ran."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import sys
from importlib import metadata

from benchmarks.fleet import ROOT, UNSET, environment
from compfast.engines.processor import processor


def versions(packages: tuple[str, ...]) -> str:
    """`python 3.11.7, torch 2.13.0`; a package without metadata is named alone."""
    parts = [f"python {platform.python_version()}"]
    for name in packages:
        try:
            parts.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            parts.append(name)
    return ", ".join(parts)


def commit() -> str:
    """Short hash of the working tree, `+` after it when files differ; `unknown` without git.

    COMPFAST_COMMIT says it for a copy that has no repository.
    """
    if given := os.environ.get("COMPFAST_COMMIT"):
        return given
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def cpu() -> str:
    name, features = processor()
    return f"{name} ({' '.join(features)})"


def mkl() -> str | None:
    """MKL's own words on version and the code path it took here; None where torch has no MKL."""
    program = "import torch; torch.ones(64, 64) @ torch.ones(64, 64)"
    variables = environment(1) | {"MKL_VERBOSE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=False
    )
    found = re.search(r"oneMKL (.+?) Product build.* for (.+?), (?:Lnx|Win|OSX)", done.stdout)
    return f"oneMKL {found[1]}, code path: {found[2]}" if found else None


def unset_variables() -> str:
    """Which of the variables that spoil OpenBLAS were exported, and left out of all processes."""
    found = [f"{name}={os.environ[name]}" for name in UNSET if name in os.environ]
    return ", ".join(found)


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
