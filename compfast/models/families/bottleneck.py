"""Transformers whose output generates a small network: a hypernetwork with a bottleneck.

Schug et al., "When can transformers compositionally generalize in-context?", arXiv 2407.12275:
the last token's output goes through a linear layer to a code of `latent` numbers, and that through
another to the first layer W of a network of one hidden layer, applied to the query x_N. Its
readout a is a parameter like any other: y = a . act(W x_N).

Open in the paper and chosen here, each UNVERIFIED:
- Whether the transformer sees x_N. The text has the pairs and then an empty token, so by default
  it does not: in place of the query's token (x_N, 0) it reads an empty one, whose output is the
  code, and W depends on the context alone. `sees_query` shows it that token. With the task's
  form `extra` an empty token follows and makes the code, whatever the query's token shows.
- The two linear layers have biases (`code_bias`), as layers have by default where the authors'
  library is concerned; the generated layer and the readout have none, as the teacher.
- act is the exact GELU, the task's default teacher's (`net_activation`).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from compfast.config import Ports
from compfast.errors import UsageError
from compfast.models.bottleneck_config import BottleneckConfig
from compfast.models.families.base import Family, Network
from compfast.models.families.blocks import bias, dropping, stack, stack_table, weight
from compfast.models.families.ends import resolved
from compfast.models.plan import Builder, Plan, absorb_projections, fuse_projections, prune_rows
from compfast.models.resolved import known
from compfast.models.tensors import Tensor


class BottleneckFamily(Family[BottleneckConfig]):
    """Its module is compfast.models.bottleneck.Bottleneck."""

    Config = BottleneckConfig

    def resolve(self, model: BottleneckConfig, ports: Ports) -> BottleneckConfig:
        if not ports.width or ports.asked != 1:
            what = f"asks {ports.asked} positions" if ports.width else "has tokens"
            raise UsageError(
                "model.family is bottleneck, for tasks of vectors with one query; this task"
                f" {what}, which family transformer takes"
            )
        if model.empty not in (None, ports.empty):
            raise UsageError(f"model.empty is {model.empty}; this task has {ports.empty}")
        width = model.query_width or ports.width - ports.vocabulary
        if not 1 <= width <= ports.width:
            raise UsageError(
                f"model.query_width is {width}; it must be in 1..{ports.width}, the numbers of a"
                " token"
            )
        return dataclasses.replace(resolved(model, ports), query_width=width, empty=ports.empty)

    def table(self, model: BottleneckConfig) -> tuple[Tensor, ...]:
        latent, hidden, outputs = model.latent, model.hidden, known(model.vocab_size)
        weights = hidden * known(model.query_width)
        table = stack_table(model)
        table.append(weight(-1, "code.weight", (latent, model.d_model), "head"))
        if model.code_bias:
            table.append(bias(-1, "code.bias", latent, model.d_model))
        table.append(weight(-1, "generator.weight", (weights, latent), "head"))
        if model.code_bias:
            table.append(bias(-1, "generator.bias", weights, latent))
        table.append(weight(-1, "head.weight", (outputs, hidden), "head"))
        if model.head_bias:
            table.append(bias(-1, "head.bias", outputs, hidden))
        return tuple(table)

    def plan(self, model: BottleneckConfig, *, absorb: bool) -> Plan:
        builder = Builder(tensor.name for tensor in self.table(model))
        query, columns = known(model.empty), known(model.query_width)
        x = stack(builder, model, blank=None if model.sees_query else query)
        code = builder.linear("code", x, model.latent)
        w = builder.linear("generator", code, model.hidden * columns)
        z = builder.op(
            "generated",
            "generated",
            model.hidden,
            (w,),
            activation=model.net_activation,
            columns=columns,
            query=query,
        )
        outputs = builder.linear("head", z, known(model.vocab_size))
        pruned = prune_rows(builder.plan(outputs, model.loss or "squared_error"), "last")
        return fuse_projections(absorb_projections(pruned) if absorb else pruned)

    def training(
        self, module: Any, model: BottleneckConfig, length: int, seed: int, step: int
    ) -> contextlib.AbstractContextManager[None]:
        return dropping(module, model, length, seed, step)

    def holding(self, model: BottleneckConfig, weights: Mapping[str, NDArray[Any]]) -> Network:
        from compfast.models.bottleneck import Bottleneck

        return Bottleneck.holding(model, weights)
