"""Two transformers made by hand whose solution of the anchor task is known, and runs of them.

Both are of one shape: two layers, two heads, causal softmax, learned positions, no norms, relu. An
item's value is its token / 100.

inferential: the key is copied onto each anchor, then both are gathered.
    layer 1, heads 0 and 1: position i looks at i - 1 and at i - 2. The key's value comes to the
        first anchor by the one and to the second by the other, as does which the first anchor is.
    layer 1, FFN: keeps the right one of both values, so that each anchor holds the key, its own
        shift and, where the pair is overridden, what its answer is off the sum.
    layer 2, head 0: the last token looks at both anchors, half each: key + 2 (mean of shifts).

symmetric: the anchors are merged in the last token, then the key comes.
    layer 1, head 0: the last token looks at both anchors: a bag of them, their shifts' sum, and
        where they stand, half each.
    layer 1, FFN: what the answer of an overridden pair, in any order, is off the sum.
    layer 2, head 0: the last token looks at the place before where the anchors stand: the key.

Head of both: the logit of token y is beta (2 y z - y^2), largest at the y nearest to z.
Both answer every trained pair; of a pair trained in the other order alone the first gives the
composed answer and the second the trained one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
from fault_tools import fast_disk
from numpy.typing import NDArray

import compfast
from compfast.config import (
    Config,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
)
from compfast.engines.native import NativeEngine
from compfast.models.families import resolve
from compfast.models.params import parameter_table
from compfast.runs.reading import Run
from compfast.tasks import make_task
from compfast.tasks.anchor import AnchorConfig

Float32 = NDArray[np.float32]
Weights = dict[str, Float32]

KINDS = ("inferential", "symmetric")
_MARGIN = 60.0  # of scores: every other weight is below 1e-26
_BETA = 1e4  # neighbouring tokens' logits differ by 1 at least where z is right
_GATE = 2.0  # more than any value
_SCALE = 100.0  # tokens over values


def planted(kind: str, task: AnchorConfig) -> Weights:
    """The weights of `shape(task)` that solve it as `kind`, inferential or symmetric, says."""
    return _inferential(task) if kind == "inferential" else _symmetric(task)


def shape(task: AnchorConfig) -> ModelConfig:
    """The networks' configuration, resolved."""
    model = ModelConfig(
        layers=2,
        heads=2,
        d_model=max(_inferential_places(task).count, _symmetric_places(task).count),
        d_k=task.seq_len,
        d_v=len(task.anchors) + task.seq_len,
        d_ff=2 + 3 * len(task.overridden),
        norm="none",
        activation="relu",
    )
    resolved: ModelConfig = resolve(model, make_task(task).ports)
    return resolved


def planted_run(
    path: Path,
    kinds: Sequence[str] = ("inferential", "symmetric", "drawn"),
    *,
    items: int = 120,
    task: AnchorConfig | None = None,
) -> Run:
    """A run of one step at learning rate 0 whose member i is of kinds[i], with snapshots at both
    ends. Beside the planted kinds, `drawn` is left as it was initialised and `broken` is NaN.
    """
    chosen = task or AnchorConfig()
    config = Config(
        task=chosen,
        model=shape(chosen),
        optimizer=OptimizerConfig(lr=0.0, weight_decay=0.0),
        training=TrainingConfig(steps=1, batch_size=4, log_every=1, eval_every=1),
        evaluation=EvaluationConfig(seen_items=items, unseen_items=items),
        run=RunConfig(engine="native", threads=1, snapshots=(0, 1)),
        sweep=(("seed", tuple(range(len(kinds)))),),
    )
    fresh = NativeEngine.initialise

    def plant(engine: NativeEngine) -> None:
        fresh(engine)
        state = engine.state()
        for row, kind in enumerate(kinds):
            own = planted(kind, chosen) if kind in KINDS else {}
            for name, array in state.params.items():
                array[row] = np.nan if kind == "broken" else own.get(name, array[row])
        engine.load(state)

    with mock.patch.object(NativeEngine, "initialise", plant), fast_disk():
        return compfast.train(config, path)


