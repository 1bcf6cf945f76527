"""Ways to train the same members, each as its own users would write it; one peer a file.

Importing this package imports no framework: a worker process loads only what its peer needs.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compfast.errors import UsageError

if TYPE_CHECKING:
    from benchmarks.peers.base import Peer
    from benchmarks.problem import Problem


@dataclass(frozen=True, slots=True)
class Entry:
    """A peer by name; `variants` are ways to write it, the fastest of which is timed."""

    title: str
    module: str
    variants: tuple[str, ...]
    packages: tuple[str, ...]  # their versions go into the row
    tolerance: float = 1e-3  # of a loss near 5, over the gate's 20 updates


PEERS = {
    "native": Entry("compfast native fp32", "native", ("fp32",), ("compfast", "numpy")),
    "native-bf16": Entry(
        "compfast native bf16", "native", ("bf16",), ("compfast", "numpy"), tolerance=0.02
    ),
    "eager": Entry("eager nn.Module loop", "eager", ("fused AdamW", "foreach AdamW"), ("torch",)),
    "eager-last": Entry(
        "eager loop, last position only",
        "eager_last",
        ("fused AdamW", "foreach AdamW"),
        ("torch",),
    ),
    "vmap": Entry("torch.func vmap", "vmap", ("matmul attention", "SDPA"), ("torch",)),
    "stacked": Entry("stacked baddbmm (HFTA)", "stacked", ("SDPA", "bmm attention"), ("torch",)),
    "compiled": Entry(
        "stacked baddbmm, torch.compile",
        "compiled",
        ("SDPA", "bmm attention"),
        ("torch",),
    ),
    "jax": Entry(
        "JAX jit(vmap), optax",
        "jax_vmap",
        (
            "all members, gather",
            "all members, one-hot",
            "one by one, gather",
            "one by one, one-hot",
        ),
        ("jax", "jaxlib", "optax"),
    ),
}


def make_peer(name: str, problem: Problem, variant: str) -> Peer:
    """The peer `name` at compfast's initial weights; raises UsageError for what is unknown."""
    if name not in PEERS:
        raise UsageError(f"peer is {name!r}; it must be one of {', '.join(PEERS)}")
    entry = PEERS[name]
    if variant not in entry.variants:
        raise UsageError(f"{name} variant is {variant!r}; it must be one of {entry.variants}")
    module = importlib.import_module(f"benchmarks.peers.{entry.module}")
    peer: Peer = module.make(problem, variant)
    return peer
