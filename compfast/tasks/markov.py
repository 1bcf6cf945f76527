"""Markov chains: does a network use the symbols before, or only how often each one comes?

Makkuva et al., arXiv 2402.04161, and arXiv 2406.03072. A binary chain goes from 0 to 1 with
probability p and from 1 to 0 with q; a chain of V states stays with 1 - p and moves to each other
one with p / (V - 1); a random one has every row uniform on the simplex. The network predicts each
next symbol. `global` (bigram) predicts the chain's own transitions, `local` (unigram) the
stationary law whatever came before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from compfast.config import EvaluationConfig, TaskSection
from compfast.config.section import at_most, check_seed, positive, require, require_together
from compfast.errors import UsageError
from compfast.streams import philox
from compfast.tasks.base import Float64, Int32, Settings, Task
from compfast.tasks.chain_exam import CANDIDATES, ChainExam, entropy

_UNIT = 2**30  # of a threshold: a probability of 0 or 1 is exact
_MOST_CONTEXTS = 4096
_MOST_STEPS, _SETTLED = 10_000, 1e-15  # of the search for a stationary law


@dataclass(frozen=True, slots=True)
class MarkovConfig(TaskSection):
    """arXiv 2406.03072, section 2; (0.5, 0.8) is its pair with p + q > 1."""

    name: str = "markov"
    chain: Literal["binary", "switching", "random"] = "binary"  # which kind of transitions
    p: float = 0.5  # binary: P(1 | 0); switching: probability of leaving a state
    q: float = 0.8  # binary: P(0 | 1)
    states: int = 2  # V
    order: int = 1  # k: random chains look back so far
    chain_seed: int = 0  # of a random chain; the same for all members
    start: Literal["stationary", "uniform"] = "stationary"  # law of the first symbols
    seq_len: int = 256  # T; 1024 in the paper

    def _check(self) -> None:
        positive("task", self, "order", "seq_len")
        at_most("task", self, states=1024, order=12, seq_len=2**16)
        require(self.states >= 2, f"task.states is {self.states}; it must be at least 2")
        for name in ("p", "q"):
            value = getattr(self, name)
            require(0 < value <= 1, f"task.{name} is {value}; it must be above 0 and at most 1")
        require_together(
            self.chain != "binary" or self.states == 2,
            f"task.states is {self.states}; a binary chain has 2",
        )
        require_together(
            self.chain == "random" or self.order == 1,
            f"task.order is {self.order}; a {self.chain} chain has order 1",
        )
        require_together(
            self.states**self.order <= _MOST_CONTEXTS and self.order <= self.seq_len,
            f"task.states {self.states} and task.order {self.order} make"
            f" {self.states**self.order} contexts; at most {_MOST_CONTEXTS} are taken, and an order"
            " of at most task.seq_len",
        )
        check_seed("task.chain_seed", self.chain_seed)

    def describe(self, varied: frozenset[str]) -> str:
        """E.g. "markov, binary, p 0.5, q 0.8"."""
        shown = {"binary": ("p", "q"), "switching": ("states", "p"), "random": ("states", "order")}
        said = [self.name, self.chain]
        said += [f"{n} {getattr(self, n)}" for n in shown[self.chain] if n not in varied]
        return ", ".join(said)


# The optimiser and schedule of 2406.03072's code.
_OPTIMIZER: Settings = {
    "lr": 2e-3,
    "weight_decay": 1e-3,
    "decay": "matrices",
    "clip": 0.0,
    "beta2": 0.95,
    "schedule": "one_cycle",
    "warmup": 0.02,
    "floor": 0.2,
}
_INIT: Settings = {"std": 0.02, "residual_scale": True}  # its GPT-2 law: 0.02, 0.02 / sqrt(2 L)
_ONE_LAYER: Settings = {
    "layers": 1,
    "heads": 1,
    "loss_positions": "all",
    "attention_bias": False,
    "ffn_bias": False,
    "tied_head": True,
}
# Its networks: one logit without norms (folder Markov-Simple2), and the GPT-2 form of two tokens.
_SINGLE: Settings = {
    **_ONE_LAYER,
    "d_model": 4,
    "d_ff": 16,
    "norm": "none",
    "activation": "relu",
    "logits": "single",
}
_GPT: Settings = {**_ONE_LAYER, "d_model": 8, "d_ff": 32, "norm_bias": False, "vocab_size": 2}


class MarkovTask(Task[MarkovConfig]):
    """`kernel` [contexts, V] and `stationary` [contexts] are what the thresholds make of them.

    Raises UsageError for a chain whose stationary law is its kernel's every row: then `global`
    and `local` are one.
    """

    Config = MarkovConfig
    candidates = CANDIDATES
    presets: ClassVar[Mapping[str, Settings]] = {
        "markov": {  # ours, for minutes on a CPU: over gamma 0.5:3 the map shows both solutions
            "task": {"seq_len": 64},
            "model": _SINGLE,
            "optimizer": _OPTIMIZER,
            "training": {"steps": 1000, "batch_size": 32, "log_every": 50, "eval_every": 200},
        },
        "markov-simple": {
            "task": {"seq_len": 1024},
            "model": _SINGLE,
            "init": _INIT,
            "optimizer": _OPTIMIZER,
            "training": {"steps": 8000, "batch_size": 16},
        },
        "markov-paper": {
            "task": {"seq_len": 1024},
            "model": _GPT,
            "init": _INIT,
            "optimizer": _OPTIMIZER,
            "training": {"steps": 8000, "batch_size": 16},
        },
    }

    def __init__(self, config: MarkovConfig) -> None:
        self.config, self.length = config, config.seq_len
        self.vocabulary = config.states
        self._next = _thresholds(_kernel(config))
        self.kernel = _law(self._next)
        self.stationary = _stationary(config, self.kernel)
        uniform = np.full(len(self.kernel), 1 / len(self.kernel))
        start = self.stationary if config.start == "stationary" else uniform
        self._start = _thresholds(start[None])[0]
        self.symbols = self.stationary.reshape(-1, config.states).sum(axis=0)  # [V]
        if np.abs(self.kernel - self.symbols).max() < 1e-6:
            raise UsageError(
                f"{config.describe(frozenset())}: the next symbol does not depend on the last one,"
                " so there is nothing to tell apart"
            )

    @property
    def bigram_loss(self) -> float:
        """Entropy rate in nats: the least loss of a network that sees what came before."""
        return float(self.stationary @ entropy(self.kernel))

    @property
    def unigram_loss(self) -> float:
        """Entropy of the stationary law of a symbol, in nats."""
        return float(entropy(self.symbols[None])[0])

    def batch(self, seed: int, step: int, size: int) -> tuple[Int32, Int32]:
        symbols = self._drawn(seed, philox.TRAIN, step, size)
        return symbols[:, :-1].copy(), symbols[:, -1].copy()

    def stream(self) -> dict[str, Any]:
        return {
            "kind": "chain",
            "start": self._start,  # int32 [contexts - 1]
            "next": self._next,  # int32 [contexts, V - 1]
            "states": self.config.states,
            "order": self.config.order,
            "seq_len": self.length,
        }

    def exam(self, evaluation: EvaluationConfig) -> ChainExam:
        """Fresh sequences; what follows each is held against the exact laws."""
        count = evaluation.unseen_items
        symbols = self._drawn(evaluation.eval_seed, philox.EVAL, 0, count)
        context = np.zeros(count, np.int64)
        for symbol in symbols[:, -1 - self.config.order : -1].T:
            context = context * self.config.states + symbol
        tokens, last = symbols[:, :-1].copy(), symbols[:, -2]
        weights = self.stationary[context] / np.bincount(context)[context]
        weights /= weights.sum()
        return ChainExam(tokens, context, last, self.kernel, self.symbols, weights)

    def _drawn(self, seed: int, purpose: int, step: int, count: int) -> Int32:
        """Symbols [count, T + 1]; sequence b owns W words from b W on."""
        order, states = self.config.order, self.config.states
        width = (self.length - order + 5) // 4 * 4
        words = philox.words(seed, purpose, step, 0, 0, count * width).reshape(count, width)
        u = (words >> np.uint32(2)).astype(np.int32)
        context = (u[:, :1] >= self._start).sum(axis=1)
        symbols = np.zeros((count, self.length + 1), np.int32)
        rest = context
        for i in reversed(range(order)):
            symbols[:, i], rest = rest % states, rest // states
        for at in range(order, self.length + 1):
            symbol = (u[:, at - order + 1, None] >= self._next[context]).sum(axis=1)
            context = (context * states + symbol) % len(self._next)
            symbols[:, at] = symbol
        return symbols


def _kernel(config: MarkovConfig) -> Float64:
    """Rows of transition probabilities, [contexts, V]."""
    p, q, v = config.p, config.q, config.states
    if config.chain == "binary":
        return np.array([[1 - p, p], [q, 1 - q]])
    if config.chain == "switching":
        return np.where(np.eye(v, dtype=bool), 1 - p, p / (v - 1))
    contexts = v**config.order
    u = philox.uniforms(philox.words(config.chain_seed, philox.AUX, 0, 0, 0, contexts * v))
    spacings = np.sort(u.astype(np.float64).reshape(contexts, v)[:, 1:], axis=1)
    edges = np.concatenate([np.zeros((contexts, 1)), spacings, np.ones((contexts, 1))], axis=1)
    return np.diff(edges, axis=1)


def _thresholds(rows: Float64) -> Int32:
    """Cumulative probabilities in units of 2^-30, int32 [.., V - 1]."""
    cumulative = np.cumsum(rows, axis=1)[:, :-1]
    return np.ascontiguousarray(np.clip(np.rint(cumulative * _UNIT), 0, _UNIT).astype(np.int32))


def _law(thresholds: Int32) -> Float64:
    """The probabilities that these thresholds draw with."""
    rows = len(thresholds)
    ends = np.zeros((rows, 1)), np.full((rows, 1), _UNIT)
    law: Float64 = np.diff(np.concatenate([ends[0], thresholds, ends[1]], axis=1), axis=1) / _UNIT
    return law


def _stationary(config: MarkovConfig, kernel: Float64) -> Float64:
    """The stationary law of contexts, [contexts]: the same bits on every CPU.

    In closed form but for random chains; theirs is found by steps of the lazy chain, whose sums
    have a fixed order (a linear solver's do not).
    """
    contexts, v = kernel.shape
    if config.chain == "binary":
        return np.array([config.q, config.p]) / (config.p + config.q)
    law = np.full(contexts, 1 / contexts)
    if config.chain == "switching":
        return law
    origin = np.repeat(np.arange(contexts), v)
    target = (origin * v + np.tile(np.arange(v), contexts)) % contexts
    for _ in range(_MOST_STEPS):
        moved = np.bincount(target, law[origin] * kernel.ravel(), contexts)
        settled = float(np.abs(moved - law).max()) < _SETTLED
        law = (law + moved) / 2
        if settled:
            break
    return law
