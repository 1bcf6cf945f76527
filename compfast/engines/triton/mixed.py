"""An op of generalised attention in a program: its launches, and the room they want."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from compfast.engines.flat import FlatLayout
from compfast.engines.triton import mixed_attention, mixed_backward, mixed_sums
from compfast.engines.triton.launch import Launch, Rows
from compfast.models.plan import Op, Plan
from compfast.models.relative import distance_buckets

# Softmax attention and nothing else, as these kernels want it said.
_PLAIN: dict[str, Any] = {
    "scores": "softmax",
    "path": "none",
    "relative": False,
    "deep": False,
    "buckets": 0,
    "dropout": 0.0,
    "layer": 0,
    "epsilon": 1.0,
}


def generalised(plan: Plan) -> Plan:
    """With softmax attention of a few last rows as generalised attention: attention.py has all of
    them or one.
    """
    rows = {buffer.name: buffer.rows for buffer in plan.buffers}

    def changed(op: Op) -> Op:
        plain = op.kind != "attention" or op.output is None or op.attributes.get("shared")
        if plain or plan.asked == 1 or rows[op.output.buffer] == "all":  # type: ignore[union-attr]
            return op
        attributes = _PLAIN | op.attributes
        return dataclasses.replace(op, kind="mixed_attention", attributes=attributes)

    return dataclasses.replace(plan, ops=tuple(changed(op) for op in plan.ops))


class MixedOp:
    """One op's launches over `params` [C, P]; `keep` [C, T, T]: its dropout mask, or None."""

    def __init__(
        self, op: Op, flat: FlatLayout, params: torch.Tensor, keep: torch.Tensor | None,
        length: int, precision: str,
    ) -> None:  # fmt: skip
        known, device = op.attributes, params.device
        self._flat, self._count = flat, known["buckets"]
        names = list(op.weights)
        self._names = {name: names.pop(0) if known[name] else None for name in ("relative", "deep")}
        buckets = None
        if known["relative"]:
            buckets = torch.from_numpy(distance_buckets(length, known["buckets"])).to(device)
        self._given = {
            "relative": self._parameter("relative", params),
            "deep": self._parameter("deep", params),
            "buckets": buckets,
            "keep": keep,
        }
        self._how: dict[str, Any] = {
            name: known[name] for name in ("heads", "scores", "path", "causal", "epsilon")
        }
        self._how |= {"ld": (self._ld("relative"), self._ld("deep")), "precision": precision}
        self.sums: dict[str, torch.Tensor | None] = {"relative": None, "deep": None}

    def forward(self, q: Rows, k: Rows, v: Rows, o: Rows, live: torch.Tensor) -> Launch:
        return mixed_attention.forward(q, k, v, o, self._given, live, **self._how)

    def backward(
        self,
        do: Rows,
        inputs: tuple[Rows, Rows, Rows],
        gradients: tuple[Rows, Rows, Rows],
        d_params: torch.Tensor,
        live: torch.Tensor,
    ) -> Iterator[Launch]:
        """Of q, k and v, and of its own weights into the partial gradients [C, PARTS, P]."""
        q, k, v = inputs
        sizes = mixed_attention.constants_of(q, k, v, do, self._given, **self._how)
        heads, size, keys = sizes["HEADS"], sizes["D_V"], sizes["K_ROWS"]
        shapes = {"relative": (heads, 2 * keys), "deep": (heads * size, size)}
        for name in shapes:
            if self._names[name] is not None:
                shape = (len(live), k.count // k.each, *shapes[name])
                self.sums[name] = torch.empty(shape, dtype=torch.float32, device=live.device)
        yield mixed_backward.backward(
            do, *inputs, *gradients, self.sums, self._given, live, **self._how
        )
        relative, deep = self.sums["relative"], self.sums["deep"]
        d_relative, d_deep = (self._parameter(name, d_params) for name in ("relative", "deep"))
        buckets = self._given["buckets"]
        if relative is not None and d_relative is not None and buckets is not None:
            ld, count = self._ld("relative"), self._count
            yield mixed_sums.relative(relative, buckets, d_relative, live, count=count, ld=ld)
        if deep is not None and d_deep is not None:
            yield mixed_sums.deep(deep, d_deep, live, ld=self._ld("deep"))

    def _parameter(self, which: str, of: torch.Tensor) -> torch.Tensor | None:
        name = self._names[which]
        return None if name is None else of[..., self._flat.placed[name].offset :]

    def _ld(self, which: str) -> int:
        name = self._names[which]
        return 0 if name is None else self._flat.placed[name].ld
