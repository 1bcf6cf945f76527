"""The single member: names, shapes, what it may see, and its loss."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
import torch
from architectures import NAMES, architecture, every_setting
from oracle import _Order, build, evaluate, random_batch, random_params, reference

from compfast.config import ModelConfig
from compfast.errors import UsageError
from compfast.models.params import parameter_table
from compfast.models.transformer import Transformer


def test_names_and_shapes_are_the_table() -> None:
    models = every_setting()
    assert len(models) > 150
    for model in models:
        module = Transformer(model)
        table = {tensor.name: tensor.shape for tensor in parameter_table(model)}
        assert {name: tuple(p.shape) for name, p in module.named_parameters()} == table
        assert set(module.state_dict()) == set(table)


@pytest.mark.parametrize("name", NAMES)
def test_an_error_has_a_band(name: str) -> None:
    """The bands name every tensor and are of the size that float32 errors really have."""
    task, model = architecture(name)
    found = reference(model, [random_params(model, 3)], *random_batch(model, task.seq_len, 6, 4))
    assert found.exact.grads.keys() == {t.name for t in parameter_table(model)}
    assert found.exact.bands.keys() == found.errors.keys()
    ratios = [error / found.exact.bands[name].max() for name, error in found.errors.items()]
    assert 1 / 4 < np.median(ratios) < 4


@pytest.mark.parametrize("name", ["own_head_sizes", "tied_all_post"])
def test_another_order_is_the_same_network(name: str) -> None:
    task, model = architecture(name)
    params, batch = random_params(model, 3), random_batch(model, task.seq_len, 6, 4)
    order = _Order(model, 6, np.random.default_rng(1))
    exact = evaluate(model, params, *batch)
    other = order.undo(evaluate(model, order.apply(params), *order.batch(*batch)))
    np.testing.assert_allclose(other.logits, exact.logits, rtol=1e-10, atol=1e-12)
    for tensor, gradient in exact.grads.items():
        np.testing.assert_allclose(other.grads[tensor], gradient, rtol=1e-9, atol=1e-14)


def test_a_network_of_given_weights_needs_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's takes seconds to import, and is imported for draws on the meta device."""
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)
    _, model = architecture("spare_positions")
    params = {name: array.astype(np.float32) for name, array in random_params(model, 5).items()}
    module = Transformer.holding(model, params)
    for name, parameter in module.named_parameters():
        assert parameter.requires_grad
        assert parameter.detach().numpy().tobytes() == params[name].tobytes()


def test_no_position_sees_the_future() -> None:
    task, model = architecture("default")
    module = build(model, random_params(model, 0), torch.float64)
    tokens = torch.tensor(random_batch(model, task.seq_len, 4, 1)[0]).long()
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 100
    with torch.no_grad():
        before, after = module(tokens), module(changed)
    assert torch.equal(before[:, :6], after[:, :6])
    assert (before[:, 6:] != after[:, 6:]).any(dim=-1).all()


def test_every_position_sees_the_future_without_the_mask() -> None:
    task, model = architecture("not_causal")
    module = build(model, random_params(model, 0), torch.float64)
    tokens = torch.tensor(random_batch(model, task.seq_len, 4, 1)[0]).long()
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 100
    with torch.no_grad():
        assert (module(tokens) != module(changed)).any(dim=-1).all()


@pytest.mark.parametrize("positions", ["last", "all"])
def test_loss_is_the_mean_negative_log_probability(positions: str) -> None:
    task, model = architecture("default")
    module = build(model, random_params(model, 0), torch.float64)
    tokens, targets = random_batch(model, task.seq_len, 5, 1)
    with torch.no_grad():
        logits = module(torch.tensor(tokens).long()).numpy()
        loss = module.loss(torch.tensor(tokens).long(), torch.tensor(targets).long(), positions)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    sequence = range(task.seq_len) if positions == "all" else [task.seq_len - 1]
    terms = [
        -logp[b, t, targets[b] if t == task.seq_len - 1 else tokens[b, t + 1]]
        for b in range(5)
        for t in sequence
    ]
    assert float(loss) == pytest.approx(np.mean(terms), rel=1e-12)


def test_tied_head_adds_both_gradients() -> None:
    task, tied = architecture("tied")
    untied = dataclasses.replace(tied, tied_head=False)
    params = random_params(tied, 0)
    batch = random_batch(tied, task.seq_len, 4, 1)
    own = {**params, "head.weight": params["embed.token.weight"]}
    joined, apart = evaluate(tied, params, *batch).grads, evaluate(untied, own, *batch).grads
    both = apart["embed.token.weight"] + apart["head.weight"]
    np.testing.assert_allclose(joined["embed.token.weight"], both, rtol=1e-12, atol=1e-15)


def test_a_longer_sequence_than_the_table_is_refused() -> None:
    task, model = architecture("default")
    tokens = torch.zeros(1, task.seq_len + 1, dtype=torch.long)
    with pytest.raises(UsageError, match="has 10 tokens; this model has 9 positions"):
        Transformer(model)(tokens)


def test_an_unresolved_model_is_refused() -> None:
    with pytest.raises(ValueError, match="not resolved"):
        Transformer(ModelConfig())


@pytest.mark.parametrize("wrong", [np.nan, 1e-3])
def test_the_budget_refuses(wrong: float) -> None:
    task, model = architecture("default")
    batch = random_batch(model, task.seq_len, 6, seed=4)
    found = reference(model, [random_params(model, 3)], *batch)
    for name, gradient in found.exact.grads.items():
        got = gradient.astype(np.float32)
        found.check(name, got)
        got.flat[0] += wrong
        with pytest.raises(AssertionError, match=name):
            found.check(name, got)
