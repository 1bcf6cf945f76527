"""The sections of a configuration: frozen dataclasses, one comment a field.

Fields are converted (compfast.config.values) and checked on construction.

Sources: [Z24] = Zhang et al. 2024, arXiv 2405.05409; [Z25] = arXiv 2501.08537.
A field whose value is `None` is derived by `config.resolve` (its comment says from what).
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from compfast.config import values
from compfast.errors import UsageError

GAMMA_GROUPS = ("embedding", "qk", "vo", "ffn", "head")
_MOST = 2**24  # items, sequences
_MOST_PLACES = 2**20  # items x positions
_MOST_GAMMA = 32  # d_in^32 is a float64 for every width
MAX_SEED = 2**53  # exclusive; seeds stay exact in JSON and float64


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def check_seed(name: str, seed: int) -> None:
    _require(0 <= seed < MAX_SEED, f"{name} is {seed}; it must be in [0, 2^53)")


def _positive(section: str, value: Any, *names: str) -> None:
    for name in names:
        number = getattr(value, name)
        if number is not None:
            _require(number >= 1, f"{section}.{name} is {number}; it must be at least 1")


def _at_most(section: str, value: Any, **limits: int) -> None:
    """A configuration may come from anybody: no field alone may ask for all memory or time."""
    for name, most in limits.items():
        number = getattr(value, name)
        if number is not None:
            _require(number <= most, f"{section}.{name} is {number}; it must be at most {most}")


def _finite(section: str, value: Any, *names: str, low: float = -math.inf) -> None:
    for name in names:
        number = getattr(value, name)
        if number is not None:
            _require(
                math.isfinite(number) and number >= low,
                f"{section}.{name} is {number}; it must be a finite number"
                + ("" if low == -math.inf else f" of at least {low:g}"),
            )


def _choice(section: str, value: Any, **allowed: tuple[str, ...]) -> None:
    for name, options in allowed.items():
        got = getattr(value, name)
        _require(
            got in options, f"{section}.{name} is {got!r}; it must be one of {', '.join(options)}"
        )


class Section:
    """A frozen dataclass whose fields are converted to their types, then checked together.

    Construction raises UsageError, which names the field as "section.field".
    """

    __slots__ = ()
    section: ClassVar[str]

    def __post_init__(self) -> None:
        for name, hint in hints(type(self)).items():
            given = getattr(self, name)
            object.__setattr__(self, name, values.convert(f"{self.section}.{name}", given, hint))
        self._check()

    def _check(self) -> None:
        """Raise UsageError for values that are not allowed, alone or together."""


_HINTS: dict[type, dict[str, Any]] = {}


def hints(section: type) -> dict[str, Any]:
    """Type of each field of a section."""
    if section not in _HINTS:
        found = typing.get_type_hints(section).items()
        _HINTS[section] = {n: hint for n, hint in found if typing.get_origin(hint) is not ClassVar}
    return _HINTS[section]


@dataclass(frozen=True, slots=True)
class TaskConfig(Section):
    """Composite anchor functions ([Z24] section 3 and its released code)."""

    section = "task"

    name: str = "anchor"  # a registered task
    anchors: tuple[int, ...] = (1, 2, 3, 4)  # token ids of the single-anchor functions
    shifts: tuple[int, ...] = (5, 1, -2, -8)  # g(x; a) = x + shift [Z24]
    item_low: int = 20  # smallest item, inclusive [Z24]
    item_high: int = 100  # largest item, exclusive [Z24]
    seq_len: int = 9  # input tokens a sequence [Z24]
    overridden: tuple[tuple[int, int, int], ...] = ((3, 4, -6),)  # (a1, a2, trained shift) [Z24]
    unseen: tuple[tuple[int, int], ...] = ((4, 3),)  # ordered pairs never trained [Z24]
    key_modulus: int = 7  # key x is test-side at pos when x % modulus == pos; code uses 9
    data: Literal["fresh", "fixed"] = "fresh"  # new sequences each step, or one drawn set [Z24]
    fixed_total: int = 900_000  # sequences over all groups of the drawn set [Z24]
    fixed_train_weight: int = 9  # train-side : test-side groups = 9 : 1 [Z24 code]

    def _check(self) -> None:
        _require(
            len(self.anchors) == len(self.shifts) >= 1,
            f"task.anchors has {len(self.anchors)} entries and task.shifts {len(self.shifts)};"
            " they must be equally many and at least 1",
        )
        _require(
            len(set(self.anchors)) == len(self.anchors),
            f"task.anchors is {self.anchors}; the anchors must be distinct",
        )
        _require(
            all(0 < a < self.item_low or a >= self.item_high for a in self.anchors),
            f"task.anchors is {self.anchors}; anchors must be positive and outside the items"
            f" {self.item_low}..{self.item_high - 1}",
        )
        _require(
            0 < self.item_low < self.item_high,
            f"task.item_low is {self.item_low} and task.item_high {self.item_high};"
            " 0 < item_low < item_high is needed",
        )
        _require(self.seq_len >= 3, f"task.seq_len is {self.seq_len}; it must be at least 3")
        _positive("task", self, "key_modulus", "fixed_total", "fixed_train_weight")
        _at_most("task", self, key_modulus=_MOST, fixed_total=2**31 - 1, fixed_train_weight=_MOST)
        places = (self.item_high - self.item_low) * self.seq_len
        _require(
            max(self.seq_len, self.item_high, places) <= _MOST_PLACES and len(self.anchors) <= 1024,
            f"task has {self.item_high - self.item_low} items up to {self.item_high},"
            f" {self.seq_len} positions and {len(self.anchors)} anchors; items x positions and"
            f" the largest item must be at most {_MOST_PLACES}, anchors at most 1024",
        )
        _require(
            max(map(abs, (*self.anchors, *self.shifts, *(s for *_, s in self.overridden))))
            <= _MOST_PLACES,
            f"task.anchors, shifts and overridden shifts must be within +-{_MOST_PLACES}",
        )
        _choice("task", self, data=("fresh", "fixed"))
        for a, b, *_ in (*self.overridden, *self.unseen):
            _require(
                a in self.anchors and b in self.anchors,
                f"task pair ({a},{b}) names an anchor that is not in {self.anchors}",
            )
        both = {(a, b) for a, b, _ in self.overridden} & set(self.unseen)
        _require(not both, f"task pairs {sorted(both)} are both overridden and unseen")


@dataclass(frozen=True, slots=True)
class ModelConfig(Section):
    """A decoder-only transformer."""

    section = "model"

    layers: int = 2
    d_model: int = 32
    heads: int = 1
    d_k: int | None = None  # query/key size a head; None: d_model / heads
    d_v: int | None = None  # value size a head; None: d_model / heads
    d_ff: int | None = None  # FFN width; None: 2 d_model
    vocab_size: int | None = None  # None: the task's vocabulary rounded up to 16
    max_positions: int | None = None  # rows of the position table; None: task.seq_len
    norm: Literal["pre", "post"] = "pre"
    final_norm: bool | None = None  # None: on for pre-norm, off for post-norm
    activation: Literal["relu", "gelu", "gelu_tanh"] = "gelu"  # gelu is the exact one
    attention_bias: bool = True  # biases of query, key, value and output projections
    ffn_bias: bool = True
    head_bias: bool = True
    tied_head: bool = False  # head weight = token table
    causal: bool = True
    norm_eps: float = 1e-5  # [Z24]
    loss_positions: Literal["last", "all"] = "last"  # [Z24]: last position only

    def _check(self) -> None:
        _positive("model", self, "layers", "d_model", "heads", "d_k", "d_v", "d_ff", "vocab_size")
        _positive("model", self, "max_positions")
        sizes = ("d_model", "heads", "d_k", "d_v", "d_ff", "vocab_size", "max_positions")
        _at_most("model", self, layers=1024, **dict.fromkeys(sizes, 2**24))
        _choice(
            "model",
            self,
            norm=("pre", "post"),
            activation=("relu", "gelu", "gelu_tanh"),
            loss_positions=("last", "all"),
        )
        _finite("model", self, "norm_eps", low=0.0)
        if self.d_k is None or self.d_v is None:
            _require(
                self.d_model % self.heads == 0,
                f"model.d_model {self.d_model} is not divisible by model.heads {self.heads};"
                " give model.d_k and model.d_v",
            )


@dataclass(frozen=True, slots=True)
class InitConfig(Section):
    """Weights ~ Normal(0, (d_in^-gamma)^2) ([Z24] section 3; groups from [Z25])."""

    section = "init"

    gamma: float = 0.5
    gamma_embedding: float | None = None  # token and position tables; None: gamma
    gamma_qk: float | None = None
    gamma_vo: float | None = None  # value and attention output
    gamma_ffn: float | None = None
    gamma_head: float | None = None
    fan_in: Literal["tensor", "d_model"] = "tensor"  # [Z24] each tensor's own; [Z25] d_model
    residual_scale: bool = False  # 1/sqrt(2L) on attention output and FFN2 [Z25]
    bias: Literal["zero", "uniform"] = "zero"  # uniform: +-1/sqrt(fan_in), PyTorch's default

    def _check(self) -> None:
        names = ("gamma", *(f"gamma_{group}" for group in GAMMA_GROUPS))
        _finite("init", self, *names)
        for name in names:
            gamma = getattr(self, name)
            _require(
                gamma is None or abs(gamma) <= _MOST_GAMMA,
                f"init.{name} is {gamma}; it must be between -{_MOST_GAMMA} and {_MOST_GAMMA}",
            )
        _choice("init", self, fan_in=("tensor", "d_model"), bias=("zero", "uniform"))

    def gamma_of(self, group: str) -> float:
        """Exponent of one init group (see GAMMA_GROUPS)."""
        own: float | None = getattr(self, f"gamma_{group}")
        return self.gamma if own is None else own


@dataclass(frozen=True, slots=True)
class OptimizerConfig(Section):
    """AdamW, clipping and the learning-rate schedule, stepped once a batch."""

    section = "optimizer"

    lr: float = 1.5e-3  # peak
    weight_decay: float = 0.3
    clip: float = 1.0  # global gradient norm; 0 switches clipping off [Z24: 1]
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    decay: Literal["all", "matrices"] = "all"  # [Z24]: all parameters
    schedule: Literal["constant", "cosine", "paper"] = "cosine"
    warmup: float = 0.05  # fraction of the steps; paper: 10 of 210 epochs
    floor: float = 0.05  # cosine ends at floor * lr
    base_lr: float = 1e-5  # schedule "paper": warm-up starts and cosine ends here [Z24]

    def _check(self) -> None:
        _finite("optimizer", self, "lr", "weight_decay", "clip", "eps", "base_lr", low=0.0)
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"optimizer.{name} is {value}; it must be in [0, 1)")
        for name in ("warmup", "floor"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"optimizer.{name} is {value}; it must be in [0, 1]")
        _choice(
            "optimizer",
            self,
            decay=("all", "matrices"),
            schedule=("constant", "cosine", "paper"),
        )


@dataclass(frozen=True, slots=True)
class TrainingConfig(Section):
    """How long a member trains and what is measured on the way."""

    section = "training"

    steps: int = 3000
    batch_size: int = 128
    # Operands of the linear products; tf32 (the triton engine's) rounds attention's too.
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    log_every: int = 100  # steps a metrics window
    eval_every: int = 500  # steps between two exams
    stop_loss: float = 0.0  # freeze a member whose window loss is below; 0: off [Z24: 1e-7]
    stop_stable: int = 0  # freeze after this many equal verdicts in a row; 0: off

    def _check(self) -> None:
        _positive("training", self, "steps", "batch_size", "log_every", "eval_every")
        _at_most("training", self, steps=2**31 - 1, batch_size=_MOST, stop_stable=_MOST)
        _at_most("training", self, log_every=2**31 - 1, eval_every=2**31 - 1)
        _choice("training", self, precision=("fp32", "tf32", "bf16"))
        _finite("training", self, "stop_loss", low=0.0)
        _require(self.stop_stable >= 0, f"training.stop_stable is {self.stop_stable}; need >= 0")


@dataclass(frozen=True, slots=True)
class EvaluationConfig(Section):
    """The exam (one for all members and all times) and the verdict's thresholds."""

    section = "evaluation"

    eval_seed: int = 0  # key of the exam's stream
    seen_items: int = 960  # sequences of trained pairs with test-side keys
    unseen_items: int = 512  # sequences of the unseen pairs with train-side keys
    fitted: float = 0.9  # below this seen accuracy: underfit [Z24: shaded zone]
    share: float = 0.5  # least share of a named solution
    lead: float = 0.2  # least lead over the next answer
    mixed: float = 0.5  # candidates together at least: mixed, else other

    def _check(self) -> None:
        _positive("evaluation", self, "seen_items", "unseen_items")
        _at_most("evaluation", self, seen_items=_MOST, unseen_items=_MOST)
        check_seed("evaluation.eval_seed", self.eval_seed)
        for name in ("fitted", "share", "lead", "mixed"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"evaluation.{name} is {value}; it must be in [0, 1]")


