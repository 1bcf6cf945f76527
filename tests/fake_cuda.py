"""A GPU for the cuda engine that is none: memory of the host, and the step built for the host.

Each launch is held against what csrc/cuda/persistent.cu will do with it: every address belongs to
a tensor that lives, has the right type and holds the rows that are read and written; all rows are
the same members'; nothing overlaps; no member stands before the window. As on a GPU a launch
happens later: at `synchronise`, after which every guard byte must be as it was.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import sys
import types
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cuda_host
import numpy as np
import pytest
import torch

import compfast
from compfast.engines.cuda import driver as drivers
from compfast.engines.decays import DECAYS

GUARD = 64  # bytes before and after each tensor
FILL = 0xA5
ROWS = {
    **dict.fromkeys(("params", "exp_avg", "exp_avg_sq", "gradient"), torch.float32),
    **dict.fromkeys(("tokens", "targets"), torch.int32),
    "seeds": torch.int64,
    "slots": torch.int32,
    **dict.fromkeys(("lr", "clip", "weight_decay"), torch.float64),
    "step": torch.int64,
    "status": torch.uint8,
    **dict.fromkeys(("loss", "grad_norm"), torch.float32),
}
TABLES = ("scale", "offset", "correction1", "correction2", "decay")
STREAM = ("pair_count", "combo_count", "item_low", "item_count", "words", "group_size")
STREAMS = {
    "anchor": (("pairs", "combos"), STREAM),
    "host": (("tokens", "targets"), ("first", "steps")),
}
OPTIONS = ("beta1", "beta2", "eps", "momentum")
FORM = ("kind", "nesterov")


@dataclass
class Piece:
    """Memory that the engine asked for, with guards around it."""

    raw: np.ndarray[Any, np.dtype[np.uint8]]
    start: int  # address of the tensor
    bytes: int
    dtype: torch.dtype
    tensor: weakref.ref[torch.Tensor]

    def guarded(self) -> bool:
        first = self.start - self.raw.ctypes.data
        return bool(
            (self.raw[:first] == FILL).all() and (self.raw[first + self.bytes :] == FILL).all()
        )


@dataclass
class Launch:
    """Arguments of one call of `train`."""

    network: int
    stream: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    batch: int
    epsilon: float
    members: Mapping[str, Any]
    count: int
    base: int
    until: int


class FakeDriver:
    """See compfast/engines/cuda/driver.py; `launches` are all that were made."""

    isa = "host"

    def __init__(self) -> None:
        self._shapes = [cuda_host.shape(i) for i in range(len(cuda_host.NETWORKS))]
        self.pieces: list[Piece] = []
        self.launches: list[Launch] = []
        self.waiting: list[Launch] = []

    def shapes(self) -> list[dict[str, Any]]:
        return self._shapes

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        size = math.prod(shape) * dtype.itemsize
        raw = np.full(size + 4 * GUARD, FILL, np.uint8)
        first = GUARD + -raw.ctypes.data % GUARD
        own = torch.from_numpy(raw)[first : first + size]
        tensor = own.zero_().view(dtype).view(shape)
        start = tensor.data_ptr()
        self.pieces = [piece for piece in self.pieces if piece.tensor() is not None]
        self.pieces.append(Piece(raw, start, size, dtype, weakref.ref(tensor)))
        return tensor

    def train(self, *arguments: Any) -> None:
        launch = Launch(*arguments)
        self._check(launch)
        self.launches.append(launch)
        self.waiting.append(launch)

    def synchronise(self) -> None:
        for launch in self.waiting:
            self._check(launch)  # what was freed meanwhile is no longer there
            _run(launch)
        self.waiting = []
        assert all(piece.guarded() for piece in self.pieces), "a launch wrote beside its tensors"

    def _check(self, launch: Launch) -> None:
        assert launch.network in range(len(self._shapes))
        shape, count, batch = self._shapes[launch.network], launch.count, launch.batch
        steps = launch.until - launch.base
        assert all(type(n) is int for n in (batch, count, launch.base, launch.until))
        assert count >= 1
        assert batch >= 1
        assert 0 <= launch.base < launch.until
        kind = launch.stream["kind"]
        tables, numbers = STREAMS[kind]
        assert launch.stream.keys() == {"kind", *tables, *numbers}
        assert launch.optimizer.keys() == {*TABLES, "decay_columns", *OPTIONS, *FORM}
        assert launch.members.keys() == ROWS.keys()
        assert all(type(launch.stream[name]) is int for name in numbers)
        assert all(type(launch.optimizer[name]) is float for name in OPTIONS)
        assert all(launch.optimizer[name] in (0, 1) for name in FORM)
        columns, floats = launch.optimizer["decay_columns"], shape["flat_size"]
        if kind == "host":
            drawn = self._drawn(launch)
            taken_sizes = (drawn * batch * shape["positions"], drawn * batch)
        else:
            taken_sizes = 3 * launch.stream["pair_count"], 2 * launch.stream["combo_count"]
        taken = [
            *(
                self._find(name, launch.stream[name], torch.int32, size)
                for name, size in zip(tables, taken_sizes, strict=True)
            ),
            *(self._find(n, launch.optimizer[n], torch.float64, launch.until) for n in TABLES),
            self._find("decay_columns", columns, torch.uint8, floats),
        ]
        assert (_at(columns, floats, np.uint8) < DECAYS).all(), "a decay has no column"
        width = {
            **dict.fromkeys(("params", "exp_avg", "exp_avg_sq", "gradient"), floats),
            "weight_decay": DECAYS,
            "tokens": batch * shape["positions"],
            "targets": batch,
            **dict.fromkeys(("loss", "grad_norm"), steps),
        }
        assert launch.members["params"] % 16 == 0, "params is not aligned"  # read by fours
        first_rows = set()
        for name, dtype in ROWS.items():
            each, address = width.get(name, 1), launch.members[name]
            taken.append(self._find(name, address, dtype, count * each))
            if name not in ("loss", "grad_norm"):
                row, rest = divmod(address - self._piece(address).start, each * dtype.itemsize)
                assert rest == 0, f"{name} does not begin with a row"
                first_rows.add(row)
        assert len(first_rows) == 1, f"rows begin at different members: {first_rows}"
        taken.sort()
        for (_, end), (start, _) in itertools.pairwise(taken):
            assert end <= start, "two arguments overlap"
        step, status = (
            _at(launch.members[name], count, dtype)
            for name, dtype in (("step", np.int64), ("status", np.uint8))
        )
        running = (status == 0) & (step < launch.until)
        assert (step[running] >= launch.base).all(), "a member stands before the window"
        gradient = _at(launch.members["gradient"], count * floats, np.float32)
        assert not gradient.any(), "a launch begins with a gradient"

    def _drawn(self, launch: Launch) -> int:
        """Batches of the host's buffer: of each slot that a member has, all its steps."""
        first, steps = launch.stream["first"], launch.stream["steps"]
        assert first <= launch.base, "the window begins before the buffer"
        assert launch.until <= first + steps, "the window ends after the buffer"
        slots = _at(launch.members["slots"], launch.count, np.int32)
        assert slots.min() >= 0, "a slot before the buffer"
        return int((slots.max() + 1) * steps)

    def _find(self, name: str, address: int, dtype: torch.dtype, size: int) -> tuple[int, int]:
        """From where to where the argument reaches, in a living tensor that holds it."""
        assert type(address) is int
        piece = self._piece(address)
        tensor = piece.tensor()
        assert tensor is not None, f"{name} has been freed"
        assert tensor.is_contiguous()
        assert piece.dtype == dtype, f"{name} is {piece.dtype}"
        assert address % dtype.itemsize == 0, f"{name} is not aligned"
        end = address + size * dtype.itemsize
        assert end <= piece.start + piece.bytes, f"{name} is too short"
        return address, end

    def _piece(self, address: int) -> Piece:
        found = [p for p in self.pieces if p.start <= address < p.start + p.bytes]
        assert len(found) == 1, f"{address:#x} is in no tensor of the device"
        return found[0]


