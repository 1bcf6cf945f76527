"""How information flows from a key and two anchors to the answer: two mechanisms as scores.

Zhang et al. 2024, arXiv 2405.05409, section 4 and its figures of attention. In the inferential
solution one layer copies the key onto each anchor separately and a later one gathers both anchors
in the last token; in the symmetric one a layer merges the anchors into the last token, and a later
one brings the key. The scores below are this project's.

With a_l[q -> k] the largest attention weight of any head of layer l, of one item, and

    both(x, y)  = min(1, 2 sqrt(x y)):      1 where a head halves its weight, 0 where one lacks
    over(a, u)  = max(0, (a - u) / (1 - u)):  above the weight of a head that looks at all alike

    copied_then_gathered = sqrt(over a_l[anchor1 -> key] over a_l[anchor2 -> key])
                           over both(a_m[last -> anchor1], a_m[last -> anchor2])
    merged_then_keyed    = over both(a_l[last -> anchor1], a_l[last -> anchor2])
                           over a_m[last -> key]

mean over items, of the two layers l < m for which that is largest. They see attention alone: a
flow through a third token, or one whose values are 0, goes by unseen (`compfast.analysis.effects`
asks what an edge does). Where the last token is itself the second anchor both mechanisms need one
edge less, because its residual stream carries it, and what they share cannot be told apart: such
items are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.analysis.inputs import at_once, attending_groups, checked_inputs
from compfast.analysis.positions import Int64, key_positions, other_positions
from compfast.analysis.stacked import Tap, chosen, each_member, forward, patterns
from compfast.config import MemberSpec, ModelConfig
from compfast.errors import UsageError
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run
from compfast.tasks import Exam

Float64 = NDArray[np.float64]

# Edges by name: places behind the key of query and key; None: the last token.
EDGES: dict[str, tuple[int | None, int]] = {
    "anchor1_key": (1, 0),
    "anchor2_key": (2, 0),
    "last_anchor1": (None, 1),
    "last_anchor2": (None, 2),
    "last_key": (None, 0),
}
SCORES = ("copied_then_gathered", "merged_then_keyed")
_LAYERS = ("copied_at", "gathered_at", "merged_at", "keyed_at")


class Flow(NamedTuple):
    """Information flow of all members that have softmax attention."""

    scores: pl.DataFrame  # a row a member
    edges: pl.DataFrame  # a row a (member, layer, head): the mean weight of each edge


def information_flow(
    run: Run,
    inputs: NDArray[Any] | None = None,
    keys: NDArray[Any] | None = None,
    step: int | None = None,
    members: Sequence[int] | None = None,
    *,
    split: str = "unseen",
    items: int = 256,
) -> Flow:
    """The two mechanisms of each member in [0, 1], and the attention on their edges.

    Items are the first `items` of a split of each member's exam, or `inputs` [N, T] with their
    `keys` [N], the positions of the keys; those whose last token is an anchor are left out, and
    `n` says how many are left. `scores` has SCORES, the layers that make them (`copied_at`,
    `gathered_at`, `merged_at`, `keyed_at`; null in networks of one layer, whose scores are 0) and
    the control `shuffled_` of both: the same where each item's key and anchors are looked for at
    three other tokens (null where there are none). `edges` has the means over items of all
    weights as they are. What is not finite is null. Raises UsageError where no member has softmax
    attention, for a task without a key and two anchors, and for inputs, keys, a split, step or
    member that there are not.
    """
    softmax = [specs for specs in attending_groups(run) if _model(specs[0]).attention == "softmax"]
    if not softmax:
        kind = _model(attending_groups(run)[0][0]).attention
        raise UsageError(f"model.attention is {kind}; information flow reads shares, of softmax")
    scores: list[tuple[Any, ...]] = []
    edges: list[tuple[Any, ...]] = []
    for specs in chosen(softmax, members):
        if inputs is None and keys is None:
            given, key = _probed(exams_of([specs])[0], specs[0], split, items)
        else:
            given, key = _checked(inputs, keys, specs[0])
        other = other_positions(key, given.shape[1])
        choices, control = [key, np.maximum(other, 0)], other >= 0
        causal = _model(specs[0]).causal
        even = [even_weights(choice, given.shape[1], causal) for choice in choices]

        def measure(
            spec: MemberSpec, module: Any, given: Any = given, choices: Any = choices
        ) -> Float64:
            return _edges(spec, module, given, choices)

        each = each_member(run, specs, measure, step)
        for spec, (found, elsewhere) in zip(specs, each, strict=True):
            shuffled = _scored(elsewhere[control], even[1][control])[:2]
            scores.append((spec.member, *_scored(found, even[0]), *shuffled, len(key)))
            for (layer, head), means in _by_head(found):
                edges.append((spec.member, layer, head, *means, len(key)))
    columns = dict.fromkeys((*SCORES, *_LAYERS, *map("shuffled_{}".format, SCORES)), pl.Float64)
    table = _table(scores, {"member": pl.Int64, **columns, "n": pl.Int64})
    place = dict.fromkeys(("member", "layer", "head"), pl.Int64)
    weights = {**place, **dict.fromkeys(EDGES, pl.Float64), "n": pl.Int64}
    return Flow(
        table.with_columns(pl.col(_LAYERS).cast(pl.Int64)).sort("member"),
        _table(edges, weights).sort("member", "layer", "head"),
    )


def mechanisms(edges: Float64, even: Float64) -> tuple[Float64, Float64]:
    """SCORES of one member for each pair of layers, [L, L] each, 0 unless the first is earlier.

    From attention weights [N, L, H, 5] on EDGES of N items, and those [N, 5] of a head that
    looks at all tokens alike; see the head of this file.
    """
    copied1, copied2, anchor1, anchor2, key = np.moveaxis(edges.max(axis=2), -1, 0)  # [N, L]
    even1, even2, evenly, _, _ = even.T[:, :, None]  # [N, 1]
    copied = np.sqrt(_over(copied1, even1) * _over(copied2, even2))
    gathered = _over(np.minimum(1.0, 2 * np.sqrt(anchor1 * anchor2)), 2 * evenly)
    copying, merging = (
        np.triu((first[:, :, None] * second[:, None, :]).mean(axis=0), 1)
        for first, second in ((copied, gathered), (gathered, _over(key, evenly)))
    )
    return copying, merging


def even_weights(keys: Int64, length: int, causal: bool) -> Float64:
    """Weights [N, 5] on EDGES of a head that looks alike at all tokens that it may see."""
    queries = [
        keys + query if query is not None else keys * 0 + length - 1 for query, _ in EDGES.values()
    ]
    seen = np.stack(queries, axis=1) + 1 if causal else np.full((len(keys), len(EDGES)), length)
    return 1 / seen.astype(np.float64)


def _over(weight: Float64, even: Float64) -> Float64:
    return np.maximum(0.0, (weight - even) / (1 - even))


def _edges(spec: MemberSpec, module: Any, inputs: NDArray[Any], keys: Sequence[Int64]) -> Float64:
    """Weights [K, N, L, H, 5] on the edges, for keys at each of K choices of positions [N]."""
    model, last = _model(spec), inputs.shape[1] - 1
    found = np.empty((len(keys), len(inputs), model.layers, model.heads, len(EDGES)))

    def seen(layer: int) -> Tap:
        def tap(weights: Any, rows: slice) -> None:
            items = np.arange(rows.stop - rows.start)
            for choice, key in enumerate(keys):
                for edge, (query, behind) in enumerate(EDGES.values()):
                    asks = np.full(len(items), last) if query is None else key[rows] + query
                    on = weights[items, :, asks, key[rows] + behind]  # [n, H]
                    found[choice, rows, layer, :, edge] = on.numpy()

        return tap

    taps = [(place, seen(layer)) for layer, place in enumerate(patterns(spec))]
    for _ in forward(module, inputs, at_once(spec, inputs), taps):
        pass
    return found


def _scored(edges: Float64, even: Float64) -> list[float]:
    """Both scores, then the layers; NaN where there are none."""
    if not len(edges):
        return [np.nan] * 6
    values, layers = [], []
    for pairs in mechanisms(edges, even):
        first, second = np.unravel_index(pairs.argmax(), pairs.shape)
        values.append(float(pairs[first, second]))
        known = second > first and np.isfinite(values[-1])
        layers += [float(first), float(second)] if known else [np.nan] * 2
    return [*values, *layers]


def _by_head(edges: Float64) -> Iterator[tuple[tuple[int, int], list[float]]]:
    means = edges.mean(axis=0)  # [L, H, 5]
    for place in np.ndindex(means.shape[:2]):
        yield (place[0], place[1]), means[place].tolist()


def _probed(exam: Exam, spec: MemberSpec, split: str, items: int) -> tuple[NDArray[Any], Int64]:
    if split not in exam.splits:
        raise UsageError(f"split is {split!r}; the exam has {', '.join(exam.splits)}")
    if items < 1:
        raise UsageError(f"items is {items}; it must be at least 1")
    key = key_positions(exam, spec.task.name)
    rows = exam.splits[split]
    return _apart(exam.inputs[rows][:items], key[rows][:items])


def _checked(
    inputs: NDArray[Any] | None, keys: NDArray[Any] | None, spec: MemberSpec
) -> tuple[NDArray[Any], Int64]:
    if inputs is None or keys is None:
        raise UsageError("inputs and keys go together: where the key of each sequence stands")
    given, key = checked_inputs(inputs, spec), np.asarray(keys)
    most = given.shape[1] - 3
    fits = key.shape == given.shape[:1] and key.dtype.kind in "iu"
    if not fits or key.min() < 0 or key.max() > most:
        raise UsageError(
            f"keys are of shape {list(key.shape)} and type {key.dtype}; each of"
            f" {len(given)} sequences needs the position of its key, 0 to {most}"
        )
    return _apart(given, key.astype(np.int64))


def _apart(inputs: NDArray[Any], key: Int64) -> tuple[NDArray[Any], Int64]:
    """Without the items whose last token is the second anchor; UsageError where none is left."""
    own = key + 2 < inputs.shape[1] - 1
    if not own.any():
        raise UsageError(
            "the last token is an anchor in every item, so that no flow to it can be told apart"
        )
    return inputs[own], key[own]


def _model(spec: MemberSpec) -> ModelConfig:
    assert isinstance(spec.model, ModelConfig)
    return spec.model


def _table(rows: list[tuple[Any, ...]], schema: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    table = pl.DataFrame(rows, schema=schema, orient="row")
    return table.with_columns(pl.col(pl.Float64).fill_nan(None))
