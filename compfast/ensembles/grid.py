"""Ranges and lists of values -> member specs, and their groups of one shape."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from typing import Any, TypeVar

from compfast import config as cfg
from compfast.config import Config, InitConfig, Kinds, MemberSpec, ModelSection, TaskSection
from compfast.ensembles.spacing import evenly_in_log
from compfast.errors import UsageError
from compfast.models.families import resolve
from compfast.models.init import check_init
from compfast.tasks import Task, make_task

Number = TypeVar("Number", int, float)

LOG = "log:"  # before a range: evenly spaced (or drawn evenly) in the logarithm

_SPAN = re.compile(r"\s*(\d{1,9})-(\d{1,9})\s*")
# (seeds a gamma, the fewest gammas that they may leave), tried in this order, else 1 seed. Of 8
# seeds a verdict needs 7 for its interval to clear the others', of 16 it needs 12.
SEEDS_PER_GAMMA = ((16, 32), (8, 16), (4, 16), (2, 16))
MOST_MEMBERS = 2**24  # of one process; more are shards

SWEPT_SECTIONS = ("task", "model", "init", "optimizer", "training")
RUN_WIDE = ("steps", "precision", "log_every", "eval_every", "stop_loss", "stop_stable")


def sweep_paths(kinds: Kinds) -> tuple[str, ...]:
    """Everything that members of an ensemble of this task and family can differ in."""
    own = cfg.sections(kinds)
    paths = (f"{section}.{name}" for section in SWEPT_SECTIONS for name in cfg.names(own[section]))
    never = {*cfg.PICKED, *(f"training.{name}" for name in RUN_WIDE)}
    return (*cfg.SEEDS, *(path for path in paths if path not in never))


def parse_values(name: str, text: str, kind: type[Number]) -> tuple[Number, ...]:
    """The values of "X", "X,Y,Z", "LO:HI:N" (evenly spaced, both ends included), "log:LO:HI:N"
    (evenly spaced in log, LO > 0) or, of whole numbers, "A-B" (every one from A to B).

    `name` is what the sentence of an error calls them; `kind` is int or float. Raises UsageError
    for text of another form, values that are not finite, equal values, LO > HI, N < 1, and
    LO = HI with N > 1 or LO < HI with N = 1; whole numbers only where `kind` is int.
    """
    span = _SPAN.fullmatch(text) if kind is int else None
    if span is not None:
        first, last = int(span[1]), int(span[2])
        if first > last:
            raise UsageError(f"{name} {text!r} is reversed; A-B needs A <= B")
        _refuse_many(f"{name} {text!r}", last - first + 1)
        values = tuple(kind(value) for value in range(first, last + 1))
    elif text.strip().startswith(LOG):
        values = tuple(_whole(name, v, text, kind) for v in _log_floats(name, text))
    elif ":" not in text:
        values = tuple(_number(name, part, text, kind) for part in text.split(","))
    else:
        low, high, count = _range_parts(name, text, text)
        n = _number(name, count, text, int)
        if kind is int:
            ends = _number(name, low, text, int), _number(name, high, text, int)
            values = tuple(kind(v) for v in _even_integers(name, *ends, n))
        else:
            bounds = _number(name, low, text, float), _number(name, high, text, float)
            values = tuple(kind(v) for v in _even_floats(name, *bounds, n))
    if len(set(values)) != len(values):
        raise UsageError(f"{name} {text!r} has equal values; they must differ")
    return values


def parse_range(name: str, text: str) -> tuple[float, float]:
    """(LO, HI) of "LO:HI"; raises UsageError for other text, NaN, infinities and LO > HI."""
    parts = text.split(":")
    if len(parts) != 2:
        raise UsageError(f"{name} is {text!r}; it must be LO:HI, e.g. 0.1:1.5")
    low, high = (_number(name, part, text, float) for part in parts)
    if low > high:
        raise UsageError(f"{name} {text!r} is reversed; LO must not be above HI")
    return low, high


def gamma_axis(low: float, high: float, n: int) -> tuple[float, ...]:
    """`n` evenly spaced gammas, ends included, each rounded to 12 decimals.

    Raises UsageError for LO > HI, a bound that is not finite, n < 1, and LO = HI unless n = 1
    (then and only then).
    """
    return _even_floats("gamma range", low, high, n)


def gammas_and_seeds(
    models: int, other: int = 1, seeds: int | None = None, single: bool = False
) -> tuple[int, int]:
    """(gammas, seeds a gamma) with gammas x seeds x other = models.

    `other` is the product of the lengths of all other lists. Without `seeds`: 16 a gamma where
    that leaves at least 32 gammas, else 8, 4 or 2 where it leaves at least 16, else 1.
    `single`: one gamma (LO = HI), so that all models / other are seeds. Raises UsageError for
    counts below 1 and for models that do not divide, naming the nearest counts that do.
    """
    for name, value in (("models", models), ("the other lists' product", other), ("seeds", seeds)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1")
    _refuse_many(f"models {models}", models)
    found = _divide(models, other, seeds, single)
    if found is not None:
        return found
    if single and seeds is not None:
        raise UsageError(
            f"models is {models}, but 1 gamma x {seeds} seeds x {other} other settings"
            f" make {seeds * other}"
        )
    below = next((n for n in range(models - 1, 0, -1) if _divide(n, other, seeds, single)), None)
    above = next(n for n in itertools.count(models + 1) if _divide(n, other, seeds, single))
    cells = "gammas x seeds" if seeds is None else f"gammas x {seeds} seeds"
    settings = "" if other == 1 else f" x {other} other settings"
    nearest = f"{above} does" if below is None else f"the nearest that do are {below}, {above}"
    raise UsageError(f"{models} models do not divide into {cells}{settings}; {nearest}")


def member_specs(config: Config, chosen: range | None = None) -> list[MemberSpec]:
    """Every member of `config`: its sample's points times its sweep's axes, the last one fastest.

    With `chosen` (step 1), only those of them. Models are resolved. Raises UsageError for a sweep
    path that members cannot differ in, and whatever a section refuses.
    """
    allowed = sweep_paths(config.kinds)
    for home, axes in (("sweep", config.sweep), ("sample", config.sample)):
        for path, _ in axes:
            if path not in allowed:
                raise UsageError(
                    f"{home} path {path!r} is not one that members can differ in; allowed:"
                    f" {', '.join(allowed)}"
                )
    drawn, swept = ([path for path, _ in axes] for axes in (config.sample, config.sweep))
    build = _Builder(config)
    points = range(member_count(config)) if chosen is None else chosen
    _refuse_many("the sweep", len(points))
    rows = list(zip(*(values for _, values in config.sample), strict=True)) or [()]
    product = itertools.product(rows, *(values for _, values in config.sweep))
    return [
        build.spec(member, dict(zip((*drawn, *swept), (*row, *place), strict=True)))
        for member, (row, *place) in zip(
            points, itertools.islice(product, points.start, points.stop), strict=True
        )
    ]


def _refuse_many(what: str, count: int) -> None:
    if count > MOST_MEMBERS:
        raise UsageError(f"{what} makes {count}; one process takes at most {MOST_MEMBERS}")


def member_count(config: Config) -> int:
    """Members of `config`, all shards together."""
    return config.points * sweep_size(config)


def sweep_size(config: Config) -> int:
    """Members of each point of the sample, or of the whole ensemble without one."""
    return math.prod(len(values) for _, values in config.sweep)


def shard_range(members: int, i: int, n: int) -> range:
    """The i-th of n contiguous member ranges; sizes differ by at most one."""
    if not 0 <= i < n:
        raise UsageError(f"shard {i}/{n} is not allowed; it must be i/n with 0 <= i < n")
    return range(members * i // n, members * (i + 1) // n)


class _Builder:
    """Makes specs; sections, tasks and resolved models are made once a distinct value."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.sections: dict[tuple[str, tuple[Any, ...]], Any] = {}
        self.tasks: dict[TaskSection, Task[Any]] = {}
        self.inits: set[tuple[InitConfig, ModelSection]] = set()
        self.batches: set[tuple[TaskSection, int]] = set()
        self.models: dict[tuple[ModelSection, TaskSection], ModelSection] = {}

    def spec(self, member: int, point: dict[str, Any]) -> MemberSpec:
        section = {name: self._section(name, point) for name in SWEPT_SECTIONS}
        task, model = section["task"], section["model"]
        if task not in self.tasks:
            self.tasks[task] = make_task(task)
        batch = (task, section["training"].batch_size)
        if batch not in self.batches:
            self.tasks[task].check_batch(batch[1])
            self.batches.add(batch)
        if (model, task) not in self.models:
            self.models[model, task] = resolve(model, self.tasks[task].ports)
        section["model"] = self.models[model, task]
        if (section["init"], section["model"]) not in self.inits:
            check_init(section["init"], section["model"])
            self.inits.add((section["init"], section["model"]))
        return MemberSpec(
            member=member,
            seed=point.get("seed", 0),
            own_init_seed=point.get("init_seed"),
            own_data_seed=point.get("data_seed"),
            evaluation=self.config.evaluation,
            **section,
        )

    def _section(self, name: str, point: dict[str, Any]) -> Any:
        changes = {p.split(".")[1]: v for p, v in point.items() if p.startswith(f"{name}.")}
        key = (name, tuple(changes.items()))
        if key not in self.sections:
            self.sections[key] = dataclasses.replace(getattr(self.config, name), **changes)
        return self.sections[key]