def _at(address: int, count: int, dtype: Any) -> np.ndarray[Any, Any]:
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype)


def _run(launch: Launch) -> None:
    stream, optimizer = launch.stream, launch.optimizer
    lines = (optimizer[name] for name in (*TABLES, "decay_columns"))
    drawn = (stream.get(name) for name in ("tokens", "targets"))  # None: null
    shared = [stream.get("pairs"), stream.get("combos"), *lines, *drawn]
    sizes = [*(stream.get(name, 0) for name in STREAM), launch.batch, launch.count]
    window = (launch.base, launch.until, *(optimizer[name] for name in FORM))
    buffer = (stream.get(name, 0) for name in ("first", "steps"))
    reals = [*(optimizer[name] for name in OPTIONS), launch.epsilon]
    cuda_host.library().cuda_launch(
        launch.network,
        (ctypes.c_void_p * len(shared))(*shared),
        (ctypes.c_int64 * 14)(*sizes, *window, *buffer),
        (ctypes.c_double * len(reals))(*reals),
        (ctypes.c_void_p * len(ROWS))(*(launch.members[name] for name in ROWS)),
    )


def install(patch: pytest.MonkeyPatch) -> list[FakeDriver]:
    """From now on this process has one GPU, the extension is built, and engine cuda uses this.

    Returns the drivers that will be opened, in order.
    """
    opened: list[FakeDriver] = []

    def open_driver() -> FakeDriver:
        opened.append(FakeDriver())
        return opened[-1]

    module = types.ModuleType("compfast._cuda")
    patch.setitem(sys.modules, "compfast._cuda", module)
    patch.setattr(compfast, "_cuda", module, raising=False)
    patch.setattr("compfast.engines.cuda_devices", lambda: 1)
    patch.setattr(drivers, "open_driver", open_driver)
    return opened
