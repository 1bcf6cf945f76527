"""Threads in which PyTorch computes as it does by itself, whatever the caller has set.

Gradient and inference mode, autocast, default device, function modes, NumPy's error handling and
the number of intra-op threads belong to a thread; one that starts has none of the caller's. So
what must not hang on them is computed aside, and nothing of the caller's is touched. What belongs
to the whole process (default dtype, precision of products) is never changed, not even for a
moment: tensors name their type, and products that are not exact are refused.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from compfast.errors import UsageError

T = TypeVar("T")

_SIDE = 64  # of the products that are tried; small ones are exact under any setting
_SETTING = threading.Lock()


def clean_threads(count: int) -> concurrent.futures.ThreadPoolExecutor:
    """At most `count` such threads, each computing by itself; use as a context manager."""
    return concurrent.futures.ThreadPoolExecutor(count, "compfast", initializer=_begin)


def aside(work: Callable[[], T]) -> T:
    """What `work` gives in such a thread; raises as it does, and as `require_exact_products`."""
    with clean_threads(1) as pool:
        pool.submit(require_exact_products).result()
        return pool.submit(work).result()


def require_exact_products(
    whose: str = "the eager engine", instead: str = " or use engine native"
) -> None:
    """Raise UsageError where this process multiplies float32 matrices with rounded operands.

    It says that `whose` results need others, and what to do `instead`.
    torch.set_float32_matmul_precision("medium") has that effect on some CPUs; each user's own
    threads would see it changed, so it is not.
    """
    one = torch.eye(_SIDE, dtype=torch.float32, device="cpu")
    x = torch.full_like(one, 1 + 2**-12)  # 1 in bfloat16 and in tf32
    if not torch.equal(x @ one, x):
        raise UsageError(
            f"PyTorch is set to round the operands of float32 products, and {whose} needs"
            f" exact ones; call torch.set_float32_matmul_precision('highest'){instead}"
        )


def _begin() -> None:
    """One intra-op thread, subnormal numbers, NumPy's own error handling: in this thread only."""
    torch.set_flush_denormal(False)  # a new thread inherits it
    np.seterr(divide="warn", over="warn", under="ignore", invalid="warn")
    with _SETTING:
        others = torch.get_num_threads()  # what every thread that starts now gets
        if others > 1:
            _compute_alone(others)


def _compute_alone(others: int) -> None:
    # set_num_threads counts for its thread and for those that start later: another thread, which
    # must be there before anything is changed, gives the latter back what they had.
    changed = threading.Event()

    def give_back() -> None:
        changed.wait()
        torch.set_num_threads(others)

    keeper = threading.Thread(target=give_back)
    keeper.start()
    try:
        torch.set_num_threads(1)
    finally:
        changed.set()
        keeper.join()
