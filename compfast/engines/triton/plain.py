"""An op of softmax attention and nothing else in a program: its launches, and the room it wants.

As mixed.py's: `sums` is what forward leaves for backward, where attention is tiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from compfast.engines.triton import attention, attention_tiled
from compfast.engines.triton.launch import Launch, Rows
from compfast.models.plan import Op


class PlainOp:
    """One op's launches; `room`: makes a buffer like its output, of so many columns."""

    def __init__(self, op: Op, room: Callable[[int], Rows], length: int, precision: str) -> None:
        self._how: dict[str, Any] = {name: op.attributes[name] for name in ("heads", "causal")}
        self._how["precision"] = precision
        long = length > attention.ON_CHIP[precision]
        self._rows = room(op.attributes["heads"]) if long else None
        self._o: Rows | None = None

    @property
    def sums(self) -> dict[str, torch.Tensor | None]:
        return {"rows": None if self._rows is None else self._rows.tensor}

    def forward(self, q: Rows, k: Rows, v: Rows, o: Rows, live: torch.Tensor) -> Launch:
        self._o = o
        if self._rows is None:
            return attention.forward(q, k, v, o, live, **self._how)
        return attention_tiled.forward(q, k, v, o, self._rows, live, **self._how)

    def backward(
        self,
        do: Rows,
        inputs: tuple[Rows, Rows, Rows],
        gradients: tuple[Rows, Rows, Rows],
        d_params: torch.Tensor,
        live: torch.Tensor,
    ) -> Iterator[Launch]:
        """Of q, k and v; it has no weights of its own."""
        if self._rows is None:
            yield attention.backward(do, *inputs, *gradients, live, **self._how)
            return
        assert self._o is not None, "backward comes after forward"
        tiled = do, self._o, self._rows, *inputs, *gradients, live
        yield from attention_tiled.backward(*tiled, **self._how)
