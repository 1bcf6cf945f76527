"""Error budgets: how far a result may lie from float64 before it is wrong.

    err(engine) <= 2 * (err(eager float32) + band)

err is the largest absolute difference from float64 in one named tensor [M, *shape] of several
members. eager float32 is the same network in plain PyTorch; as one rounding is a single draw,
its error is the largest of `ORDERS` equal networks: the network as it stands, and others whose
hidden units and sequences stand in another order, so that every sum is rounded anew.
band = eps(float32) x the last op of that tensor evaluated on absolute values, in float64:
    logits                      |x| |W|^T + |bias|
    loss                        mean of |logit of the target| + |log-sum-exp|
    a weight's gradient         |dY|^T |X|, the linear op's backward; tied tensors add up
    a bias', norm's or table's  the sum of |its contributions| over sequences and positions; of a
                                relative bias those of the scores in its bucket
    a deep path's second layer  the sum of |weight| |its output's gradient| |its input|
Nothing else is tuned: no relative tolerance, no constant.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn
from torch.utils.hooks import RemovableHandle

from compfast.config import ModelConfig
from compfast.models.attention import Attention
from compfast.models.bottleneck import Bottleneck
from compfast.models.bottleneck_config import BottleneckConfig
from compfast.models.params import parameter_table
from compfast.models.relative import bucket_table
from compfast.models.transformer import Embedding, Head, Stack, Transformer

EPS = float(np.finfo(np.float32).eps)
ORDERS = 4

Array = NDArray[Any]
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Evaluation:
    """One pass: logits [B, T, V], loss [], gradient by name, and each one's band.

    Of several members: the same with M in front.
    """

    logits: Array
    loss: Array
    grads: Arrays
    bands: Arrays  # with "logits" and "loss" beside the parameters; only of the float64 pass


@dataclass(frozen=True)
class Reference:
    """The float64 pass of M members and, by name, the error of float32 PyTorch."""

    exact: Evaluation
    errors: dict[str, float]

    def check(self, name: str, got: Array, where: Any = ...) -> None:
        """`got` is the tensor `name` [M, *shape], or its part `where`, of an engine."""
        wanted = _by_name(self.exact)[name][where]
        assert_within_budget(name, got, wanted, self.errors[name], self.exact.bands[name])


def assert_within_budget(
    name: str, got: Array, reference64: Array, eager_error: float, band: Array
) -> None:
    """Fail unless `got` is finite, of the right shape and inside the budget of this page."""
    assert got.shape == reference64.shape, f"{name}: shape {got.shape}, not {reference64.shape}"
    assert np.isfinite(got).all(), f"{name}: not finite"
    error = float(np.abs(got.astype(np.float64) - reference64).max())
    allowed = 2 * (eager_error + float(band.max()))
    assert error <= allowed, (
        f"{name}: error {error:.3g} of values up to {np.abs(reference64).max():.3g} exceeds"
        f" {allowed:.3g} = 2 * (eager {eager_error:.3g} + band {band.max():.3g})"
    )


def reference(
    model: ModelConfig,
    members: Sequence[Mapping[str, Array]],
    tokens: Array,
    targets: Array,
    orders_of_eager: int = ORDERS,
) -> Reference:
    """What an engine's results on tokens [B, T], targets [B] are compared with."""
    rng = np.random.default_rng(0)
    orders = [_Order(model, len(tokens), rng) for _ in range(orders_of_eager - 1)]
    exact = [evaluate(model, params, tokens, targets) for params in members]
    errors = dict.fromkeys(_by_name(exact[0]), 0.0)
    for params, wanted in zip(members, exact, strict=True):
        passes = [evaluate(model, params, tokens, targets, torch.float32)]
        for order in orders:
            moved = order.apply(params), *order.batch(tokens, targets)
            passes.append(order.undo(evaluate(model, *moved, torch.float32)))
        for single in passes:
            for name, value in _by_name(single).items():
                error = float(np.abs(value - _by_name(wanted)[name]).max())
                errors[name] = max(errors[name], error)
    return Reference(_stack(exact), errors)


