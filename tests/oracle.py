"""Error budgets: how far a result may lie from float64 before it is wrong.

    err(engine) <= 2 * (err(eager float32) + band)

err is the largest absolute difference from float64 in one named tensor; eager float32 is the
same network in plain PyTorch. band = eps(float32) x the last op of that tensor evaluated on
absolute values, taken from the float64 pass:
    logits                      |x| |W|^T + |bias|
    loss                        mean of |logit of the target| + |log-sum-exp|
    a weight's gradient         |dY|^T |X|, the linear op's backward; tied tensors add up
    a bias', norm's or table's  the sum of |its contributions| over sequences and positions
Nothing else is tuned: no relative tolerance, no constant.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from compfast.config import ModelConfig
from compfast.models.transformer import Embedding, Head, Transformer
from compfast.params import parameter_table

EPS = float(np.finfo(np.float32).eps)

Array = NDArray[Any]
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Evaluation:
    """One pass: logits [B, T, V], loss [], gradient by name, and each one's band."""

    logits: Array
    loss: Array
    grads: Arrays
    bands: Arrays  # name -> band, with "logits" and "loss" beside the parameters


def assert_within_budget(
    name: str, got: Array, eager32: Array, reference64: Array, band: Array | float
) -> None:
    """Fail unless `got` is finite, of the right shape and inside the budget of this page."""
    assert got.shape == reference64.shape, f"{name}: shape {got.shape}, not {reference64.shape}"
    assert np.isfinite(got).all(), f"{name}: not finite"
    error = float(np.abs(got.astype(np.float64) - reference64).max())
    eager = float(np.abs(eager32.astype(np.float64) - reference64).max())
    allowed = 2 * (eager + float(np.max(band)))
    assert error <= allowed, (
        f"{name}: error {error:.3g} of values up to {np.abs(reference64).max():.3g} exceeds"
        f" {allowed:.3g} = 2 * (eager {eager:.3g} + band {np.max(band):.3g})"
    )


def random_params(model: ModelConfig, seed: int) -> Arrays:
    """A network of order-one activations in which every tensor matters, float32."""
    rng = np.random.default_rng(seed)
    params: Arrays = {}
    for tensor in parameter_table(model):
        scale = tensor.fan_in**-0.5 if tensor.matrix else 0.3
        draw = rng.standard_normal(tensor.shape) * scale + (tensor.init == "one")
        params[tensor.name] = draw.astype(np.float32)
    return params


def random_batch(model: ModelConfig, length: int, batch: int, seed: int) -> tuple[Array, Array]:
    """tokens [B, T] and targets [B], int32, anything in the vocabulary."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, model.vocab_size, (batch, length), dtype=np.int32)
    return tokens, rng.integers(0, model.vocab_size, batch, dtype=np.int32)


def build(model: ModelConfig, params: Mapping[str, Array], dtype: torch.dtype) -> Transformer:
    """The oracle's module with these parameters."""
    module = Transformer(model).to(dtype)
    module.load_state_dict({name: torch.tensor(value) for name, value in params.items()})
    return module


def evaluate(
    model: ModelConfig,
    params: Mapping[str, Array],
    tokens: Array,
    targets: Array,
    dtype: torch.dtype = torch.float64,
) -> Evaluation:
    """Forward and backward of the oracle in `dtype`; tokens [B, T], targets [B]."""
    module = build(model, params, dtype)
    bands = _Bands(module)
    x, y = torch.tensor(tokens).long(), torch.tensor(targets).long()
    loss = module.loss(x, y, model.loss_positions)
    loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        logits = module(x)
        bands.found["loss"] = _loss_band(logits, x, y, model.loss_positions)
    grads = {name: _array(p.grad) for name, p in module.named_parameters() if p.grad is not None}
    found = {name: EPS * _array(value) for name, value in bands.found.items()}
    return Evaluation(_array(logits), _array(loss), grads, found)


class _Bands:
    """Hooks that run each op's last sum once more on absolute values."""

    def __init__(self, module: Transformer) -> None:
        self.found: dict[str, torch.Tensor] = {}
        for name, child in module.named_modules():
            if isinstance(child, nn.Linear | nn.LayerNorm | Embedding | Head):
                child.register_forward_hook(self._forward(name))

    def _forward(self, name: str) -> Any:
        def hook(child: nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
            if out.requires_grad:
                kept = [x.detach() for x in inputs]
                backward = functools.partial(self._backward, name, child, kept)
                out.register_hook(backward)  # type: ignore[no-untyped-call]
            if isinstance(child, Head):
                weight = inputs[1] if child.weight is None else child.weight
                bias = None if child.bias is None else child.bias.abs()
                self.found["logits"] = F.linear(inputs[0].abs(), weight.abs(), bias)

        return hook

    def _backward(
        self, name: str, child: nn.Module, inputs: list[torch.Tensor], dy: torch.Tensor
    ) -> None:
        x, dy = inputs[0], dy.abs()
        if isinstance(child, Embedding):
            table = torch.zeros_like(child.token.weight)
            self._add(f"{name}.token.weight", table.index_add(0, x.flatten(), dy.flatten(0, 1)))
            rows = torch.zeros_like(child.position.weight)
            rows[: dy.shape[1]] = dy.sum(0)
            self._add(f"{name}.position.weight", rows)
            return
        assert isinstance(child, nn.Linear | nn.LayerNorm | Head)
        dy = dy.flatten(0, -2)
        if child.bias is not None:
            self._add(f"{name}.bias", dy.sum(0))
        if isinstance(child, nn.LayerNorm):
            normal = F.layer_norm(x, child.normalized_shape, eps=child.eps).flatten(0, -2)
            self._add(f"{name}.weight", (dy * normal.abs()).sum(0))
        else:
            tied = isinstance(child, Head) and child.weight is None
            owner = "embed.token.weight" if tied else f"{name}.weight"
            self._add(owner, dy.T @ x.abs().flatten(0, -2))

    def _add(self, name: str, value: torch.Tensor) -> None:
        self.found[name] = self.found[name] + value if name in self.found else value


def _loss_band(
    logits: torch.Tensor, tokens: torch.Tensor, targets: torch.Tensor, positions: str
) -> torch.Tensor:
    following = torch.cat([tokens[:, 1:], targets[:, None]], dim=1)
    if positions == "last":
        logits, following = logits[:, -1:], following[:, -1:]
    chosen = logits.gather(-1, following[..., None])[..., 0]
    return (chosen.abs() + logits.logsumexp(-1).abs()).mean()


def _array(tensor: torch.Tensor) -> Array:
    array: Array = tensor.detach().numpy()
    return array
