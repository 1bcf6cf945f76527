"""The hyperteacher in context: does a network find modules, and mix them in ways it never saw?

Schug et al., "When can transformers compositionally generalize in-context?", arXiv 2407.12275. A
teacher, drawn once, has M modules; a task mixes a few of them into a network W(z), and a sequence
has examples (x, a^T GELU(W(z) x)) of one task, of which the last value is to be predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from compfast.config import EvaluationConfig, TaskSection
from compfast.config.section import at_most, check_seed, positive, require, require_together
from compfast.streams import philox
from compfast.tasks import hyla
from compfast.tasks import hyperteacher_net as net
from compfast.tasks.base import Float64, Int32, Settings, Task
from compfast.tasks.regression import Float32, RegressionExam, Split, context_mean
from compfast.tasks.supports import LISTED, MOST_MASKS, RINGED, Support, mask_count, supports
from compfast.tasks.words import check_words, words_of

_TEACHER = 8  # sub of the teacher's stream; a permutation's rounds have 0 to 5
_SEEN, _UNSEEN, _UNSTRUCTURED, _FRESH = range(4)  # subs of the exam's streams
_MOST_UNSTRUCTURED = 2048  # items: each has a teacher of its own


@dataclass(frozen=True, slots=True)
class HyperteacherConfig(TaskSection):
    """arXiv 2407.12275, section 3; supports of arXiv 2312.15001 and 2507.07207 beside its own."""

    name: str = "hyperteacher"
    modules: int = 6  # M
    active: int = 2  # K, at most, of a task
    dim: int = 16  # d of x
    hidden: int = 16  # h
    support: Support = "connected_plus"  # which masks are trained (compfast/tasks/supports.py)
    frac_test: float = 0.25  # of the masks, held out: random, equal, popular, unpopular
    codes: Literal["continuous", "discrete"] = "continuous"  # active: in (0.5, 1], or 1 / K each
    samples: int = 64  # N, the query among them; the paper does not say
    form: Literal["vanilla", "extra"] = "vanilla"  # extra: an empty token follows, and answers
    activation: Literal["gelu", "gelu_tanh"] = "gelu"  # the paper says GELU; JAX's is gelu_tanh
    teacher_seed: int = 0  # the same for all members, and so is split_seed
    split_seed: int = 0  # of the patterns that leave the masks open

    def _check(self) -> None:
        positive("task", self, "modules", "active", "dim", "hidden")
        at_most("task", self, modules=32, dim=64, hidden=64, samples=2**14)
        require(self.samples >= 2, f"task.samples is {self.samples}; it must be at least 2")
        require(
            0 < self.frac_test < 1,
            f"task.frac_test is {self.frac_test}; it must be above 0 and below 1",
        )
        check_seed("task.teacher_seed", self.teacher_seed)
        check_seed("task.split_seed", self.split_seed)
        require_together(
            1 <= self.active <= self.modules,
            f"task.active is {self.active}; it must be in 1..task.modules, {self.modules}",
        )
        require_together(
            self.support not in LISTED or (self.modules, self.active) == (6, 2),
            f"task.support {self.support} lists pairs of 6 modules; task.modules is"
            f" {self.modules} and task.active {self.active}",
        )
        require_together(
            self.support not in RINGED
            or (self.modules >= 6 and self.modules % 2 == 0 and self.active == 2),
            f"task.support {self.support} needs an even task.modules of at least 6 and"
            f" task.active 2; they are {self.modules} and {self.active}",
        )
        count = mask_count(self.modules, self.active)
        require_together(
            count <= MOST_MASKS,
            f"task.modules {self.modules} and task.active {self.active} make {count} masks; at"
            f" most {MOST_MASKS} are taken",
        )

    def describe(self, varied: frozenset[str]) -> str:
        """E.g. "hyperteacher, modules 6, active 2, connected_plus, continuous codes"."""
        said = [self.name]
        said += [f"{n} {getattr(self, n)}" for n in ("modules", "active") if n not in varied]
        said += [self.support] * ("support" not in varied)
        said += [f"{self.codes} codes"] * ("codes" not in varied)
        return ", ".join(said)


_NETWORK: Settings = {
    "layers": 2,
    "heads": 4,
    "norm": "pre",
    "norm_eps": 1e-6,
    "activation": "gelu_tanh",  # Flax's default
    "causal": False,
    "position": "relative",
    "attention": "softmax",
}
# Family bottleneck beside it: the code of 6 numbers makes the first layer of a network of 32 units.
_BOTTLENECK: Settings = {**_NETWORK, "family": "bottleneck", "latent": 6, "hidden": 32}
_OPTIMIZER: Settings = {
    "lr": 1e-3,
    "decay": "arrays",
    "clip": 1.0,
    "schedule": "cosine",
    "warmup": 0.0,  # the paper states none, nor where its cosine ends
    "floor": 0.0,
}
_SMALL_TASK: Settings = {"samples": 32, "dim": 4, "hidden": 4}
_SMALL_TRAINING: Settings = {
    "steps": 5000,
    "batch_size": 64,
    "log_every": 100,
    "eval_every": 1000,
}
_PAPER_TRAINING: Settings = {"steps": 100_000, "batch_size": 128}
_PAPER_ITEMS: Settings = {"seen_items": 16_000, "unseen_items": 16_000}


class HyperteacherTask(Task[HyperteacherConfig]):
    """`trained` and `held_out` are masks, int32 [.., M]; `theta` [M, h, d], `readout` [h].

    Raises UsageError where a side would be empty.
    """

    Config = HyperteacherConfig
    candidates = ("inferential", "nearest", "mean")
    loss, outputs = "squared_error", 1
    presets: ClassVar[Mapping[str, Settings]] = {
        "hyperteacher": {  # ours, for minutes on a CPU
            "task": _SMALL_TASK,
            "model": {**_NETWORK, "d_model": 32, "d_ff": 128},
            "init": hyla.INIT,
            "optimizer": {**_OPTIMIZER, "weight_decay": 0.0},
            "training": _SMALL_TRAINING,
        },
        "hyperteacher-paper": {  # its vanilla transformer
            "model": {**_NETWORK, "d_model": 128, "d_ff": 512},
            "init": hyla.INIT,
            "optimizer": {**_OPTIMIZER, "weight_decay": 0.1},
            "training": _PAPER_TRAINING,
            "evaluation": _PAPER_ITEMS,
        },
        "hyperteacher-bottleneck": {  # beside `hyperteacher`
            "task": _SMALL_TASK,
            "model": {**_BOTTLENECK, "d_model": 32, "d_ff": 128, "hidden": 8},
            "init": hyla.INIT,
            "optimizer": {**_OPTIMIZER, "weight_decay": 0.0},
            "training": _SMALL_TRAINING,
        },
        "hyperteacher-bottleneck-paper": {  # its hypernetwork transformer
            "model": {**_BOTTLENECK, "d_model": 64, "d_ff": 256},
            "init": hyla.INIT,
            "optimizer": {**_OPTIMIZER, "weight_decay": 0.0},
            "training": _PAPER_TRAINING,
            "evaluation": _PAPER_ITEMS,
        },
    }

    def __init__(self, config: HyperteacherConfig) -> None:
        self.config = config
        self.empty = int(config.form == "extra")
        self.length = config.samples + self.empty
        self.width = config.dim + 1
        self._needed = 1 + config.modules + config.samples * config.dim  # words of a sequence
        self.trained, self.held_out = supports(
            config.support, config.modules, config.active, config.frac_test, config.split_seed
        )
        shape = (config.modules, config.hidden, config.dim)
        words = philox.words(
            config.teacher_seed, philox.AUX, 0, _TEACHER, 0, int(np.prod(shape)) + config.hidden
        )
        drawn = net.truncated(words)
        self.theta = drawn[: -config.hidden].reshape(shape) / np.sqrt(config.modules)
        readout = drawn[-config.hidden :] / np.sqrt(config.hidden)
        self.readout: Float32 = readout.astype(np.float32)

    def batch(self, seed: int, step: int, size: int) -> tuple[Float32, Float32]:
        _, z, x = self._drawn(seed, philox.TRAIN, step, 0, size, self.trained)
        y = self._values(net.mixed(z, self.theta), x)
        return self._shown(x, y), y[:, -1].reshape(size, 1, 1)

    def check_batch(self, size: int) -> None:
        check_words(size, self._needed)

    def stream(self) -> dict[str, Any]:
        config = self.config
        return {
            "kind": "hyperteacher",
            "masks": self.trained,  # int32 [masks, M]
            "theta": self.theta,  # float64 [M, h, d]
            "readout": self.readout,  # float32 [h]
            "discrete": int(config.codes == "discrete"),
            "tanh": int(config.activation == "gelu_tanh"),
            "samples": config.samples,
            "extra": int(config.form == "extra"),
        }

    def exam(self, evaluation: EvaluationConfig) -> RegressionExam:
        """Fresh sequences of trained and of held-out masks, and of teachers of their own.

        R2 is the paper's: over a split, 1 - mean squared error / that of `mean`, the mean of the
        context's values. `inferential` is the true network. `nearest` is the best trained mask in
        hindsight of the context: of the networks whose code is the mean one of a trained mask (the
        same for each active module, of which the norm leaves only the direction), the one with
        the least squared error on the context, its value at the query. Every item of
        `unstructured` has the modules of a fresh teacher, mixed as a trained mask says, and the
        task's own readout; there are at most 2,048. The label `z` is an item's code; it is NaN
        there.
        """
        seed, count = evaluation.eval_seed, evaluation.unseen_items
        z_seen, x, y = self._items(seed, _SEEN, evaluation.seen_items, self.trained)
        parts = {"seen": self._split(x, y)}
        z_unseen, x, y = self._items(seed, _UNSEEN, count, self.held_out)
        parts["unseen"] = self._split(x, y)
        wide = y.astype(np.float64)
        true, mean = wide[:, -1], context_mean(wide[:, :-1])
        nearest = self._nearest(x, wide[:, :-1])
        fresh = min(count, _MOST_UNSTRUCTURED)
        parts["unstructured"] = self._split(*self._unstructured(seed, fresh))
        answers = {"inferential": true, "nearest": nearest, "mean": mean}
        z = np.concatenate([z_seen, z_unseen, np.full((fresh, self.config.modules), np.nan)])
        return RegressionExam(parts, answers, float(parts["unseen"].unit[0]), {"z": z})

    def _items(
        self, seed: int, sub: int, count: int, masks: Int32
    ) -> tuple[Float64, Float32, Float32]:
        """z [N, M], x [N, samples, d] and y [N, samples] of an exam's items."""
        _, z, x = self._drawn(seed, philox.EVAL, 0, sub, count, masks)
        return z, x, self._values(net.mixed(z, self.theta), x)

    def _unstructured(self, seed: int, count: int) -> tuple[Float32, Float32]:
        """x and y of items whose modules are drawn anew, as many as a task can have at once."""
        masks, z, x = self._drawn(seed, philox.EVAL, 0, _UNSTRUCTURED, count, self.trained)
        shape = (self.config.active, self.config.hidden, self.config.dim)
        size = int(np.prod(shape))
        active = np.argsort(masks == 0, axis=1, kind="stable")[:, : shape[0]]
        z = np.take_along_axis(z, active, axis=1)  # of the active modules, the rest 0
        w = np.empty((count, *shape[1:]), np.float32)
        for begin in range(0, count, 128):  # modules of a few items at a time
            rows = slice(begin, min(begin + 128, count))
            drawn = philox.words(
                seed, philox.EVAL, 0, _FRESH, begin * size, (rows.stop - begin) * size
            )
            w[rows] = net.mixed(z[rows], net.truncated(drawn).reshape(-1, *shape))
        return x, self._values(w, x)

    def _drawn(
        self, seed: int, purpose: int, step: int, sub: int, count: int, masks: Int32
    ) -> tuple[Int32, Float64, Float32]:
        """Masks [B, M], codes [B, M] and x [B, N, d].

        Words of a sequence: its mask, an exponential for each module, then x by x.
        """
        modules, samples, dim = self.config.modules, self.config.samples, self.config.dim
        words = words_of(seed, purpose, step, sub, count, self._needed)
        chosen = masks[philox.integers(words[:, 0], len(masks))]
        z = net.codes(chosen, words[:, 1 : 1 + modules], self.config.codes == "discrete")
        x = net.inputs(words[:, 1 + modules :])
        return chosen, z, x.reshape(count, samples, dim)

    def _values(self, w: Float32, x: Float32) -> Float32:
        return net.values(w, self.readout, x, self.config.activation)

    def _shown(self, x: Float32, y: Float32) -> Float32:
        """Tokens (x, y) with the last y hidden; `extra` adds an empty one."""
        vectors = np.zeros((len(x), self.length, self.width), np.float32)
        samples = self.config.samples
        vectors[:, :samples, :-1], vectors[:, : samples - 1, -1] = x, y[:, :-1]
        return vectors

    def _split(self, x: Float32, y: Float32) -> Split:
        wide = y.astype(np.float64)
        lost = np.square(wide[:, -1] - context_mean(wide[:, :-1])).mean()
        return Split(self._shown(x, y), wide[:, -1], np.full(len(x), lost))

    def _nearest(self, x: Float32, context: Float64) -> Float64:
        """What the best trained mask of each item says at its query, [B]; of equals the first."""
        least, answer = np.full(len(x), np.inf), np.zeros(len(x))
        each = net.mixed(self.trained.astype(np.float64), self.theta)
        for begin in range(0, len(x), 64):  # what is computed stays in a CPU's cache
            rows = slice(begin, min(begin + 64, len(x)))
            for w in each:
                said = self._values(np.broadcast_to(w, (rows.stop - begin, *w.shape)), x[rows])
                error = np.square(said[:, :-1] - context[rows]).sum(axis=1)
                better = error < least[rows]
                least[rows][better], answer[rows][better] = error[better], said[better, -1]
        return answer
