"""Inputs of generalised attention, its error bands, and float32 PyTorch's error in other orders."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from op_cases import Case, Tensors, double, evaluate, normal
from oracle import ORDERS
from torch import Tensor

from compfast import ops

WEIGHTS = ("softmax", "linear", "rms_head")
PATHS = ("none", "linear", "relu", "deep")


@dataclass(frozen=True)
class Mixed:
    """One call's options and sizes; t_q 0: every position asks."""

    weights: str = "rms_head"
    path: str = "relu"
    t: int = 17
    heads: int = 8
    d_k: int = 2
    d_v: int = 2
    t_q: int = 0
    causal: bool = False
    dropout: bool = False
    relative: bool = True
    epsilon: float = 1e-6
    m: int = 2
    b: int = 2

    def case(self) -> Case:
        return Case(self._run, self._inputs, self._bands)

    def keep(self, members: int) -> Tensor | None:
        """0 or 1 / (1 - rate), a row for each query."""
        if not self.dropout:
            return None
        generator = torch.Generator().manual_seed(3)
        drawn = torch.rand(self.m, self.t_q or self.t, self.t, generator=generator)
        return torch.where(drawn < 0.2, 0.0, 1.25)[:members]

    def _inputs(self, g: torch.Generator) -> Tensors:
        lead, rows = (self.m, self.b), (self.heads,)
        made = {
            "q": normal(g, *lead, self.t_q or self.t, *rows, self.d_k),
            "k": normal(g, *lead, self.t, *rows, self.d_k),
            "v": normal(g, *lead, self.t, *rows, self.d_v),
        }
        if self.relative:
            made["relative"] = normal(g, self.m, self.heads, 2 * self.t - 1)
        if self.path == "deep":
            deep = normal(g, self.m, self.heads, self.d_v, self.d_v)
            made["deep"] = deep / math.sqrt(self.d_v)
        return made

    def _run(self, impl: str, **t: Tensor) -> Tensor:
        keep = self.keep(len(t["q"]))
        return ops.mixed_attention(
            t["q"],
            t["k"],
            t["v"],
            relative=t.get("relative"),
            keep=None if keep is None else keep.to(t["q"].dtype),
            deep=t.get("deep"),
            weights=self.weights,
            path=self.path,
            causal=self.causal,
            epsilon=self.epsilon,
            impl=impl,
        )

    def _bands(self, dy: Tensor, **t: Tensor) -> Tensors:
        """The last sum of every tensor on absolute values."""
        a, root, after = self._weights(t["q"], t["k"], t.get("relative"))
        given = self.keep(len(dy))
        keep = 1.0 if given is None else given.double()[:, None, None]
        kept = (a * keep).abs()  # [M, B, H, T_q, T]
        v, above = t["v"].abs(), dy.abs()
        da, dv, mixed, found = _values(self.path, a * keep, t["v"], above, t.get("deep"))
        if self.path == "none":
            found["out"] = torch.einsum("mbhqk,mbkhc->mbqhc", kept, v)
        else:
            found["out"] = torch.einsum("mbhqk,mbqkc->mbqhc", kept, mixed)
        da = da * keep
        if self.weights == "softmax":
            ds = a * (da + (a * da).sum(-1, keepdim=True))
        elif self.weights == "linear":
            ds = da
        else:
            ds = (da + a.abs() * (a.abs() * da).mean(2, keepdim=True)) / root
        if self.causal:
            ds = ds.masked_fill(after > 0, 0)
        scaled = ds / math.sqrt(self.d_k)
        found["v"] = dv
        found["q"] = torch.einsum("mbhqk,mbkhc->mbqhc", scaled, t["k"].abs())
        found["k"] = torch.einsum("mbhqk,mbqhc->mbkhc", scaled, t["q"].abs())
        if self.relative:
            flat = ds.sum(1).flatten(2)
            bias = torch.zeros(*flat.shape[:2], 2 * self.t - 1, dtype=flat.dtype)
            found["relative"] = bias.index_add(2, (after + self.t - 1).flatten(), flat)
        return found

    def _weights(
        self, q: Tensor, k: Tensor, relative: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weights before dropout, the root they were divided by, keys' distances [T_q, T]."""
        at = torch.arange(self.t)
        after = at - at[self.t - q.shape[2] :, None]
        s = torch.einsum("mbqhc,mbkhc->mbhqk", q, k) / math.sqrt(self.d_k)
        if relative is not None:
            s = s + relative[:, :, after + self.t - 1][:, None]
        hidden = (after > 0) & self.causal
        if self.weights == "softmax":
            return s.masked_fill(hidden, -math.inf).softmax(-1), torch.ones(()), after
        s = s.masked_fill(hidden, 0)
        if self.weights == "linear":
            return s, torch.ones(()), after
        root = (s.square().mean(2, keepdim=True) + self.epsilon).sqrt()
        return s / root, root, after


def _values(
    path: str, a: Tensor, v: Tensor, above: Tensor, deep: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensors]:
    """Of signed weights and values: bands of the weights' gradient and of v's, the mixed values."""
    kept = a.abs()
    if path == "none":
        da = torch.einsum("mbqhc,mbkhc->mbhqk", above, v.abs())
        return da, torch.einsum("mbhqk,mbqhc->mbkhc", kept, above), v, {}
    hidden = torch.einsum("mbhqk,mbkhc->mbqkc", a, v)
    if path != "linear":
        hidden = hidden.relu()
    mixed, found = hidden.abs(), {}
    d_mixed = torch.einsum("mbhqk,mbqhc->mbqkc", kept, above)
    da = torch.zeros(())
    if deep is not None:
        layer = torch.einsum("mhcd,mbqkd->mbhqkc", deep, hidden)
        mixed = torch.einsum("mbhqk,mbhqkc->mbqkc", a, layer).relu()
        da = torch.einsum("mbqhc,mbqkc->mbhqk", above, mixed)
        d_mixed = d_mixed * (mixed > 0)
        da = da + torch.einsum("mbqkc,mbhqkc->mbhqk", d_mixed, layer.abs())
        grown = torch.einsum("mbhqk,mbqkc->mbhqkc", kept, d_mixed)
        found["deep"] = torch.einsum("mbhqkc,mbqkd->mhcd", grown, hidden)
        d_mixed = torch.einsum("mhcd,mbhqkc->mbqkd", deep.abs(), grown)
    else:
        da = torch.einsum("mbqhc,mbqkc->mbhqk", above, mixed)
    if path != "linear":
        d_mixed = d_mixed * (hidden > 0)
    da = da + torch.einsum("mbqkc,mbkhc->mbhqk", d_mixed, v.abs())
    dv = torch.einsum("mbhqk,mbqkc->mbkhc", kept, d_mixed)
    return da, dv, mixed, found


# axis of the heads, axes of numbers that belong to keys, of those that belong to values
AXES: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    "q": (3, (4,), ()),
    "k": (3, (4,), ()),
    "v": (3, (), (4,)),
    "out": (3, (), (4,)),
    "relative": (1, (), ()),
    "deep": (1, (), (2, 3)),
}


