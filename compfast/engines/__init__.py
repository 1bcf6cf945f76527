"""Engines: ways to train a group of members. An explicit request never falls back.

Importing this package or making the native engine never imports torch.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from importlib import util

from compfast.config import MemberSpec
from compfast.engines.base import Engine
from compfast.ensembles.schedule import Tables
from compfast.errors import UsageError

ENGINES = ("eager", "native", "triton", "cuda")
DEVICES = ("auto", "cpu", "cuda")

__all__ = ["DEVICES", "ENGINES", "Engine", "cuda_devices", "make_engine", "resolve_engine"]


def make_engine(
    name: str,
    specs: Sequence[MemberSpec],
    tables: Tables,
    *,
    device: str = "auto",
    threads: int | None = None,
) -> Engine:
    """The engine that `resolve_engine` takes, for one group; `threads` None: one a core
    that this process may use (engines/cores.py).

    Raises UsageError as `resolve_engine` does, for mixed groups, for threads below 1 and for a
    precision or a network that the engine does not have.
    """
    chosen = resolve_engine(name, device)
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; it must be at least 1")
    if chosen == "cuda":
        from compfast.engines.cuda import CudaEngine

        return CudaEngine(specs, tables, threads=threads)
    if chosen != "triton" and any(spec.training.precision == "tf32" for spec in specs):
        raise UsageError(f"precision tf32 needs engine triton; engine {chosen} has fp32 and bf16")
    if chosen == "native":
        from compfast.engines.native import NativeEngine

        return NativeEngine(specs, tables, threads=threads)
    if chosen == "triton":
        from compfast.engines.triton import TritonEngine

        return TritonEngine(specs, tables, threads=threads)
    from compfast.engines.eager import EagerEngine

    return EagerEngine(specs, tables, threads=threads)


def resolve_engine(name: str, device: str = "auto") -> str:
    """The engine that `name` means on this machine: one of ENGINES.

    "auto" is native on a CPU, and for now beside a GPU too unless device is "cuda": then it is
    triton; "cuda", which trains one network only, has to be asked for. With TRITON_INTERPRET=1
    "triton" runs on the CPU. Raises UsageError for an unknown name or device and for what is not
    there.
    """
    if name not in ("auto", *ENGINES):
        raise UsageError(f"engine is {name!r}; it must be one of auto, {', '.join(ENGINES)}")
    if device not in DEVICES:
        raise UsageError(f"device is {device!r}; it must be one of {', '.join(DEVICES)}")
    if name == "cuda":
        _require_device(name, device)
        _require_cuda_extension()
        _require_native()  # it gives the answers
        return name
    if name == "triton" or device == "cuda":
        _require_triton(name, device)
        return "triton"
    if name == "eager":
        return name
    _require_native()
    return "native"


def cuda_devices() -> int:
    """CUDA devices that the driver shows, 0 without a driver; does not import torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _require_triton(name: str, device: str) -> None:
    asked = "engine triton" if name == "triton" else "device cuda"
    if name in ("eager", "native"):
        raise UsageError(f"engine {name} runs on the CPU, but device {device} was asked for")
    interpreted = os.environ.get("TRITON_INTERPRET") == "1" and device != "cuda"
    if not interpreted:
        _require_device(name, device)
    if util.find_spec("triton") is None:
        raise UsageError(f"{asked} was asked for, but triton is not installed: pip install triton")


def _require_device(name: str, device: str) -> None:
    if device == "cpu":
        raise UsageError(f"engine {name} needs a CUDA device, but device cpu was asked for")
    if not cuda_devices():
        asked = "device cuda" if name == "auto" else f"engine {name}"
        raise UsageError(f"{asked} was asked for, but this machine has no CUDA device")


def _require_cuda_extension() -> None:
    try:
        from compfast import _cuda  # noqa: F401  (only its presence matters)
    except ImportError as error:
        raise UsageError(
            f"the cuda engine is not built ({error}); run pip install -e . where nvcc is on PATH,"
            " or ask for engine triton"
        ) from None


def _require_native() -> None:
    try:
        from compfast import _native  # noqa: F401  (only its presence matters)
    except ImportError as error:
        raise UsageError(
            "the native engine is not built"
            f" ({error}); run pip install -e . with a C++17 compiler, or ask for engine eager"
        ) from None