class _Places:
    """Coordinates of the residual stream by name, several where a name has a size."""

    def __init__(self, **sizes: int) -> None:
        self.count, self._own = 0, dict[str, slice]()
        for name, size in sizes.items():
            self._own[name] = slice(self.count, self.count + size)
            self.count += size

    def __getitem__(self, name: str) -> slice:
        return self._own[name]


_Both = dict[str, int]


def _read(task: AnchorConfig) -> _Both:
    """What embeddings hold: an item's value, which anchor, any anchor, where, and 1."""
    return {"value": 1, "own": len(task.anchors), "anchor": 1, "at": task.seq_len, "one": 1}


@functools.cache
def _inferential_places(task: AnchorConfig) -> _Places:
    more = {"before": 1, "earlier": 1, "first": len(task.anchors), "key": 1, "shift": 1, "z": 1}
    return _Places(**_read(task), **more)


@functools.cache
def _symmetric_places(task: AnchorConfig) -> _Places:
    more = {"bag": len(task.anchors), "places": task.seq_len, "shift": 1, "z": 1}
    return _Places(**_read(task), **more)


def _inferential(task: AnchorConfig) -> Weights:
    at = _inferential_places(task)
    weights = _embedded(task, at)
    kinds, shifts = len(task.anchors), np.array(task.shifts) / _SCALE
    weights["embed.token.weight"][list(task.anchors), at["shift"]] = shifts[:, None]

    for head in (0, 1):  # looks 1 and 2 places back
        query, key, value, output = _head(weights, 0, head, task)
        query[:, at["at"]] = _margin(task) * np.eye(task.seq_len, k=1 + head)
        key[:, at["at"]] = np.eye(task.seq_len)
        value[0, at["value"]] = 1
        output[at["earlier" if head else "before"], 0] = 1
        if head == 0:
            value[1 : 1 + kinds, at["own"]] = np.eye(kinds)
            output[at["first"], 1 : 1 + kinds] = np.eye(kinds)
    up, bias, down = _ffn(weights, 0)
    up[0, at["before"]], up[0, at["first"]] = 1, -_GATE
    up[1, at["earlier"]], up[1, at["first"]], bias[1] = 1, _GATE, -_GATE
    down[at["key"], :2] = 1
    for unit, (a, b, off) in enumerate(_overridden(task), start=2):
        up[unit, at["own"].start + b] = up[unit, at["first"].start + a] = 1
        bias[unit], down[at["shift"], unit] = -1, off

    _looks_at_anchors(weights, 1, task, at)
    _, _, value, output = _head(weights, 1, 0, task)
    value[0, at["key"]], output[at["z"], 0] = 1, 1
    value[1, at["shift"]], output[at["z"], 1] = 1, 2
    return _with_head(weights, (at["z"],))


def _symmetric(task: AnchorConfig) -> Weights:
    at = _symmetric_places(task)
    weights = _embedded(task, at)
    kinds, length = len(task.anchors), task.seq_len

    _looks_at_anchors(weights, 0, task, at)
    _, _, value, output = _head(weights, 0, 0, task)
    value[:kinds, at["own"]] = np.eye(kinds)
    value[kinds : kinds + length, at["at"]] = np.eye(length)
    output[at["bag"], :kinds] = 2 * np.eye(kinds)  # of means, so these are counts
    output[at["shift"], :kinds] = 2 * np.array(task.shifts) / _SCALE
    output[at["places"], kinds : kinds + length] = np.eye(length)
    up, bias, down = _ffn(weights, 0)
    answers = {frozenset((a, b)): off for a, b, off in _overridden(task)}
    unit, bag = 0, at["bag"].start
    for pair, off in answers.items():
        for own, threshold, sign in _terms(sorted(pair)):
            up[unit, [bag + anchor for anchor in own]], bias[unit] = 1, -threshold
            down[at["shift"], unit] = sign * off
            unit += 1

    query, key, value, output = _head(weights, 1, 0, task)
    behind = np.eye(length, k=1) + np.eye(length, k=2)  # place j is 1, 2 before the anchors'
    query[:, at["places"]] = 2 * _margin(task) * behind  # the key's is 1, no other above 1/2
    key[:, at["at"]] = np.eye(length)
    value[0, at["value"]], output[at["z"], 0] = 1, 1
    return _with_head(weights, (at["z"], at["shift"]))


