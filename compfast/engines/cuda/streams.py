"""Where the kernel's batches come from: the anchor task's records, or a buffer of the host's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from compfast.engines.cuda.driver import Driver, copied
from compfast.engines.host_batches import HostBatches, Record

_SIZES = ("item_low", "item_count", "words", "group_size")


class Stream(Protocol):
    """Batches for one launch after the other."""

    def record(self) -> Mapping[str, Any]:
        """`stream` of `_cuda.train`; its addresses live as long as this."""


class AnchorStream:
    """The kernel draws; `stream` is AnchorTask's."""

    def __init__(self, driver: Driver, stream: Mapping[str, Any]) -> None:
        self._tables = {n: copied(driver, stream[n], torch.int32) for n in ("pairs", "combos")}
        self._sizes = {name: int(stream[name]) for name in _SIZES}
        self._sizes |= {f"{n[:-1]}_count": len(stream[n]) for n in self._tables}

    def record(self) -> Mapping[str, Any]:
        tables = {name: tensor.data_ptr() for name, tensor in self._tables.items()}
        return {"kind": "anchor", **tables, **self._sizes}


class HostStream:
    """The host draws; the device holds one buffer of it.

    Raises MemoryError where it has no room.
    """

    def __init__(self, driver: Driver, batches: HostBatches, length: int) -> None:
        self._tokens = driver.zeros((batches.sequences, length), torch.int32)
        self._targets = driver.zeros((batches.sequences,), torch.int32)
        self._first, self._steps = 0, 1  # zeros, for a launch in which nobody moves

    def feed(self, record: Record) -> None:
        """The record of HostBatches: [slots, steps, batch, ..]. No launch may be under way."""
        self._first, self._steps = record["first"], record["inputs"].shape[1]
        for held, name in ((self._tokens, "inputs"), (self._targets, "targets")):
            drawn = torch.from_numpy(record[name]).reshape(-1, *held.shape[1:])
            held[: len(drawn)].copy_(drawn)

    def record(self) -> Mapping[str, Any]:
        return {
            "kind": "host",
            "tokens": self._tokens.data_ptr(),
            "targets": self._targets.data_ptr(),
            "first": self._first,
            "steps": self._steps,
        }
