"""How much of the residual stream attention writes, at every snapshot."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

import polars as pl
from numpy.typing import NDArray

from compfast.analysis.inputs import at_once, attending_groups, checked_inputs
from compfast.analysis.snapshots import snapshots_of
from compfast.analysis.stacked import Tap, each_member, forward
from compfast.config import MemberSpec
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
    rows: list[_Row] = []
    for specs, exam in zip(groups, exams_of(groups), strict=True):
        read = exam.inputs if tokens is None else checked_inputs(tokens, specs[0])

        def measure(spec: MemberSpec, module: Any, read: NDArray[Any] = read) -> list[float]:
            return layer_ratios(module, read, at_once(spec, read))

        for step in steps:
            found = each_member(run, specs, measure, step)
            for spec, means in zip(specs, found, strict=True):
                rows += [(spec.member, step, layer, mean) for layer, mean in enumerate(means)]
    table = pl.DataFrame(rows, schema=_SCHEMA, orient="row").sort("member", "step", "layer")
    finite = pl.col("ratio").is_finite()
    return table.with_columns(pl.when(finite).then(pl.col("ratio")).alias("ratio"))


def layer_ratios(model: Any, tokens: NDArray[Any], most: int) -> list[float]:
    """Of a compfast.models.transformer.Transformer, its layers in order; nan as it comes."""
    sums = [0.0] * len(model.blocks)
    stream: dict[int, Tensor] = {}  # layer -> what its block was given
    taps: list[tuple[str, Tap]] = []
    for layer in range(len(model.blocks)):

        def enter(value: Tensor, rows: slice, layer: int = layer) -> None:
            stream[layer] = value

        def attended(value: Tensor, rows: slice, layer: int = layer) -> None:
            x, added = stream.pop(layer).double(), value.double()  # [B, T, D]
            sums[layer] += float((added.norm(dim=-1) / (x + added).norm(dim=-1)).sum())

        taps += [(f"blocks.{layer}:in", enter), (f"blocks.{layer}.attention", attended)]
    collections.deque(forward(model, tokens, most, taps), maxlen=0)
    return [total / (tokens.shape[0] * tokens.shape[1]) for total in sums]
