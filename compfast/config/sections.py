"""The sections of a configuration: frozen dataclasses, one comment a field.

Fields are converted (compfast.config.values) and checked on construction.

Sources: [Z24] = Zhang et al. 2024, arXiv 2405.05409; [Z25] = arXiv 2501.08537; [M24] = Makkuva et
al., arXiv 2406.03072; [S24] = Schug et al., arXiv 2406.05816.
A field whose value is `None` is derived by `compfast.models.families.resolve` (its comment says
from what).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from compfast.config import values
from compfast.config.paths import user_path
from compfast.config.plugins import family_class, task_class
from compfast.config.section import (
    MOST,
    Section,
    at_most,
    check_seed,
    choice,
    finite,
    hints,
    positive,
    require,
    require_together,
)
from compfast.errors import UsageError

GAMMA_GROUPS = ("embedding", "qk", "vo", "ffn", "head")
SCHEDULES = ("constant", "linear", "cosine", "one_cycle", "paper", "points")
WEIGHT_DECAYS = tuple(f"weight_decay_{group}" for group in GAMMA_GROUPS)
_OWN = ("lr", "weight_decay", *WEIGHT_DECAYS, "clip")  # of each member, within one group of them
_MOST_GAMMA = 32  # d_in^32 is a float64 for every width


@dataclass(frozen=True, slots=True)
class InitConfig(Section):
    """Weights ~ Normal(0, (d_in^-gamma)^2) ([Z24] section 3; groups from [Z25]).

    `std` is another scale for all of them, and with `constants` some tensors start at a number:
    the guideline of [M24] is token and position tables, ffn.up and ffn.down at -1, 0.5, 2, -2.
    """

    section = "init"

    gamma: float = 0.5  # std = d_in^-gamma: the larger, the smaller the weights
    gamma_embedding: float | None = None  # token and position tables; None: gamma
    gamma_qk: float | None = None  # query and key
    gamma_vo: float | None = None  # value and attention output
    gamma_ffn: float | None = None  # both layers of the FFN
    gamma_head: float | None = None  # an untied head
    fan_in: Literal["tensor", "d_model"] = "tensor"  # [Z24] each tensor's own; [Z25] d_model
    residual_scale: bool = False  # 1/sqrt(2L) on attention output and FFN2 [Z25]
    bias: Literal["zero", "uniform"] = "zero"  # uniform: +-1/sqrt(fan_in), PyTorch's default
    std: float | None = None  # of every weight, whatever gamma is; None: d_in^-gamma
    # (name, number): tensors that start at one number, by the end of their name ("ffn.up.weight")
    constants: tuple[tuple[str, float], ...] = ()
    # truncated: a normal law cut at twice its own std and scaled back to the std asked for; with
    # gamma 0.5 Flax's LeCun normal [S24]. rank_one: tables, value and FFN matrices have rank one
    # along one vector of signs [M24].
    law: Literal["gaussian", "truncated", "rank_one"] = "gaussian"
    rank_one: float = 0.1  # e and w of rank_one are |rank_one N| [M24 code]

    def _check(self) -> None:
        names = ("gamma", *(f"gamma_{group}" for group in GAMMA_GROUPS))
        finite("init", self, *names)
        for name in names:
            gamma = getattr(self, name)
            require(
                gamma is None or abs(gamma) <= _MOST_GAMMA,
                f"init.{name} is {gamma}; it must be between -{_MOST_GAMMA} and {_MOST_GAMMA}",
            )
        choice("init", self, fan_in=("tensor", "d_model"), bias=("zero", "uniform"))
        choice("init", self, law=("gaussian", "truncated", "rank_one"))
        finite("init", self, "std", "rank_one", low=0.0)
        given = [name for name, _ in self.constants]
        require(
            all(given) and len(set(given)) == len(given),
            f"init.constants is {self.constants}; it must name different tensors",
        )
        require(
            all(math.isfinite(number) for _, number in self.constants),
            f"init.constants is {self.constants}; its numbers must be finite",
        )

    def gamma_of(self, group: str) -> float:
        """Exponent of one init group (see GAMMA_GROUPS), or of a tensor in none ("")."""
        own: float | None = getattr(self, f"gamma_{group}") if group else None
        return self.gamma if own is None else own


@dataclass(frozen=True, slots=True)
class OptimizerConfig(Section):
    """The optimiser, clipping and the learning-rate schedule, stepped once a batch."""

    section = "optimizer"

    kind: Literal["adamw", "sgd"] = "adamw"  # weight decay is decoupled in both
    lr: float = 1.5e-3  # peak
    weight_decay: float = 0.3  # a step takes lr x weight_decay x weights off
    # Of the tensors of one of GAMMA_GROUPS; None: weight_decay. Biases and norms are in no group.
    weight_decay_embedding: float | None = None  # token and position tables, and a tied head
    weight_decay_qk: float | None = None  # query and key
    weight_decay_vo: float | None = None  # value and attention output
    weight_decay_ffn: float | None = None  # both layers of the FFN
    weight_decay_head: float | None = None  # an untied head
    clip: float = 1.0  # global gradient norm; 0 switches clipping off [Z24: 1]
    beta1: float = 0.9  # AdamW's
    beta2: float = 0.999  # AdamW's
    eps: float = 1e-8  # AdamW's, outside of the root
    momentum: float = 0.0  # SGD's; dampening 0, as torch.optim.SGD's default
    nesterov: bool = False  # SGD's
    # all: [Z24]; arrays: matrices and the biases that Flax keeps a row a head, those of query,
    # key and value [S24 code].
    decay: Literal["all", "matrices", "arrays"] = "all"
    # Weight decay is on inside these only, fractions [from, to) of the training; none: always on.
    decay_windows: tuple[tuple[float, float], ...] = ()
    # Of lr over the training, after a warm-up; what each is says compfast/ensembles/schedule.py.
    schedule: Literal["constant", "linear", "cosine", "one_cycle", "paper", "points"] = "cosine"
    warmup: float = 0.05  # fraction of the steps; paper: 10 of 210 epochs
    floor: float = 0.05  # cosine, linear and one_cycle end at floor * lr
    start: float = 0.01  # one_cycle begins at start * lr: 2406.03072 code, lr / 100
    points: tuple[tuple[float, float], ...] = ()  # schedule "points": (fraction, factor of lr)
    base_lr: float = 1e-5  # schedule "paper": warm-up starts and cosine ends here [Z24]

    def weight_decay_of(self, group: str) -> float:
        """Weight decay of one of GAMMA_GROUPS, or of "", the biases and norms."""
        own: float | None = getattr(self, f"weight_decay_{group}") if group else None
        return self.weight_decay if own is None else own

    @property
    def shared(self) -> tuple[Any, ...]:
        """All values but those that members of one group may have of their own."""
        return tuple(getattr(self, name) for name in hints(type(self)) if name not in _OWN)

    @property
    def moments(self) -> int:
        """Vectors as long as the parameters that a step reads and writes beside them."""
        return 2 if self.kind == "adamw" else int(self.momentum > 0)

    def _check(self) -> None:
        finite("optimizer", self, *_OWN, "eps", "base_lr", low=0.0)
        for name in ("beta1", "beta2", "momentum"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name} is {value}; it must be in [0, 1)")
        for name in ("warmup", "floor", "start"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"optimizer.{name} is {value}; it must be in [0, 1]")
        require_together(
            not self.nesterov or self.momentum > 0,
            "optimizer.nesterov is true; it needs an optimizer.momentum above 0",
        )
        ends = [0.0, *(end for window in self.decay_windows for end in window)]
        require(
            all(low < high for low, high in self.decay_windows)
            and ends == sorted(ends)
            and ends[-1] <= 1,
            f"optimizer.decay_windows is {[list(window) for window in self.decay_windows]}; it must"
            " be a list of [from, to] with 0 <= from < to <= 1, in order and apart",
        )
        choice(
            "optimizer",
            self,
            kind=("adamw", "sgd"),
            decay=("all", "matrices", "arrays"),
            schedule=SCHEDULES,
        )
        require_together(
            (self.schedule == "points") == bool(self.points),
            f"optimizer.schedule is {self.schedule!r} with {len(self.points)} optimizer.points;"
            ' schedule "points" needs at least one, the others none',
        )
        fractions = [fraction for fraction, _ in self.points]
        require(
            fractions == sorted(set(fractions)) and all(0 <= f <= 1 for f in fractions),
            f"optimizer.points is {self.points}; their fractions must rise from at least 0 to at"
            " most 1",
        )
        require(
            all(math.isfinite(factor) and factor >= 0 for _, factor in self.points),
            f"optimizer.points is {self.points}; their factors must be finite and at least 0",
        )


@dataclass(frozen=True, slots=True)
class TrainingConfig(Section):
    """How long a member trains and what is measured on the way."""

    section = "training"

    steps: int = 3000  # optimiser steps a member
    batch_size: int = 128  # sequences a step
    # Operands of the linear products; tf32 (the triton engine's) rounds attention's too.
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    log_every: int = 100  # steps a metrics window
    eval_every: int = 500  # steps between two exams
    stop_loss: float = 0.0  # freeze a member whose window loss is below; 0: off [Z24: 1e-7]
    stop_stable: int = 0  # freeze after this many equal verdicts in a row; 0: off

    def _check(self) -> None:
        positive("training", self, "steps", "batch_size", "log_every", "eval_every")
        at_most("training", self, steps=2**31 - 1, batch_size=MOST, stop_stable=MOST)
        at_most("training", self, log_every=2**31 - 1, eval_every=2**31 - 1)
        choice("training", self, precision=("fp32", "tf32", "bf16"))
        finite("training", self, "stop_loss", low=0.0)
        require(self.stop_stable >= 0, f"training.stop_stable is {self.stop_stable}; need >= 0")


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
        positive("evaluation", self, "seen_items", "unseen_items")
        at_most("evaluation", self, seen_items=MOST, unseen_items=MOST)
        check_seed("evaluation.eval_seed", self.eval_seed)
        for name in ("fitted", "share", "lead", "mixed"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"evaluation.{name} is {value}; it must be in [0, 1]")


@dataclass(frozen=True, slots=True)
class RunConfig(Section):
    """What may change between a run and its resumption without changing a bit of it."""

    section = "run"

    # auto: native; triton where device is cuda.
    engine: Literal["auto", "eager", "native", "triton", "cuda"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: the engine's own
    threads: int | None = None  # None: one a core
    checkpoint_every: int = 1000  # steps
    snapshots: tuple[int, ...] = ()  # steps whose parameters are kept for ever
    report_every: int = 0  # steps between two reports; 0: only at the end
    shard: tuple[int, int] = (0, 1)  # (i, n): this process trains the i-th of n member ranges
    quiet: bool = False  # no lines of progress

    def _check(self) -> None:
        positive("run", self, "threads", "checkpoint_every")
        choice("run", self, engine=("auto", "eager", "native", "triton", "cuda"))
        choice("run", self, device=("auto", "cpu", "cuda"))
        require(self.report_every >= 0, f"run.report_every is {self.report_every}; need >= 0")
        i, n = self.shard
        require(0 <= i < n, f"run.shard is {i}/{n}; it must be i/n with 0 <= i < n")
        require(
            all(step >= 0 for step in self.snapshots),
            f"run.snapshots is {self.snapshots}; steps must not be negative",
        )


@dataclass(frozen=True, slots=True)
class StartConfig(Section):
    """Another run, from whose members of the same rows this one starts."""

    section = "start"

    run: str | None = None  # its folder, absolute once given; None: initial weights are drawn
    step: int | None = None  # of a checkpoint or a snapshot there; None: its newest checkpoint's
    # go_on: at that step, with moments and schedule; restart: with the weights alone, at step 0.
    mode: Literal["go_on", "restart"] = "go_on"
    digest: str | None = None  # SHA-256 of its manifest.json; filled in when the run starts

    def _check(self) -> None:
        choice("start", self, mode=("go_on", "restart"))
        for name in ("step", "digest"):
            value = getattr(self, name)
            require(
                self.run is not None or value is None,
                f"start.{name} is {value!r}, but start.run names no run",
            )
        require(self.step is None or self.step >= 0, f"start.step is {self.step}; need >= 0")
        require(
            self.digest is None or re.fullmatch("[0-9a-f]{64}", self.digest) is not None,
            f"start.digest is {self.digest!r}; it must be 64 hexadecimal digits",
        )
        if self.run is not None:
            try:
                object.__setattr__(self, "run", str(user_path(self.run)))
            except UsageError as error:
                raise UsageError(f"start.run: {error}") from None


_SHARED: tuple[type[Section], ...] = (
    InitConfig,
    OptimizerConfig,
    TrainingConfig,
    EvaluationConfig,
    RunConfig,
    StartConfig,
)
SECTIONS = ("task", "model", *(kind.section for kind in _SHARED))
DEFAULT_TASK = "anchor"
DEFAULT_FAMILY = "transformer"


class Kinds(NamedTuple):
    """The names that say which fields [task] and [model] have."""

    task: str = DEFAULT_TASK
    family: str = DEFAULT_FAMILY


PICKED = ("task.name", "model.family")  # the fields that hold them


def sections(kinds: Kinds) -> dict[str, type[Section]]:
    """Section -> class; UsageError for a task or family that there is not."""
    own: dict[str, type[Section]] = {
        "task": task_class(kinds.task).Config,
        "model": family_class(kinds.family).Config,
    }
    return own | {kind.section: kind for kind in _SHARED}


def field_hint(path: str, kinds: Kinds) -> Any:
    """The type of "section.field"; raises UsageError naming near matches if there is none."""
    section, _, name = path.partition(".")
    if section not in SECTIONS:
        raise UsageError(values.unknown(path, section, SECTIONS, "sections"))
    fields = hints(sections(kinds)[section])
    if name not in fields:
        whose = {"task": f"task {kinds.task}", "model": f"family {kinds.family}"}
        of = f"fields of {whose.get(section, f'[{section}]')}"
        raise UsageError(values.unknown(path, name, fields, of))
    return fields[name]
