"""JAX: one member's step in plain jax.numpy with optax, vmapped over members and jitted."""

from __future__ import annotations

import importlib.metadata
import math
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from benchmarks.problem import Problem
from compfast.config import ModelConfig
from compfast.engines.base import Float32
from compfast.tasks.anchor import AnchorTask

Params = dict[str, Array]
_GEMM = 512


class JaxPeer:
    """See `benchmarks.peers.base.Peer`.

    `together`: one vmap over all members, else a loop over members. `one_hot`: the token table
    is read by a matrix product, whose gradient is one too, instead of gather and scatter.
    """

    def __init__(self, problem: Problem, *, together: bool, one_hot: bool) -> None:
        options = problem.optimizer
        self._problem, self._together = problem, together
        optimizer = optax.chain(
            optax.clip_by_global_norm(options.clip),
            optax.adamw(
                options.lr,
                options.beta1,
                options.beta2,
                options.eps,
                weight_decay=options.weight_decay,
            ),
        )
        model = problem.model

        def update(carry: Any, tokens: Array, targets: Array) -> tuple[Any, Array]:
            params, state = carry
            loss, grads = jax.value_and_grad(_loss)(params, tokens, targets, model, one_hot)
            changes, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, changes), state), loss

        def draw(key: Array) -> tuple[Array, Array, Array]:
            key, drawing = jax.random.split(key)
            return key, *anchor_batch(drawing, problem.task, problem.batch_size)

        self._update = jax.jit(jax.vmap(update), donate_argnums=0)
        self._draw = jax.jit(jax.vmap(draw))
        params = {name: jnp.asarray(value) for name, value in problem.initial().items()}
        whole = (params, jax.vmap(optimizer.init)(params))
        keys = jax.random.split(jax.random.key(0), problem.members)
        # A stack is all members, or one: the same vmap with M = 1.
        width = problem.members if together else 1
        starts = range(0, problem.members, width)
        self._slices = [slice(i, i + width) for i in starts]
        self._carries = [jax.tree.map(lambda x, s=s: x[s], whole) for s in self._slices]
        self._keys = [keys[s] for s in self._slices]

    def losses(self, steps: int) -> Float32:
        columns = []
        for t in range(steps):
            tokens, targets = self._problem.batch(t)
            parts = []
            for i, s in enumerate(self._slices):
                self._carries[i], loss = self._update(self._carries[i], tokens[s], targets[s])
                parts.append(np.asarray(loss))
            columns.append(np.concatenate(parts))
        return np.stack(columns, axis=1)

    def train(self, steps: int) -> None:
        for i in range(len(self._slices)):
            for _ in range(steps):
                self._keys[i], tokens, targets = self._draw(self._keys[i])
                self._carries[i], _ = self._update(self._carries[i], tokens, targets)
        jax.block_until_ready(self._carries)

    def matmul(self) -> str:
        return f"XLA CPU of jaxlib {importlib.metadata.version('jaxlib')}"

    def matmul_rate(self) -> float | None:
        a = jnp.ones((_GEMM, _GEMM), jnp.float32)
        product = jax.jit(jnp.matmul)
        times = []
        for _ in range(18):
            start = time.perf_counter()
            product(a, a).block_until_ready()
            times.append(time.perf_counter() - start)
        return 2 * _GEMM**3 / statistics.median(times[3:]) / 1e9


def anchor_batch(key: Array, task: AnchorTask, count: int) -> tuple[Array, Array]:
    """A fresh batch drawn by jax.random: tokens [count, T], targets [count]."""
    pairs, combos, config = (
        jnp.asarray(task.train_pairs),
        jnp.asarray(task.train_combos),
        task.config,
    )
    keys = jax.random.split(key, 3)
    pair = pairs[jax.random.randint(keys[0], (count,), 0, len(pairs))]
    combo = combos[jax.random.randint(keys[1], (count,), 0, len(combos))]
    shape = (count, config.seq_len)
    tokens = jax.random.randint(keys[2], shape, config.item_low, config.item_high)
    offset = jnp.arange(config.seq_len) - combo[:, 1:]  # of each position from the key
    for j, planted in enumerate((combo[:, :1], pair[:, :1], pair[:, 1:2])):
        tokens = jnp.where(offset == j, planted, tokens)
    return tokens, combo[:, 0] + pair[:, 2]


def _loss(p: Params, tokens: Array, targets: Array, model: ModelConfig, one_hot: bool) -> Array:
    """One member: tokens [B, T], targets [B] -> mean cross-entropy at the last position."""
    table = p["embed.token.weight"]
    x = jax.nn.one_hot(tokens, table.shape[0]) @ table if one_hot else table[tokens]
    x = x + p["embed.position.weight"][: tokens.shape[1]]
    for layer in range(model.layers):
        name = f"blocks.{layer}"
        last = layer == model.layers - 1
        h = _norm(p, f"{name}.norm1", x, model.norm_eps)
        k = _linear(p, f"{name}.attention.key", h)
        v = _linear(p, f"{name}.attention.value", h)
        q = _linear(p, f"{name}.attention.query", h[:, -1:] if last else h)
        scores = jnp.einsum("bsd,btd->bst", q, k) / math.sqrt(q.shape[-1])
        if last:
            x = x[:, -1:]
        else:
            causal = jnp.tril(jnp.ones(scores.shape[1:], bool))
            scores = jnp.where(causal, scores, -jnp.inf)
        mixed = jnp.einsum("bst,btd->bsd", jax.nn.softmax(scores), v)
        x = x + _linear(p, f"{name}.attention.output", mixed)
        h = _norm(p, f"{name}.norm2", x, model.norm_eps)
        up = jax.nn.gelu(_linear(p, f"{name}.ffn.up", h), approximate=False)
        x = x + _linear(p, f"{name}.ffn.down", up)
    x = _norm(p, "final_norm", x[:, -1], model.norm_eps)
    logits = _linear(p, "head", x)
    each: Array = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return each.mean()


def _linear(p: Params, name: str, x: Array) -> Array:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def _norm(p: Params, name: str, x: Array, eps: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + eps) * p[f"{name}.weight"] + p[f"{name}.bias"]


def make(problem: Problem, variant: str) -> JaxPeer:
    return JaxPeer(
        problem,
        together=variant.startswith("all"),
        one_hot=variant.endswith("one-hot"),
    )