def _stack(evaluations: Sequence[Evaluation]) -> Evaluation:
    def named(which: str) -> Arrays:
        rows = [getattr(e, which) for e in evaluations]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    return Evaluation(
        np.stack([e.logits for e in evaluations]),
        np.stack([e.loss for e in evaluations]),
        named("grads"),
        named("bands"),
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
    """tokens [B, T] and targets [B], int32, anything in the vocabulary; of a model of vectors
    those [B, T, width] and ids [B, asked] or numbers [B, asked, V]."""
    rng = np.random.default_rng(seed)
    if getattr(model, "input_width", None):  # networks of other families have none
        asked, out = model.asked or 1, model.vocab_size or 1
        width = model.input_width or 0
        vectors = rng.standard_normal((batch, length, width)).astype(np.float32)
        if model.loss == "squared_error":
            return vectors, rng.standard_normal((batch, asked, out)).astype(np.float32)
        return vectors, rng.integers(0, out, (batch, asked), dtype=np.int32)
    tokens = rng.integers(0, model.vocab_size, (batch, length), dtype=np.int32)
    if model.loss_positions == "masked":
        targets = rng.integers(0, model.vocab_size, (batch, length), dtype=np.int32)
        return tokens, np.where(rng.random((batch, length)) < 0.4, np.int32(-1), targets)
    return tokens, rng.integers(0, model.vocab_size, batch, dtype=np.int32)


def build(model: ModelConfig, params: Mapping[str, Array], dtype: torch.dtype) -> Any:
    """The oracle's module with these parameters."""
    module = _fresh(model).to(dtype)
    module.load_state_dict({name: torch.tensor(value) for name, value in params.items()})
    return module


@functools.cache
def _module(model: ModelConfig, dtype: torch.dtype) -> Transformer | Bottleneck:
    return _fresh(model).to(dtype)


def _fresh(model: ModelConfig) -> Transformer | Bottleneck:
    return Bottleneck(model) if isinstance(model, BottleneckConfig) else Transformer(model)


def evaluate(
    model: ModelConfig,
    params: Mapping[str, Array],
    tokens: Array,
    targets: Array,
    dtype: torch.dtype = torch.float64,
) -> Evaluation:
    """Forward and backward of the oracle in `dtype`; tokens [B, T], targets [B]."""
    module = _module(model, dtype)
    weights = dict(module.named_parameters())
    assert weights.keys() == params.keys()
    with torch.no_grad():
        for name, value in params.items():
            weights[name].copy_(torch.from_numpy(value))
            weights[name].grad = None
    seen: list[torch.Tensor] = []
    hooks = [module.head.register_forward_hook(lambda _, __, out: seen.append(out.detach()))]
    bands = _Bands(model, module, hooks) if dtype == torch.float64 else None
    x, y = (_given(part, dtype) for part in (tokens, targets))
    loss = module.loss(x, y, model.loss_positions)
    loss.backward()  # type: ignore[no-untyped-call]
    for hook in hooks:
        hook.remove()
    grads = {name: _array(p.grad) for name, p in weights.items() if p.grad is not None}
    found: Arrays = {}
    if bands is not None:
        if model.input_width:
            bands.found["loss"] = _answers_band(seen[0], y)
        else:
            bands.found["loss"] = _loss_band(seen[0], x, y, model.loss_positions)
        found = {name: EPS * _array(value) for name, value in bands.found.items()}
    return Evaluation(_array(seen[0]), _array(loss), grads, found)


def _given(part: Array, dtype: torch.dtype) -> torch.Tensor:
    found = torch.tensor(part)
    return found.to(dtype) if found.is_floating_point() else found.long()


def _by_name(evaluation: Evaluation) -> Arrays:
    return {**evaluation.grads, "logits": evaluation.logits, "loss": evaluation.loss}


class _Order:
    """The same network with residual columns, FFN units and sequences permuted; of a bottleneck the
    code's numbers and the small network's units too."""

    def __init__(self, model: ModelConfig, batch: int, rng: np.random.Generator) -> None:
        self.columns = rng.permutation(model.d_model)
        self.units = rng.permutation(model.d_ff or 0)
        self.sequences = rng.permutation(batch)
        self.generated: dict[str, list[Array]] = {}  # tensors of the bottleneck alone
        if isinstance(model, BottleneckConfig):
            code, hidden = rng.permutation(model.latent), rng.permutation(model.hidden)
            wide = model.query_width or 0
            rows = (hidden[:, None] * wide + np.arange(wide)).ravel()
            self.generated = {
                "code.weight": [code, self.columns],
                "code.bias": [code],
                "generator.weight": [rows, code],
                "generator.bias": [rows],
                "head.weight": [np.arange(model.vocab_size or 0), hidden],
            }

    def batch(self, tokens: Array, targets: Array) -> tuple[Array, Array]:
        return tokens[self.sequences], targets[self.sequences]

    def apply(self, params: Mapping[str, Array]) -> Arrays:
        return {name: value[np.ix_(*self._axes(name, value))] for name, value in params.items()}

    def undo(self, evaluation: Evaluation) -> Evaluation:
        grads = {}
        for name, value in evaluation.grads.items():
            grads[name] = np.empty_like(value)
            grads[name][np.ix_(*self._axes(name, value))] = value
        logits = np.empty_like(evaluation.logits)
        logits[self.sequences] = evaluation.logits
        return Evaluation(logits, evaluation.loss, grads, {})

    def _axes(self, name: str, value: Array) -> list[Array]:
        """New order of each axis of one tensor."""
        if name in self.generated:
            return self.generated[name]
        axes = [np.arange(size) for size in value.shape]
        writes = name.endswith(("output.weight", "output.bias", "down.weight", "down.bias"))
        if name.endswith(("relative.weight", "deep.weight")):
            return axes
        if "norm" in name or writes or "embed.input" in name:
            axes[0] = self.columns
        elif value.ndim == 2:
            axes[1] = self.columns
        if ".ffn.up." in name:
            axes[0] = self.units
        elif name.endswith("ffn.down.weight"):
            axes[1] = self.units
        return axes


class _Bands:
    """Hooks that run each op's last sum once more on absolute values."""

    def __init__(self, model: ModelConfig, module: Stack, hooks: list[RemovableHandle]) -> None:
        self.model = model
        self.found: dict[str, torch.Tensor] = {}
        for name, child in module.named_modules():
            if isinstance(child, nn.Linear | nn.LayerNorm | Embedding | Head):
                hooks.append(child.register_forward_hook(self._forward(name)))
            if isinstance(child, Attention) and (child.relative or child.deep) is not None:
                hooks.append(child.register_forward_hook(self._attended(name)))

    def _forward(self, name: str) -> Any:
        def hook(child: nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
            if out.requires_grad:
                kept = [x.detach() for x in inputs if x is not None]
                backward = functools.partial(self._backward, name, child, kept)
                out.register_hook(backward)  # type: ignore[no-untyped-call]
            if isinstance(child, Head):
                weight = inputs[1] if child.weight is None else child.weight
                bias = None if child.bias is None else child.bias.abs()
                self.found["logits"] = F.linear(inputs[0].abs(), weight.abs(), bias)

        return hook

    def _attended(self, name: str) -> Any:
        """Of an attention's relative bias and second layer: it is run again, with leaves where
        their contributions can be read."""

        def hook(child: Attention, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
            if out.requires_grad:
                x = inputs[0].detach()
                out.register_hook(functools.partial(self._parts, name, child, x))  # type: ignore[no-untyped-call]

        return hook

    def _parts(self, name: str, child: Attention, x: torch.Tensor, dy: torch.Tensor) -> None:
        with torch.enable_grad():
            again = Attention(self.model, {"dtype": x.dtype})  # without this one's hooks
            again.load_state_dict(child.state_dict())
            length, batch = x.shape[1], len(x)
            if again.relative is not None:  # a number of its own for each pair
                table = torch.from_numpy(bucket_table(length, again.relative.weight.shape[1]))
                pairs = again.relative.weight.detach()[:, table].repeat(batch, 1, 1, 1)
                pairs.requires_grad_()
                again.relative = None
                whole = again._weights
                again._weights = lambda scores: whole(scores + pairs)  # type: ignore[method-assign]
            if again.deep is not None:  # a matrix of its own for each pair
                heads, size = again.heads, again.deep.weight.shape[1]
                each = again.deep.weight.detach().view(heads, size, size)
                own = each.expand(batch, length, length, *each.shape).contiguous().requires_grad_()
                again._second = lambda weights, u: torch.einsum(  # type: ignore[method-assign]
                    "bhqk,bqkhce,bqke->bqkc", weights, own, u
                )
            again(x).backward(dy)
        if child.relative is not None:
            found = torch.zeros_like(child.relative.weight)
            grad = pairs.grad.abs().sum(0).flatten(1)  # type: ignore[union-attr]
            self._add(f"{name}.relative.weight", found.index_add(1, table.flatten(), grad))
        if child.deep is not None:
            total = own.grad.abs().sum((0, 1, 2))  # type: ignore[union-attr]
            self._add(f"{name}.deep.weight", total.reshape(child.deep.weight.shape))

    def _backward(
        self, name: str, child: nn.Module, inputs: list[torch.Tensor], dy: torch.Tensor
    ) -> None:
        x, dy = inputs[0], dy.abs()
        if isinstance(child, Embedding):
            table = torch.zeros_like(child.token.weight)
            self._add(f"{name}.token.weight", table.index_add(0, x.flatten(), dy.flatten(0, 1)))
            if child.position is None:
                return
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


def _answers_band(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    asked = outputs[:, -targets.shape[1] :]
    if targets.is_floating_point():
        return ((asked.abs() + targets.abs()) * (asked - targets).abs()).mean()
    chosen = asked.gather(-1, targets[..., None])[..., 0]
    return (chosen.abs() + asked.logsumexp(-1).abs()).mean()


def _loss_band(
    logits: torch.Tensor, tokens: torch.Tensor, targets: torch.Tensor, positions: str
) -> torch.Tensor:
    if positions == "masked":
        chosen = logits.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        terms = (chosen.abs() + logits.logsumexp(-1).abs()) * (targets >= 0)
        return (terms.sum(1) / (targets >= 0).sum(1).clamp(min=1)).mean()
    following = torch.cat([tokens[:, 1:], targets[:, None]], dim=1)
    if positions == "last":
        logits, following = logits[:, -1:], following[:, -1:]
    chosen = logits.gather(-1, following[..., None])[..., 0]
    return (chosen.abs() + logits.logsumexp(-1).abs()).mean()


def _array(tensor: torch.Tensor) -> Array:
    array: Array = tensor.detach().numpy()
    return array
