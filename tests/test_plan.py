"""The plan computes the oracle's function, and holds no row that the loss cannot see."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from architectures import NAMES, architecture
from oracle import build, random_batch, random_params
from oracle_plan import PlanRun

from compfast.config import ModelConfig, Ports
from compfast.models.families import model_plan, resolve
from compfast.models.params import parameter_table
from compfast.models.plan import Op, View, prune_rows


@pytest.mark.parametrize("absorb", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_plan_is_the_transformer(name: str, absorb: bool) -> None:
    task, model = architecture(name)
    params = random_params(model, seed=1)
    tokens, _ = random_batch(model, task.seq_len, 3, seed=2)
    plan = model_plan(model, absorb=absorb)
    got = PlanRun(plan, model, params, tokens).values[_logits(plan.ops).buffer]
    with torch.no_grad():
        full = build(model, params, torch.float64)(torch.tensor(tokens).long()).numpy()
    wanted = full if model.loss_positions == "all" else full[:, -1:]
    np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("absorb", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_plan_uses_every_parameter_once(name: str, absorb: bool) -> None:
    _, model = architecture(name)
    plan = model_plan(model, absorb=absorb)
    used = [w for op in plan.ops for w in (*op.weights, *op.biases)]
    expected = [tensor.name for tensor in parameter_table(model)]
    if model.tied_head:
        expected.append("embed.token.weight")
    assert sorted(used) == sorted(expected)


@pytest.mark.parametrize("name", NAMES)
def test_every_buffer_is_written_before_it_is_read(name: str) -> None:
    _, model = architecture(name)
    plan = model_plan(model)
    written: set[str] = set()
    for op in plan.ops:
        assert {view.buffer for view in op.inputs} <= written
        if op.output is not None:
            assert op.output.buffer not in written
            written.add(op.output.buffer)
    assert written == {buffer.name for buffer in plan.buffers}


def test_last_layer_keeps_only_the_last_row() -> None:
    plan = model_plan(_resolved(layers=2))
    rows = {buffer.name: buffer.rows for buffer in plan.buffers}
    everywhere = {name for name in rows if rows[name] == "all"}
    assert everywhere == {
        "embed",
        "blocks.0.norm1",
        "blocks.0.attention.query",  # the joined query, key and value
        "blocks.0.attention",
        "blocks.0.attention.output",
        "blocks.0.norm2",
        "blocks.0.ffn.up",
        "blocks.0.ffn.down",
        "blocks.1.norm1",
    }
    assert rows["blocks.1.attention.query"] == rows["logits"] == "last"


def test_a_lone_query_takes_the_projections_of_keys_and_values() -> None:
    plan = model_plan(_resolved(layers=2, d_model=24, heads=2, d_k=5, d_v=7))
    name = "blocks.1.attention"
    made = [op for op in plan.ops if op.output and op.output.buffer.startswith(name)]
    _, key, attention, value, _ = made
    assert (key.kind, key.weights, key.attributes["narrow"]) == (
        "head_linear",
        (f"{name}.key.weight",),
        False,
    )
    h = View("blocks.1.norm1", 0, 24)
    assert attention.inputs == (View(f"{name}.key", 0, 48), h, h)
    assert attention.attributes["shared"]
    assert (value.kind, value.weights, value.attributes["narrow"]) == (
        "head_linear",
        (f"{name}.value.weight",),
        True,
    )
    assert {plan.buffer(op.output.buffer).rows for op in made if op.output} == {"last"}
    first = next(op for op in plan.ops if op.kind == "attention")
    assert "shared" not in first.attributes


def test_post_norm_needs_no_second_norm_at_earlier_positions() -> None:
    plan = model_plan(_resolved(layers=1, norm="post"))
    rows = {buffer.name: buffer.rows for buffer in plan.buffers}
    assert {name for name in rows if rows[name] == "all"} == {"embed"}
    kept = model_plan(_resolved(layers=1, norm="post"), absorb=False)
    assert {buffer.name for buffer in kept.buffers if buffer.rows == "all"} == {
        "embed",
        "blocks.0.attention.key",  # the joined key and value
    }


def test_loss_on_all_positions_prunes_nothing() -> None:
    plan = model_plan(_resolved(loss_positions="all"))
    assert {buffer.rows for buffer in plan.buffers} == {"all"}


def test_projections_are_joined_where_their_rows_agree() -> None:
    model = _resolved(layers=2, d_model=24, d_k=5, d_v=7)
    plan = model_plan(model, absorb=False)
    first, second = (
        [op for op in plan.ops if any(w.startswith(f"blocks.{i}.attention.") for w in op.weights)]
        for i in (0, 1)
    )
    assert [len(op.weights) for op in first] == [3, 1]
    assert [len(op.weights) for op in second] == [1, 2, 1]
    attention = next(op for op in plan.ops if op.kind == "attention")
    joined = "blocks.0.attention.query"
    assert attention.inputs == (View(joined, 0, 5), View(joined, 5, 5), View(joined, 10, 7))
    assert plan.buffer(joined).width == 17


def test_a_buffer_pruned_too_far_is_caught() -> None:
    task, model = architecture("default")
    plan = model_plan(model)
    short = tuple(
        dataclasses.replace(b, rows="last") if b.name == "blocks.1.norm1" else b
        for b in plan.buffers
    )
    broken = dataclasses.replace(plan, buffers=short)
    tokens, _ = random_batch(model, task.seq_len, 2, seed=0)
    with pytest.raises(AssertionError, match="no rows left"):
        PlanRun(broken, model, random_params(model, seed=0), tokens)


def test_pruning_twice_changes_nothing() -> None:
    plan = model_plan(_resolved())
    assert prune_rows(plan, "last") == plan


def _logits(ops: tuple[Op, ...]) -> View:
    assert ops[-1].kind == "loss"
    return ops[-1].inputs[0]


def _resolved(**changes: object) -> ModelConfig:
    model: ModelConfig = resolve(ModelConfig(**changes), Ports(9, 110))  # type: ignore[arg-type]
    return model
