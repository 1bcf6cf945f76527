"""Settings of a process that belong to its user: what they are now, and each set to another value.

A disturbance is a context manager that sets one of them in this thread or process and undoes it.
"""

from __future__ import annotations

import contextlib
import decimal
import gc
import locale
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch


def process_state() -> dict[str, Any]:
    """Everything that a library could leave changed behind, in values that compare."""
    others: dict[str, Any] = {}
    thread = threading.Thread(target=lambda: others.update(thread_state()))
    thread.start()
    thread.join()
    return {
        **thread_state(),
        **{f"{name} of a new thread": value for name, value in others.items()},
        "random": random.getstate(),
        "numpy.random": _plain(np.random.get_state()),  # noqa: NPY002
        "torch random": torch.random.get_rng_state().tolist(),
        "default dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision of products": torch.get_float32_matmul_precision(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "anomaly": torch.is_anomaly_enabled(),
        "interop threads": torch.get_num_interop_threads(),
        "print options": np.get_printoptions(),
        "torch prints": dict(vars(torch._tensor_str.PRINT_OPTS)),
        "warnings": list(warnings.filters),
        "shown by": warnings.showwarning,
        "rc": dict(matplotlib.rcParams),
        "backend": matplotlib.get_backend(auto_select=False),
        "locale": locale.setlocale(locale.LC_ALL),
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "path": list(sys.path),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "recursion": sys.getrecursionlimit(),
        "switches": sys.getswitchinterval(),
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.gettrace()),
        "garbage": (gc.isenabled(), gc.get_threshold()),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "files": sorted(_open_files()),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
    }


def thread_state() -> dict[str, Any]:
    """What of it belongs to the thread that calls."""
    return {
        "default device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "autocast cache": torch.is_autocast_cache_enabled(),
        "threads of torch": torch.get_num_threads(),
        "flushes": bool(np.float32(1e-39) * np.float32(0.5) == 0),
        "errors of numpy": np.geterr(),
        "decimal": str(decimal.getcontext()),
    }


def _plain(value: Any) -> Any:
    return [part.tolist() if isinstance(part, np.ndarray) else part for part in value]


def _open_files() -> Iterator[str]:
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(descriptor)
            # event loops, pipes and the like have numbers of their own
            if target.startswith("/") and "/proc/" not in target:
                yield target


@contextlib.contextmanager
def _set(setter: Callable[[Any], Any], value: Any, before: Any) -> Iterator[None]:
    setter(value)
    try:
        yield
    finally:
        setter(before)


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()  # noqa: NPY002
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.random.set_rng_state(before[2])


@contextlib.contextmanager
def _narrow_decimals() -> Iterator[None]:
    trapped = decimal.Context(
        prec=3,
        rounding=decimal.ROUND_UP,
        Emin=-9,
        Emax=9,
        clamp=1,
        traps=[decimal.Inexact, decimal.Rounded, decimal.Subnormal],
    )
    names = ("prec", "rounding", "Emin", "Emax", "clamp", "traps")
    default = {name: getattr(decimal.DefaultContext, name) for name in names}
    default["traps"] = dict(default["traps"])
    for name in names:  # what a context that is made without them takes
        setattr(decimal.DefaultContext, name, getattr(trapped, name))
    try:
        with decimal.localcontext(trapped):
            yield
    finally:
        for name, value in default.items():
            setattr(decimal.DefaultContext, name, value)


@contextlib.contextmanager
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextlib.contextmanager
def _numpy_raises() -> Iterator[None]:
    with np.errstate(all="raise"):
        yield


@contextlib.contextmanager
def _short_prints() -> Iterator[None]:
    with np.printoptions(precision=1, threshold=2, legacy="1.13"):
        yield


def _flushing() -> AbstractContextManager[None]:
    return _set(torch.set_flush_denormal, True, False)


def _bfloat16() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", dtype=torch.bfloat16)


DISTURBANCES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "default device meta": lambda: torch.device("meta"),
    "set_default_device": lambda: _set(torch.set_default_device, "meta", None),
    "default dtype float64": lambda: _set(
        torch.set_default_dtype, torch.float64, torch.get_default_dtype()
    ),
    "default dtype bfloat16": lambda: _set(
        torch.set_default_dtype, torch.bfloat16, torch.get_default_dtype()
    ),
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": _bfloat16,
    "threads of torch": lambda: _set(torch.set_num_threads, 3, torch.get_num_threads()),
    "deterministic algorithms": lambda: _set(torch.use_deterministic_algorithms, True, False),
    "flush_denormal": _flushing,
    "numpy errors raise": _numpy_raises,
    "numpy prints little": _short_prints,
    "seeds": _seeded,
    "decimal context": _narrow_decimals,
    "warnings are errors": _warnings_are_errors,
    "recursion limit": lambda: _set(sys.setrecursionlimit, 400, sys.getrecursionlimit()),
}
