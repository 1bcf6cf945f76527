"""The name of the CPU, as a run and a report give it."""

from __future__ import annotations

import platform
import re
from pathlib import Path

_FEATURES = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_bf16")


def processor() -> tuple[str, tuple[str, ...]]:
    """Name of the CPU and those of its features that kernels care about."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or "unknown", ()
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    features = tuple(f for f in (*_FEATURES, "asimd", "sve") if f in known)
    return (name[1].strip() if name else platform.machine()), features