@dataclass(frozen=True, slots=True)
class RunConfig(Section):
    """What may change between a run and its resumption without changing a bit of it."""

    section = "run"

    engine: Literal["auto", "eager", "native", "triton", "cuda"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None  # None: one a core
    checkpoint_every: int = 1000  # steps
    snapshots: tuple[int, ...] = ()  # steps whose parameters are kept for ever
    report_every: int = 0  # steps between two reports; 0: only at the end
    shard: tuple[int, int] = (0, 1)  # (i, n): this process trains the i-th of n member ranges
    quiet: bool = False

    def _check(self) -> None:
        _positive("run", self, "threads", "checkpoint_every")
        _choice("run", self, engine=("auto", "eager", "native", "triton", "cuda"))
        _choice("run", self, device=("auto", "cpu", "cuda"))
        _require(self.report_every >= 0, f"run.report_every is {self.report_every}; need >= 0")
        i, n = self.shard
        _require(0 <= i < n, f"run.shard is {i}/{n}; it must be i/n with 0 <= i < n")
        _require(
            all(step >= 0 for step in self.snapshots),
            f"run.snapshots is {self.snapshots}; steps must not be negative",
        )


SECTIONS: dict[str, type[Section]] = {
    kind.section: kind
    for kind in (
        TaskConfig,
        ModelConfig,
        InitConfig,
        OptimizerConfig,
        TrainingConfig,
        EvaluationConfig,
        RunConfig,
    )
}


def field_hint(path: str) -> Any:
    """The type of "section.field"; raises UsageError naming near matches if there is none."""
    section, _, name = path.partition(".")
    if section not in SECTIONS:
        raise UsageError(values.unknown(path, section, SECTIONS, "sections"))
    fields = hints(SECTIONS[section])
    if name not in fields:
        raise UsageError(values.unknown(path, name, fields, f"fields of [{section}]"))
    return fields[name]


def names(section: Any) -> Iterable[str]:
    """Field names of a section (or its instance)."""
    return hints(section if isinstance(section, type) else type(section)).keys()
