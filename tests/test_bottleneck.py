"""Networks that generate a small network's weights, against float64; where the query enters."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from architectures import BOTTLENECKS
from ensembles import member, random_state, start
from oracle import build
from vector_checks import check_alone, check_forward_and_gradients, check_ten_steps, specs_of

from compfast.config import Config, settings
from compfast.engines.arithmetic import op_flops
from compfast.engines.native_plan import NativePlan
from compfast.ensembles.grid import member_specs
from compfast.errors import UsageError
from compfast.models.bottleneck_config import BottleneckConfig
from compfast.models.families import model_plan
from compfast.models.params import parameter_table
from compfast.tasks import make_task, preset

SIZES = (3, 22)  # sequences in a batch: less and more than a microbatch


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", BOTTLENECKS)
def test_forward_and_every_gradient(engine: str, name: str, size: int) -> None:
    check_forward_and_gradients(engine, name, size)


@pytest.mark.parametrize("name", ["sees_query", "empty_token"])
def test_ten_steps(engine: str, name: str) -> None:
    """Of small networks: where gamma is low a wide one begins with a loss of 25, where roundings
    grow too fast to say anything of an engine."""
    check_ten_steps(engine, name)


@pytest.mark.parametrize("name", ["usual", "one_unit"])
def test_a_member_is_the_same_alone(engine: str, name: str) -> None:
    check_alone(engine, specs_of(name))


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_the_answer_is_the_generated_network_at_the_query(name: str) -> None:
    """W x by a loop over the last columns of the one linear map, in float64."""
    spec = specs_of(name)[0]
    model: Any = spec.model
    params = {n: v[0].astype(np.float64) for n, v in random_state(specs_of(name)).params.items()}
    module: Any = build(model, params, torch.float64)
    inputs, _ = make_task(spec.task).batch(0, 0, 4)
    x = torch.tensor(inputs.astype(np.float64))
    with torch.no_grad():
        code, answer = module.coded(x).numpy(), module(x).numpy()
    assert answer.shape == (4, 1, 1)
    wide, hidden = model.query_width, model.hidden
    for b in range(4):
        query = inputs[b, len(inputs[b]) - 1 - model.empty, :wide].astype(np.float64)
        flat = params["generator.weight"] @ code[b] + params.get("generator.bias", 0.0)
        z = torch.tensor([flat[h * wide : (h + 1) * wide] @ query for h in range(hidden)])
        act: Any = {
            "relu": torch.relu,
            "gelu": torch.nn.functional.gelu,
            "gelu_tanh": lambda u: torch.nn.functional.gelu(u, approximate="tanh"),
        }[model.net_activation]
        wanted = params["head.weight"] @ act(z).numpy() + params.get("head.bias", 0.0)
        np.testing.assert_allclose(answer[b, 0], wanted, rtol=1e-10)


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_what_the_code_depends_on(engine: str, name: str) -> None:
    """On the context always; on the query's token where the transformer sees it, else not at all,
    though the answer does."""
    specs = specs_of(name)
    model: Any = specs[0].model
    inputs, _ = make_task(specs[0].task).batch(0, 0, 5)
    moved = inputs.copy()
    moved[:, -1 - model.empty] += 0.5
    module: Any = build(model, member(random_state(specs).params, 0), torch.float32)
    with torch.no_grad():
        codes = [module.coded(torch.tensor(each)).numpy() for each in (inputs, moved)]
    assert (codes[0] != codes[1]).any() == model.sees_query
    made = start(engine, specs)
    made.load(random_state(specs))
    first, second = (made.outputs(each, [0, 2]) for each in (inputs, moved))
    assert (first != second).all()
    moved = inputs.copy()
    moved[:, 0] += 0.5
    assert (made.outputs(moved, [0, 2]) != first).all()


def test_where_the_transformer_sees_no_query_the_answer_is_linear_before_its_activation(
    engine: str,
) -> None:
    """With ReLU: twice the query, twice the answer. Not so where it sees the query."""
    for seen in (False, True):
        specs = specs_of("usual", net_activation="relu", sees_query=seen)
        inputs, _ = make_task(specs[0].task).batch(0, 0, 5)
        twice = inputs.copy()
        twice[:, -1] *= 2
        made = start(engine, specs)
        made.load(random_state(specs))
        one, two = (made.outputs(each, [0]) for each in (inputs, twice))
        assert np.allclose(2 * one, two, rtol=1e-4) != seen


def test_its_blocks_draw_what_a_transformers_draw() -> None:
    """The same tensors under the same ids, so that the two start from the same numbers."""
    task, network = BOTTLENECKS["usual"]
    both = []
    for family in ("bottleneck", "transformer"):
        kept = {k: v for k, v in network.items() if k in ("d_model", "heads")}
        config = Config(task=task, model={**kept, "family": family})  # type: ignore[arg-type]
        both.append({t.name: t for t in parameter_table(member_specs(config)[0].model)})
    shared = both[0].keys() & both[1].keys() - {"head.weight"}
    assert all(both[0][name] == both[1][name] for name in shared)
    assert sorted(both[0].keys() - shared) == [
        "code.bias",
        "code.weight",
        "generator.bias",
        "generator.weight",
        "head.weight",
    ]
    ids = [tensor.id for tensor in both[0].values()]
    assert len(set(ids)) == len(ids)
    assert [both[0][n].id for n in ("code.weight", "generator.bias")] == [8, 11]


def test_the_plan_keeps_one_row_and_counts_the_generated_layer() -> None:
    model: Any = specs_of("paper")[0].model
    plan = model_plan(model)
    (op,) = (op for op in plan.ops if op.kind == "generated")
    assert {plan.buffer(n).rows for n in ("code", "generator", "generated", "head")} == {"last"}
    assert op_flops(plan, op, 12, 3) == (2 * 3 * 32 * 16, 2 * 3 * 32 * 16)
    first = next(op for op in plan.ops if op.weights == ("embed.input.weight",))
    assert op_flops(plan, first, 12, 3) == (2 * 3 * 12 * 17 * 32,) * 2  # no gradient of the task's
    record = NativePlan(model, 12, 13, "arrays").record()
    assert [o["blank"] for o in record["ops"] if o["kind"] == 7] == [0]


def test_what_a_bottleneck_cannot_be() -> None:
    teacher = BOTTLENECKS["usual"][0]
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"name": "anchor"}, {}, "bottleneck, for tasks of vectors with one query; this task has"),
        ({"name": "sraven"}, {}, "one query; this task asks 4 positions"),
        (teacher, {"query_width": 7}, "model.query_width is 7; it must be in 1..6"),
        (teacher, {"empty": 1}, "model.empty is 1; this task has 0"),
        (teacher, {"empty": -1}, "model.empty is -1; it must be at least 0"),
        (teacher, {"latent": 0}, "model.latent is 0; it must be at least 1"),
        (teacher, {"hidden": 5000}, "model.hidden is 5000; it must be at most 4096"),
        (teacher, {"net_activation": "tanh"}, "model.net_activation is 'tanh'; it must be one of"),
        (teacher, {"tied_head": True}, "model.tied_head is True"),
        (teacher, {"d_model": 20, "heads": 3}, "model.d_model 20 is not divisible by model.heads"),
    ]
    for task, model, sentence in cases:
        with pytest.raises(UsageError, match=re.escape(sentence)):
            member_specs(Config(task=task, model={"family": "bottleneck", **model}))  # type: ignore[arg-type]


def test_the_papers_sizes() -> None:
    (spec,) = member_specs(settings.from_dict(preset("hyperteacher-bottleneck-paper")))
    model = spec.model
    assert isinstance(model, BottleneckConfig)
    assert (model.d_model, model.heads, model.layers, model.d_ff) == (64, 4, 2, 256)
    assert (model.latent, model.hidden, model.query_width, model.causal) == (6, 32, 16, False)
    options, training = spec.optimizer, spec.training
    assert (options.lr, options.weight_decay, options.clip) == (1e-3, 0.0, 1.0)
    assert (training.steps, training.batch_size) == (100_000, 128)
    (plain,) = member_specs(settings.from_dict(preset("hyperteacher-paper")))
    assert plain.optimizer.weight_decay == 0.1