def eager_errors(mixed: Mixed, inputs: Tensors, dy: Tensor, exact: Tensors) -> dict[str, float]:
    """Float32 PyTorch's largest error of each tensor over ORDERS orders of heads and columns.

    One rounding is a single draw; a network whose heads stand in another order is the same one.
    """
    case, found = mixed.case(), dict.fromkeys(exact, 0.0)
    generator = torch.Generator().manual_seed(4)
    for turn in range(ORDERS):
        orders = [
            torch.randperm(n, generator=generator) if turn else torch.arange(n)
            for n in (mixed.heads, mixed.d_k, mixed.d_v)
        ]

        def moved(name: str, value: Tensor, orders: list[Tensor] = orders) -> Tensor:
            heads, keys, values = AXES[name]
            value = value.index_select(heads, orders[0])
            for axes, order in ((keys, orders[1]), (values, orders[2])):
                for axis in axes:
                    value = value.index_select(axis, order)
            return value

        there = {name: moved(name, value) for name, value in inputs.items()}
        for name, value in evaluate(case, "torch", there, moved("out", dy)).items():
            error = float((value.double() - moved(name, exact[name])).abs().max())
            found[name] = max(found[name], error)
    return found


def exactly(mixed: Mixed, inputs: Tensors, dy: Tensor) -> Tensors:
    return evaluate(mixed.case(), "torch", double(inputs), dy.double())
