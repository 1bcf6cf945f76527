"""JAX on networks of vectors: jit(vmap(step)) over members, AdamW written out as optax has it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import Array

from benchmarks.peers.fused_loop import Weights, decaying
from benchmarks.peers.vectors import Batch, Kit, network, one_hot_buckets
from compfast.config import ModelConfig, OptimizerConfig

Params = dict[str, Array]
_State = tuple[Params, Params, Params, Array]  # parameters, moments, steps taken


def _norm(x: Array, scale: Array, shift: Array, eps: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + eps) * scale + shift


KIT = Kit(
    jnp.einsum,
    jax.nn.softmax,
    jax.nn.relu,
    lambda x: jax.nn.gelu(x, approximate=True),
    lambda x, weight, bias: x @ weight.T + bias,
    _norm,
    jnp.sqrt,
)


class JaxPeer:
    """See `benchmarks.peers.vectors.VectorPeer`; the members in one vmap.

    Parameters and moments are given up to each step, so that they are updated in place.
    """

    def __init__(
        self,
        weights: Weights,
        model: ModelConfig,
        options: OptimizerConfig,
        length: int,
        *,
        pruned: bool,
    ) -> None:
        asked = model.asked or 1
        buckets = jnp.asarray(one_hot_buckets(model, length).numpy())
        decay = decaying(model, options)

        def loss(p: Params, x: Array, y: Array) -> Array:
            outputs = network(KIT, p, x, buckets, model, asked if pruned else 0)[:, -asked:]
            if jnp.issubdtype(y.dtype, jnp.floating):
                return jnp.square(outputs - y).mean()
            chosen = jnp.take_along_axis(jax.nn.log_softmax(outputs), y[..., None], axis=-1)
            return -chosen.mean()

        def update(state: _State, x: Array, y: Array) -> tuple[_State, Array]:
            value, grads = jax.value_and_grad(loss)(state[0], x, y)
            return _adamw(state, grads, options, decay), value

        self._update = jax.jit(jax.vmap(update), donate_argnums=0)
        params = {name: jnp.array(w.numpy()) for name, w in weights.items()}
        m, v = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        self._state = params, m, v, jnp.zeros(len(next(iter(params.values()))))

    def step(self, batch: Batch) -> torch.Tensor:
        x, y = (jnp.asarray(np.asarray(given)) for given in batch)
        self._state, losses = self._update(self._state, x, y)
        jax.block_until_ready(self._state)
        return torch.from_numpy(np.array(losses))


def _adamw(state: _State, grads: Params, options: OptimizerConfig, decay: set[str]) -> _State:
    params, m, v, taken = state
    taken = taken + 1
    b1, b2 = options.beta1, options.beta2
    if options.clip:
        norm = jnp.sqrt(sum(jnp.square(g).sum() for g in grads.values()))
        scale = jnp.minimum(1.0, options.clip / (norm + 1e-6))
        grads = {name: g * scale for name, g in grads.items()}
    m = {n: b1 * m[n] + (1 - b1) * g for n, g in grads.items()}
    v = {n: b2 * v[n] + (1 - b2) * g * g for n, g in grads.items()}

    def moved(name: str) -> Any:
        change = (m[name] / (1 - b1**taken)) / (jnp.sqrt(v[name] / (1 - b2**taken)) + options.eps)
        if name in decay:
            change = change + options.weight_decay * params[name]
        return params[name] - options.lr * change

    return {name: moved(name) for name in params}, m, v, taken
