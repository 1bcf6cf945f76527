"""How much of the residual stream attention writes, at every snapshot."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import polars as pl
from numpy.typing import NDArray

from compfast.analysis.inputs import as_tensor, at_once, attending_groups, checked_inputs
from compfast.analysis.snapshots import snapshots_of
from compfast.config import MemberSpec
from compfast.engines.cores import usable_cores
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run

if TYPE_CHECKING:
    from torch import Tensor

_Row = tuple[int, int, int, float]
_SCHEMA = {"member": pl.Int64, "step": pl.Int64, "layer": pl.Int64, "ratio": pl.Float64}


def attention_to_skip(run: Run, tokens: NDArray[Any] | None = None) -> pl.DataFrame:
    """|Attn(x)| / |x + Attn(x)| of each layer: Euclidean norms, mean over tokens and sequences.

    x is the residual stream before attention and Attn(x) what is added to it, of norm(x) where
    the norm comes before (arXiv 2406.03072 and its code: the ratio of each token, then the mean).
    A row a (member, step, layer), sorted so; a member without attention has none. `tokens` are
    sequences [N, T] that all members read; None: each member's exam. A ratio that is not a
    finite number is null. Raises UsageError for a run without snapshots, one of whose members
    none has attention, and for tokens that the members' networks do not read: ids, or vectors
    [N, T, width] where their task has those.
    """
    steps = snapshots_of(run)
    groups = attending_groups(run)
    work: list[tuple[MemberSpec, int, NDArray[Any]]] = []
    for specs, exam in zip(groups, exams_of(groups), strict=True):
        read = exam.inputs if tokens is None else checked_inputs(tokens, specs[0])
        work += [(spec, step, read) for spec in specs for step in steps]

    def measure(spec: MemberSpec, step: int, read: NDArray[Any]) -> list[_Row]:
        means = layer_ratios(run.model(spec.member, step), read, at_once(spec, read))
        return [(spec.member, step, layer, mean) for layer, mean in enumerate(means)]

    from compfast.engines.aside import clean_threads, require_exact_products

    with clean_threads(usable_cores().count) as pool:
        pool.submit(require_exact_products, "attention_to_skip", "").result()
        rows = [row for found in pool.map(measure, *zip(*work, strict=True)) for row in found]
    table = pl.DataFrame(rows, schema=_SCHEMA, orient="row").sort("member", "step", "layer")
    finite = pl.col("ratio").is_finite()
    return table.with_columns(pl.when(finite).then(pl.col("ratio")).alias("ratio"))


def layer_ratios(model: Any, tokens: NDArray[Any], most: int) -> list[float]:
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
            for first in range(0, len(tokens), most):
                model(as_tensor(tokens[first : first + most]))
    finally:
        for hook in hooks:
            hook.remove()
    return [total / (tokens.shape[0] * tokens.shape[1]) for total in sums]
