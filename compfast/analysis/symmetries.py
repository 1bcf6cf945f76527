"""Orders of a transformer's units that its function does not depend on.

Each axis of each tensor goes by the name of what it counts; axes of one name are reordered alike:

    stream    numbers of the residual stream, in embeddings, norms, every block and the head
    L.ffn     hidden units of layer L
    L.heads   heads; each takes its own rows of the tables of relative positions along
    L.qk      numbers of queries and keys, in each head by itself
    L.v       numbers of values, in each head by itself; where heads mix their value maps
              (model.value_path), in all heads alike, as then they are added up
    L.deep    of value_path deep: what its second layer gives, in all heads alike
    latent, hidden    of family bottleneck: its code, and the units of its small network

Tokens, positions, numbers read and answers stay. Norms have a scale for each number and a mean
over all, activations go number by number, scores of queries and keys are sums: so all of it is
exact, but for the order in which sums are rounded. LayerNorm, softmax, linear and rms_head alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compfast.config import ModelConfig, ModelSection
from compfast.errors import UsageError
from compfast.models.params import parameter_table
from compfast.models.resolved import known

Int64 = NDArray[np.int64]
Array = NDArray[Any]
# By name: what stands at each place, e.g. {"stream": [D], "0.heads": [H], "0.qk": [H, d_k]}. Of
# inner numbers of heads, row h is of the head that comes to place h.
Orders = Mapping[str, Int64]
Axes = tuple[str | None, ...]  # of one tensor; None: stays

HEADED = ("qk", "v", "deep")
_IN_LAYER: dict[str, Axes] = {
    "attention.query.weight": ("qk", "stream"),
    "attention.query.bias": ("qk",),
    "attention.key.weight": ("qk", "stream"),
    "attention.key.bias": ("qk",),
    "attention.value.weight": ("v", "stream"),
    "attention.value.bias": ("v",),
    "attention.output.weight": ("stream", "v"),
    "attention.output.bias": ("stream",),
    "attention.relative.weight": ("heads", None),
    "attention.deep.weight": ("deep", "mixed"),
    "norm1.weight": ("stream",),
    "norm1.bias": ("stream",),
    "norm2.weight": ("stream",),
    "norm2.bias": ("stream",),
    "ffn.up.weight": ("ffn", "stream"),
    "ffn.up.bias": ("ffn",),
    "ffn.down.weight": ("stream", "ffn"),
    "ffn.down.bias": ("stream",),
}
_OUTSIDE: dict[str, Axes] = {
    "embed.token.weight": (None, "stream"),
    "embed.position.weight": (None, "stream"),
    "embed.input.weight": ("stream", None),
    "embed.input.bias": ("stream",),
    "final_norm.weight": ("stream",),
    "final_norm.bias": ("stream",),
    "head.weight": (None, "stream"),
    "head.bias": (None,),
    "code.weight": ("latent", "stream"),
    "code.bias": ("latent",),
    "generator.weight": ("net", "latent"),
    "generator.bias": ("net",),
}
FAMILIES = ("transformer", "bottleneck")


class Symmetries:
    """Of one resolved model; raises UsageError for a family whose symmetries are not known."""

    def __init__(self, model: ModelSection) -> None:
        if model.family not in FAMILIES or not isinstance(model, ModelConfig):
            raise UsageError(
                f"model.family is {model.family}; members of families {' and '.join(FAMILIES)} can"
                " be aligned"
            )
        self.model = model
        self.heads = model.heads
        self.shared = model.value_path != "none"  # numbers of values, by all heads
        self.layers = range(model.layers)
        self.table = parameter_table(model)
        self.axes = {tensor.name: self._axes(tensor.name) for tensor in self.table}
        self.names = {axis for axes in self.axes.values() for axis in axes if axis}

    def identity(self) -> dict[str, Int64]:
        """Every order as it is."""
        model, sizes = self.model, {"stream": self.model.d_model}
        if model.family == "bottleneck":
            sizes |= {"latent": model.latent, "hidden": model.hidden}  # type: ignore[attr-defined]
        inner = {"qk": known(model.d_k), "v": known(model.d_v), "deep": known(model.d_v)}
        orders = {name: np.arange(size) for name, size in sizes.items()}
        for layer in self.layers:
            orders[f"{layer}.ffn"] = np.arange(known(model.d_ff))
            if model.attention != "none":
                orders[f"{layer}.heads"] = np.arange(model.heads)
                for name in HEADED[: 3 if model.value_path == "deep" else 2]:
                    orders[f"{layer}.{name}"] = np.tile(np.arange(inner[name]), (model.heads, 1))
        return orders

    def places(self, axis: str, orders: Orders) -> Int64:
        """For each place along an axis, the place whose number comes there."""
        layer, _, name = axis.rpartition(".")
        if name in HEADED:
            inner, heads = orders[axis], orders[f"{layer}.heads"]
            flat: Int64 = (heads[:, None] * inner.shape[1] + inner).ravel()
            return flat
        if name == "mixed":  # what all heads' values make together
            first: Int64 = orders[f"{layer}.v"][0]
            return first
        if name == "net":
            columns = known(self.model.query_width)  # type: ignore[attr-defined]
            rows: Int64 = (orders["hidden"][:, None] * columns + np.arange(columns)).ravel()
            return rows
        return orders[axis]

    def reordered(self, weights: Mapping[str, Array], orders: Orders) -> dict[str, Array]:
        """The same function from weights whose units stand in these orders."""
        found = {}
        for name, axes in self.axes.items():
            array = weights[name]
            for place, axis in enumerate(axes):
                if axis:
                    array = array.take(self.places(axis, orders), axis=place)
            found[name] = array
        return found

    def _axes(self, name: str) -> Axes:
        if name == "head.weight" and self.model.family == "bottleneck":
            return (None, "hidden")
        if name in _OUTSIDE:
            return _OUTSIDE[name]
        _, layer, inner = name.split(".", 2)
        named = tuple(a if a in (None, "stream") else f"{layer}.{a}" for a in _IN_LAYER[inner])
        if inner == "attention.output.weight" and self.model.value_path == "deep":
            named = ("stream", f"{layer}.deep")
        return named
