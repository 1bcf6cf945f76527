"""The count of a step's arithmetic: by hand, by products as they happen, and by torch's counter."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from architectures import NAMES, architecture
from oracle import random_params
from oracle_plan import PlanRun
from torch.utils.flop_counter import FlopCounterMode

from compfast.config import ModelConfig, Ports
from compfast.engines.arithmetic import op_flops, step_flops, step_traffic
from compfast.engines.native_plan import NativePlan
from compfast.models.families import model_plan, resolve
from compfast.models.plan import Plan, View
from compfast.models.transformer import Transformer

SEQUENCES = 3


def test_a_tiny_network_counted_by_hand() -> None:
    """d 4, FFN 6, two heads of d_k 2 and d_v 3, T 5, V 112: multiply-adds a sequence."""
    sizes: dict[str, Any] = {"layers": 2, "d_model": 4, "d_ff": 6, "heads": 2, "d_k": 2, "d_v": 3}
    model = resolve(ModelConfig(**sizes), Ports(5, 112))
    projections = 4 * (2 * 2 + 2 * 2 + 2 * 3)  # q, k, v of one position
    output = 2 * 3 * 4
    scores = 2 * 5 * (2 + 3)  # one query meets all positions, in both heads
    ffn = 2 * 4 * 6
    first = 5 * (projections + output + scores + ffn)
    last = 5 * 4 * (2 * 2 + 2 * 3) + 4 * 2 * 2 + output + scores + ffn
    head = 4 * 112
    assert (first, last, head) == (890, 338, 448)
    every = dataclasses.replace(model, loss_positions="all")
    found = step_flops(model_plan(every), 5, SEQUENCES)
    assert found["attention"] == 6 * SEQUENCES * 2 * 5 * scores
    assert sum(found.values()) == 6 * SEQUENCES * (2 * first + 5 * head)
    pruned = step_flops(model_plan(model, absorb=False), 5, 1)
    assert sum(pruned.values()) == 6 * (first + last + head)
    # one row through the query, its way to the key's input, the value and the output
    rows = 4 * 2 * 2 + 2 * 2 * 4 + 2 * 3 * 4 + output
    absorbed = rows + 2 * 5 * (4 + 4) + ffn
    assert sum(step_flops(model_plan(model), 5, 1).values()) == 6 * (first + absorbed + head)


class Counted(np.ndarray):
    """float64 whose products add up their multiply-adds in `Counted.total`."""

    total = 0

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: Any, *inputs: Any, out: Any = None, **options: Any
    ) -> Any:
        plain = [_plain(x) for x in inputs]
        if out is not None:
            options["out"] = tuple(_plain(x) for x in out)
        result = getattr(ufunc, method)(*plain, **options)
        if ufunc is np.matmul:
            Counted.total += result.size * plain[0].shape[-1]
        return result.view(Counted) if isinstance(result, np.ndarray) else result

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is np.einsum:
            letters = zip("".join(args[0].split("->")[0].split(",")), _sizes(args[1:]), strict=True)
            Counted.total += math.prod(dict(letters).values())
            return np.einsum(args[0], *(_plain(x) for x in args[1:])).view(Counted)
        return super().__array_function__(func, types, args, kwargs)


def _plain(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, np.ndarray) else x


def _sizes(arrays: Any) -> list[int]:
    return [size for array in arrays for size in array.shape]


class CountedRun(PlanRun):
    def read(self, view: View, rows: int) -> Any:
        return super().read(view, rows).view(Counted)


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_what_a_literal_run_multiplies(name: str) -> None:
    """Without a mask, since the interpreter leaves masked scores out."""
    task, resolved = architecture(name)
    model = dataclasses.replace(resolved, causal=False)
    plan = model_plan(model)
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, (SEQUENCES, task.seq_len))
    Counted.total = 0
    CountedRun(plan, model, random_params(model, 1), tokens)
    counts = [op_flops(plan, op, task.seq_len, SEQUENCES) for op in plan.ops]
    assert Counted.total > 0
    assert sum(forward for forward, _ in counts) == 2 * Counted.total


@pytest.mark.parametrize("name", NAMES)
def test_forward_and_backward_are_what_torch_counts(name: str) -> None:
    """Where the loss reads all positions nothing is pruned; torch computes masked scores too."""
    task, resolved = architecture(name)
    model = dataclasses.replace(resolved, loss_positions="all")
    net = Transformer(model)
    tokens = torch.randint(model.vocab_size or 0, (SEQUENCES, task.seq_len))
    with FlopCounterMode(display=False) as counter:
        net.loss(tokens, tokens[:, 0], "all").backward()  # type: ignore[no-untyped-call]
    found = step_flops(model_plan(model), task.seq_len, SEQUENCES)
    assert sum(found.values()) == counter.get_total_flops()


def test_an_unknown_kind_is_refused() -> None:
    _, model = architecture("default")
    plan = model_plan(model)
    ops = (*plan.ops, dataclasses.replace(plan.ops[0], kind="fourier"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'fourier' has no entry"):
        step_flops(Plan(plan.buffers, ops), 9, 1)


def test_traffic_counted_by_hand() -> None:
    """One layer, d 16 = d_k, FFN 32, T 5, V 112, 20 sequences in two halves, each a microbatch."""
    sizes: dict[str, Any] = {"layers": 1, "d_model": 16, "heads": 1, "d_k": 16, "d_v": 16}
    sizes |= {"d_ff": 32, "loss_positions": "all"}
    model = resolve(ModelConfig(**sizes), Ports(5, 112))
    native = NativePlan(model, 5, 20, "matrices")
    assert native.microbatch == 16
    weights = 4 * 16 * 16 + 2 * 16 * 32 + 112 * 16
    # embed, norm1, q k v, attended (and P of 16 lanes), output, norm2, up (and slope), down,
    # final norm, logits; each written and read
    row = 2 * (16 + 16 + 48 + 16 + 16 + 16 + 32 + 16 + 16 + 112) + 2 * (16 + 32)
    passes, update = step_traffic(native)
    assert passes.moved == 4 * (20 * 5 * row + 4 * 2 * weights)
    assert (update.moved, update.held) == (4 * 13 * native.flat.size, 4 * 5 * native.flat.size)
    assert passes.held > 4 * native.workspace_size


def test_traffic_grows_with_the_microbatches() -> None:
    _, model = architecture("default")
    one, two = (step_traffic(NativePlan(model, 9, batch, "matrices")) for batch in (32, 64))
    assert two[0].moved == 2 * one[0].moved
    assert one[1] == two[1]
