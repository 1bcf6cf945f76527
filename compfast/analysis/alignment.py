"""Which units of one member are which of another's: permutation alignment by their weights.

Git Re-Basin, arXiv 2209.04836, section 3.2: the orders of B's units for which the inner product
of A's weights with B's is largest, one kind of unit after the other by linear assignment, until
none changes. Each step is exact for its kind, heads together with the numbers inside them, so
that the inner product only grows; the end is a maximum in each kind, not always over all of them.
Where the paper goes through kinds in random order, here the order is fixed, and of two starts
the better one counts: the units as they are, and the stream ordered by the tensors that have
nothing else to order (embeddings, norms, head).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compfast.analysis.symmetries import HEADED, Int64, Orders, Symmetries
from compfast.config.extras import needed

Float64 = NDArray[np.float64]
Weights = Mapping[str, NDArray[Any]]

_SWEEPS = 100  # a sweep that changes nothing comes far earlier
_GAIN = 1e-12  # of the two norms' product: less than that is rounding


def aligned(
    symmetries: Symmetries, a: Weights, b: Weights
) -> tuple[dict[str, NDArray[Any]], Orders]:
    """B's weights with its units in the orders nearest to A's, and these orders.

    They compute what B computes. Raises UsageError where scipy is not installed.
    """
    match = _Match(symmetries, a, b)
    found = [match.climb(start) for start in match.starts()]
    _, orders = max(found, key=lambda pair: pair[0])  # of equal ones the first
    return symmetries.reordered(b, orders), orders


class _Match:
    def __init__(self, symmetries: Symmetries, a: Weights, b: Weights) -> None:
        self._assign = needed("scipy.optimize", "alignment").linear_sum_assignment
        self.of = symmetries
        self.a, self.b = (
            {name: np.asarray(w[name], np.float64) for name in symmetries.axes} for w in (a, b)
        )
        norms = (sum(float((x * x).sum()) for x in w.values()) for w in (self.a, self.b))
        self.least = _GAIN * float(np.sqrt(np.prod(list(norms))))

    def starts(self) -> list[dict[str, Int64]]:
        plain = self.of.identity()
        alone = self.products("stream", plain, alone=True)
        return [plain, {**plain, "stream": self.best(alone, plain["stream"])}]

    def climb(self, orders: dict[str, Int64]) -> tuple[float, dict[str, Int64]]:
        """The inner product where it no longer grows, and the orders there."""
        for _ in range(_SWEEPS):
            before = orders
            for layer in self.of.layers:
                orders = self._attention(f"{layer}.", orders)
                orders = self._plain(f"{layer}.ffn", orders)
            for name in ("latent", "hidden", "stream"):
                orders = self._plain(name, orders)
            if all(np.array_equal(before[name], orders[name]) for name in orders):
                break
        moved = self.of.reordered(self.b, orders)
        return sum(float((self.a[name] * moved[name]).sum()) for name in moved), orders

    def products(self, axis: str, orders: Orders, alone: bool = False) -> Float64:
        """[n, n]: of A's place i and B's place j along an axis, B's other axes in these orders.

        `alone`: of tensors alone that have no other axis to order.
        """
        found: Any = 0.0
        for name, axes in self.of.axes.items():
            if axis not in axes or (alone and sum(a is not None for a in axes) > 1):
                continue
            b = self.b[name]
            for place, other in enumerate(axes):
                if other and other != axis:
                    b = b.take(self.of.places(other, orders), axis=place)
            rows = (np.moveaxis(x, axes.index(axis), 0) for x in (self.a[name], b))
            left, right = (x.reshape(len(x), -1) for x in rows)
            found = found + left @ right.T
        return found if isinstance(found, np.ndarray) else np.zeros((0, 0))

    def best(self, gains: Float64, now: Int64) -> Int64:
        """The assignment of largest sum, or the present one where that is as good."""
        rows = np.arange(len(now))
        told: Int64 = self._assign(gains, maximize=True)[1]
        better = gains[rows, told].sum() > gains[rows, now].sum() + self.least
        return told if better else now

    def _plain(self, name: str, orders: dict[str, Int64]) -> dict[str, Int64]:
        if name not in orders:
            return orders
        gains = self.products(name, orders) if name in self.of.names else 0.0
        if name == "hidden":  # also rows of the generated weights, a block a unit
            units = len(orders[name])
            blocks = self.products("net", orders).reshape(units, -1, units, self._columns)
            gains = gains + np.einsum("icjc->ij", blocks)
        return {**orders, name: self.best(np.asarray(gains), orders[name])}

    @property
    def _columns(self) -> int:
        columns: int = self.of.model.query_width  # type: ignore[attr-defined]
        return columns

    def _attention(self, layer: str, orders: dict[str, Int64]) -> dict[str, Int64]:
        """Heads, and the numbers inside them."""
        if f"{layer}heads" not in orders:
            return orders
        heads = self.of.heads
        each = range(heads)
        gains = np.zeros((heads, heads))
        if f"{layer}heads" in self.of.names:
            gains += self.products(f"{layer}heads", orders)
        inner: dict[str, dict[tuple[int, int], Int64]] = {}  # what a pair of heads would take
        for name in (f"{layer}{name}" for name in HEADED):
            if name not in orders:
                continue
            size, own = orders[name].shape[1], name in self._shared(layer)
            blocks = self.products(name, orders).reshape(heads, size, heads, size)
            inner[name] = {}
            places = np.argsort(orders[f"{layer}heads"])  # where B's head stands now
            for i in each:
                for j in each:
                    now = orders[name][places[j]]
                    told = now if own else self.best(blocks[i, :, j], now)
                    inner[name][i, j] = told
                    gains[i, j] += blocks[i, np.arange(size), j, told].sum()
        chosen = self.best(gains, orders[f"{layer}heads"])
        found = {**orders, f"{layer}heads": chosen}
        for name, told in inner.items():
            found[name] = np.stack([told[i, int(chosen[i])] for i in each])
        for name in self._shared(layer):
            if name in found:
                found[name] = self._together(name, found)
        return found

    def _shared(self, layer: str) -> tuple[str, ...]:
        return (f"{layer}v", f"{layer}deep") if self.of.shared else ()

    def _together(self, name: str, orders: dict[str, Int64]) -> Int64:
        """One order for all heads [H, size]."""
        layer, (heads, size) = name.rpartition(".")[0], orders[name].shape
        blocks = self.products(name, orders).reshape(heads, size, heads, size)
        gains = blocks[np.arange(heads), :, orders[f"{layer}.heads"]].sum(axis=0)
        if name.endswith(".v") and f"{layer}.mixed" in self.of.names:
            gains = gains + self.products(f"{layer}.mixed", orders)
        return np.tile(self.best(gains, orders[name][0]), (heads, 1))