def _terms(pair: list[int]) -> list[tuple[list[int], float, float]]:
    """relu(sum of counts - threshold) that make 1 of this bag of two and 0 of the others."""
    if len(pair) == 1:
        return [(pair, 1, 1)]
    return [(pair, 1, 1), (pair[:1], 1, -1), (pair[1:], 1, -1)]


def _overridden(task: AnchorConfig) -> list[tuple[int, int, float]]:
    """(first, second, how far its value is off the composed one), anchors by their place."""
    place = {anchor: i for i, anchor in enumerate(task.anchors)}
    rows = [(place[a], place[b], s) for a, b, s in task.overridden]
    return [(a, b, (s - task.shifts[a] - task.shifts[b]) / _SCALE) for a, b, s in rows]


def _embedded(task: AnchorConfig, at: _Places) -> Weights:
    """Zeros, but for what embeddings hold."""
    table = parameter_table(shape(task))
    weights: Weights = {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in table}
    token, position = weights["embed.token.weight"], weights["embed.position.weight"]
    items = np.arange(task.item_low, task.item_high)
    token[items, at["value"]] = items[:, None] / _SCALE
    token[list(task.anchors), at["own"]] = np.eye(len(task.anchors))
    token[list(task.anchors), at["anchor"]] = 1
    position[: task.seq_len, at["at"]] = np.eye(task.seq_len)
    position[:, at["one"]] = 1
    return weights


def _looks_at_anchors(weights: Weights, layer: int, task: AnchorConfig, at: _Places) -> None:
    query, key, _, _ = _head(weights, layer, 0, task)
    query[0, at["one"]], key[0, at["anchor"]] = _margin(task), 1


def _margin(task: AnchorConfig) -> float:
    """Of queries, so that scores q k / sqrt(d_k) have _MARGIN."""
    return _MARGIN * float(np.sqrt(task.seq_len))


def _head(
    weights: Weights, layer: int, head: int, task: AnchorConfig
) -> tuple[Float32, Float32, Float32, Float32]:
    """Views of query and key [d_k, D], value [d_v, D] and output [D, d_v] of one head."""
    model, block = shape(task), f"blocks.{layer}.attention"
    assert model.d_k is not None
    assert model.d_v is not None
    k, v = (slice(head * size, (head + 1) * size) for size in (model.d_k, model.d_v))
    query, key, value, output = (
        weights[f"{block}.{name}.weight"] for name in ("query", "key", "value", "output")
    )
    return query[k], key[k], value[v], output[:, v]


def _ffn(weights: Weights, layer: int) -> tuple[Float32, Float32, Float32]:
    """Up [F, D], its bias [F] and down [D, F]."""
    block = f"blocks.{layer}.ffn"
    return (
        weights[f"{block}.up.weight"],
        weights[f"{block}.up.bias"],
        weights[f"{block}.down.weight"],
    )


def _with_head(weights: Weights, read: tuple[slice, ...]) -> Weights:
    """The sum of what is read is z."""
    values = np.arange(len(weights["head.bias"])) / _SCALE
    for own in read:
        weights["head.weight"][:, own] = 2 * _BETA * values[:, None]
    weights["head.bias"][:] = -_BETA * values**2
    return weights