def _divide(models: int, other: int, seeds: int | None, single: bool) -> tuple[int, int] | None:
    """(gammas, seeds) if `models` divides, else None."""
    cells, rest = divmod(models, other)
    if rest or not cells:
        return None
    if single:
        return (1, cells) if seeds in (None, cells) else None
    if seeds is None:
        seeds = next((k for k, least in SEEDS_PER_GAMMA if cells // k >= least), 1)
    return None if cells % seeds else (cells // seeds, seeds)


def _check_range(name: str, low: float, high: float, n: int) -> None:
    shown = f"{name} {low}:{high}"
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UsageError(f"{shown} is not finite; both ends must be finite numbers")
    if low > high:
        raise UsageError(f"{shown} is reversed; LO must not be above HI")
    if n < 1:
        raise UsageError(f"{shown} has {n} values; it needs at least 1")
    _refuse_many(f"{shown}:{n}", n)
    if (low == high) != (n == 1):
        raise UsageError(f"{shown} has {n} values; LO = HI gives exactly one, LO < HI at least two")


def _even_floats(name: str, low: float, high: float, n: int) -> tuple[float, ...]:
    _check_range(name, low, high, n)
    if n == 1:
        return (round(low, 12),)
    inner = (round(low + (high - low) * i / (n - 1), 12) for i in range(1, n - 1))
    return (round(low, 12), *inner, round(high, 12))


def _log_floats(name: str, text: str) -> tuple[float, ...]:
    low, high, count = _range_parts(name, text, text.strip().removeprefix(LOG))
    n = _number(name, count, text, int)
    ends = _number(name, low, text, float), _number(name, high, text, float)
    _check_range(f"{name} log", *ends, n)
    check_logarithm(name, text, ends[0])
    return ends[:1] if n == 1 else evenly_in_log(*ends, n)


def check_logarithm(name: str, text: str, low: float) -> None:
    if low <= 0:
        raise UsageError(f"{name} is {text!r}; a range that is even in log needs LO > 0")


def _whole(name: str, value: float, text: str, kind: type[Number]) -> Number:
    if kind is int and not value.is_integer():
        raise UsageError(f"{name} is {text!r}, which has {value!r} in it; whole numbers are needed")
    return kind(value)


def _even_integers(name: str, low: int, high: int, n: int) -> tuple[int, ...]:
    _check_range(name, low, high, n)
    step, rest = divmod(high - low, max(n - 1, 1))
    if rest:
        raise UsageError(
            f"{name} {low}:{high}:{n} does not step through whole numbers; HI - LO must be a"
            " multiple of N - 1"
        )
    return tuple(low + step * i for i in range(n))


def _range_parts(name: str, text: str, ranged: str) -> tuple[str, str, str]:
    parts = ranged.split(":")
    if len(parts) != 3:
        needs = "; LO:HI without :N needs --sample" if len(parts) == 2 else ""
        forms = "X, X,Y,Z, LO:HI:N or log:LO:HI:N"
        raise UsageError(f"{name} is {text!r}; it must be {forms}{needs}")
    return parts[0], parts[1], parts[2]


def number(text: str, kind: type[int] | type[float]) -> int | float | str:
    """The number that a text writes ("1e3" is a whole one); a text that writes none as it is."""
    try:
        return kind(text)
    except ValueError:  # int: also a number of too many digits
        pass
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() else value


def _number(name: str, part: str, text: str, kind: type[Number]) -> Number:
    value = number(part.strip(), kind)
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{name} is {text!r}; every value must be finite")
    try:
        if not isinstance(value, str) and math.isfinite(value) and kind(value) == value:
            return kind(value)
    except OverflowError:
        raise UsageError(f"{name} is {text!r}; every value must be finite") from None
    what = "a whole number" if kind is int else "a number"
    raise UsageError(f"{name} is {text!r}; {part.strip()!r} is not {what}")
