"""How much of the residual stream attention writes, at every snapshot."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.analysis.snapshots import snapshots_of
from compfast.config import MemberSpec, ModelConfig
from compfast.engines.cores import usable_cores
from compfast.errors import UsageError
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run

if TYPE_CHECKING:
    from torch import Tensor

_ROOM = 2**24  # numbers that one pass of a network may hold: 64 MB
_COPIES = 4  # of scores and of activations, at most, that a layer holds at once
_Row = tuple[int, int, int, float]
_SCHEMA = {"member": pl.Int64, "step": pl.Int64, "layer": pl.Int64, "ratio": pl.Float64}


def attention_to_skip(run: Run, tokens: NDArray[Any] | None = None) -> pl.DataFrame:
    """|Attn(x)| / |x + Attn(x)| of each layer: Euclidean norms, mean over tokens and sequences.

    x is the residual stream before attention and Attn(x) what is added to it, of norm(x) where
    the norm comes before (arXiv 2406.03072 and its code: the ratio of each token, then the mean).
    A row a (member, step, layer), sorted so; a member without attention has none. `tokens` are
    sequences [N, T] that all members read; None: each member's exam. A ratio that is not a
    finite number is null. Raises UsageError for a run without snapshots, one of whose members
    none has attention, and for tokens that are no sequences of ids of the members' networks.
    """
    steps = snapshots_of(run)
    attends = [_attends(specs) for specs in run.groups]
    if not any(attends):
        model = run.groups[0][0].model
        why = "model.attention is none" if isinstance(model, ModelConfig) else ""
        raise UsageError(
            f"{why or f'model.family is {model.family}'}; there is no attention in {run.path}"
        )
    work: list[tuple[MemberSpec, int, NDArray[Any]]] = []
    for specs, exam, wanted in zip(run.groups, exams_of(run.groups), attends, strict=True):
        if wanted:
            read = exam.inputs if tokens is None else _checked(tokens, specs[0])
            work += [(spec, step, read) for spec in specs for step in steps]

    def measure(spec: MemberSpec, step: int, read: NDArray[Any]) -> list[_Row]:
        means = layer_ratios(run.model(spec.member, step), read, _at_once(spec, read))
        return [(spec.member, step, layer, mean) for layer, mean in enumerate(means)]

    from compfast.engines.aside import clean_threads, require_exact_products

    with clean_threads(usable_cores().count) as pool:
        pool.submit(require_exact_products, "attention_to_skip", "").result()
        rows = [row for found in pool.map(measure, *zip(*work, strict=True)) for row in found]
    table = pl.DataFrame(rows, schema=_SCHEMA, orient="row").sort("member", "step", "layer")
    finite = pl.col("ratio").is_finite()
    return table.with_columns(pl.when(finite).then(pl.col("ratio")).alias("ratio"))


def layer_ratios(model: Any, tokens: NDArray[Any], at_once: int) -> list[float]:
    """Of a compfast.models.transformer.Transformer, its layers in order; nan as it comes."""
    import torch

    sums = [0.0] * len(model.blocks)
    stream: dict[int, Tensor] = {}  # layer -> what its block was given

    def enter(layer: int, block: Any, given: tuple[Tensor, ...]) -> None:
        stream[layer] = given[0]

    def attended(layer: int, attention: Any, given: tuple[Tensor, ...], added: Tensor) -> None:
        x, added = stream.pop(layer).double(), added.double()  # [B, T, D]
        sums[layer] += float((added.norm(dim=-1) / (x + added).norm(dim=-1)).sum())

    hooks = []
    for layer, block in enumerate(model.blocks):
        hooks.append(block.register_forward_pre_hook(functools.partial(enter, layer)))
        hooks.append(block.attention.register_forward_hook(functools.partial(attended, layer)))
    try:
        with torch.inference_mode():
            for first in range(0, len(tokens), at_once):
                part = np.asarray(tokens[first : first + at_once], np.int64)
                model(torch.from_numpy(part))
    finally:
        for hook in hooks:
            hook.remove()
    return [total / tokens.size for total in sums]


def _attends(specs: Sequence[MemberSpec]) -> bool:
    model = specs[0].model
    return isinstance(model, ModelConfig) and model.attention != "none"


def _at_once(spec: MemberSpec, tokens: NDArray[Any]) -> int:
    """Sequences that a pass takes; a function of the member's shape, never of the machine."""
    model, length = spec.model, int(tokens.shape[1])
    assert isinstance(model, ModelConfig)
    widest = max(model.d_model, model.d_ff or 0, model.vocab_size or 0)
    return max(1, _ROOM // (_COPIES * length * (model.heads * length + widest)))


def _checked(tokens: NDArray[Any], spec: MemberSpec) -> NDArray[Any]:
    given, model = np.asarray(tokens), spec.model
    assert isinstance(model, ModelConfig)
    if given.ndim != 2 or not given.size or given.dtype.kind not in "iu":
        raise UsageError(
            f"tokens have shape {list(given.shape)} and type {given.dtype}; they must be integers"
            " [sequences, length], at least one"
        )
    positions, vocabulary = model.max_positions or 0, model.vocab_size or 0
    if given.shape[1] > positions:
        raise UsageError(
            f"tokens are {given.shape[1]} a sequence; member {spec.member} has {positions}"
            " positions (model.max_positions)"
        )
    low, high = int(given.min()), int(given.max())
    if low < 0 or high >= vocabulary:
        raise UsageError(
            f"tokens go from {low} to {high}; member {spec.member} knows 0 to {vocabulary - 1}"
            " (model.vocab_size)"
        )
    return given
