"""One ensemble as data: what its members share, what they differ in, and one member's spec."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from compfast.config import values
from compfast.config.model import ModelConfig
from compfast.config.plugins import family_class, task_class
from compfast.config.section import ModelSection, NotTogether, Section, TaskSection, check_seed
from compfast.config.sections import (
    DEFAULT_FAMILY,
    DEFAULT_TASK,
    PICKED,
    EvaluationConfig,
    InitConfig,
    Kinds,
    OptimizerConfig,
    RunConfig,
    StartConfig,
    TrainingConfig,
    field_hint,
    sections,
)
from compfast.errors import UsageError

Axis = tuple[str, tuple[Any, ...]]
SEEDS = ("seed", "init_seed", "data_seed")  # what a member draws from; each can be swept

_PICKS: dict[str, tuple[type[Section], str, Callable[[str], Any], str]] = {
    "task": (TaskSection, "name", task_class, DEFAULT_TASK),
    "model": (ModelSection, "family", family_class, DEFAULT_FAMILY),
}
_DEFAULT_FIELDS = {"item_high": 36}  # 16 items, fewer than the default network's dimensions


@dataclass(frozen=True, slots=True)
class Config:
    """One ensemble: the sections hold what all members share, `sweep` what they differ in.

    A section that is not given is the `tiny` preset's, and a mapping changes fields of that one;
    a section object counts as it is. `sweep` is an ordered list of axes, outermost first, or a
    mapping, e.g.
    {"model.layers": (2, 3), "init.gamma": np.linspace(0.1, 0.5, 5), "seed": range(3)}.
    Members are the Cartesian product in that order, so the last axis varies fastest. `sample` is
    one axis more, outermost, of points that differ in several fields at once: columns of equal
    length, whose i-th values are point i's, e.g. {"optimizer.lr": (1e-3, 4e-3), "seed": (0, 1)}
    (compfast.ensembles.sampling draws some). Fields of a mapping that do not go together as they
    stand, but do once members have theirs (schedule "points", and points in the sweep), hold the
    first of those values. Raises UsageError for what no field takes, naming the field.
    """

    # Their defaults are the tiny network, whose map over gamma shows every zone; ours, found by
    # experiments/tiny_search.py, which also holds what else was tried.

    task: TaskSection = field(default_factory=lambda: _default_task())  # of the task's own class
    model: Any = ModelConfig(d_model=48, heads=2)  # the Config of a family of networks
    init: InitConfig = InitConfig()
    optimizer: OptimizerConfig = OptimizerConfig(lr=2e-3, weight_decay=0.12)
    training: TrainingConfig = TrainingConfig(steps=2800, batch_size=32, eval_every=400)
    evaluation: EvaluationConfig = EvaluationConfig()
    run: RunConfig = RunConfig()
    start: StartConfig = StartConfig()
    sweep: tuple[Axis, ...] = (("seed", (0,)),)  # ("section.field", values), or ("seed", values)
    sample: tuple[Axis, ...] = ()

    def __post_init__(self) -> None:
        kinds = Kinds(_picked("task", self.task), _picked("model", self.model))
        axes = tuple(axis(path, points, kinds) for path, points in sweep_pairs(self.sweep))
        columns = tuple(
            column(path, points, kinds) for path, points in sweep_pairs(self.sample, "sample")
        )
        first = {path: points[0] for path, points in (*axes, *columns)}
        for section, kind in sections(kinds).items():
            given, own = getattr(self, section), _fields(section, first)
            if section == "task":
                made = _task(given, kinds.task, own)
            elif section == "model":
                made = _model(given, kinds.family, own)
            else:
                made = _section(section, given, kind, own)
            object.__setattr__(self, section, made)
        # The one seed that a sweep has by default makes way for the points' own.
        default = axes == (("seed", (0,)),) and "seed" in dict(columns)
        object.__setattr__(self, "sweep", () if default else axes)
        object.__setattr__(self, "sample", columns)
        _check_together(self.sweep, columns)
        _check_scale(self.init, (*self.sweep, *columns))

    @property
    def kinds(self) -> Kinds:
        """The names of its task and of its family of networks."""
        return Kinds(self.task.name, self.model.family)

    @property
    def points(self) -> int:
        """Points of the sample; 1 where there is none."""
        return len(self.sample[0][1]) if self.sample else 1


def _check_together(axes: tuple[Axis, ...], columns: tuple[Axis, ...]) -> None:
    paths = [path for path, _ in axes]
    if len(set(paths)) != len(paths):
        raise UsageError(f"sweep axes {paths} name a field twice")
    drawn = [path for path, _ in columns]
    twice = next((p for i, p in enumerate(drawn) if p in paths or p in drawn[:i]), None)
    if twice is not None:
        raise UsageError(f"sample.{twice} is not allowed; {twice} has values already")
    lengths = {path: len(points) for path, points in columns}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{n} of {path}" for path, n in lengths.items())
        raise UsageError(f"sample has columns of different lengths: {said}")


def _check_scale(init: InitConfig, axes: tuple[Axis, ...]) -> None:
    """A plain std of the initial weights leaves nothing that a gamma could change."""
    gammas = [path for path, points in axes if path.startswith("init.gamma") and len(points) > 1]
    if gammas and init.std is not None:
        raise UsageError(
            f"init.std is {init.std} and {gammas[0]} has several values; give one of the two"
        )


def axis(path: str, points: Any, kinds: Kinds) -> Axis:
    """A swept field and its values, converted; raises UsageError for what cannot be swept.

    `kinds` are the task and family whose fields may be swept.
    """
    converted = _converted("sweep", path, points, kinds)
    if len(set(converted)) != len(converted):
        raise UsageError(f"sweep axis {path} has equal values: {converted}")
    return path, converted


def column(path: str, points: Any, kinds: Kinds) -> Axis:
    """A field of a sample and its value in each point, converted; equal values are allowed."""
    return path, _converted("sample", path, points, kinds)


def _converted(home: str, path: str, points: Any, kinds: Kinds) -> tuple[Any, ...]:
    if path.partition(".")[0] == "run":
        raise UsageError(
            f"{home}.{path} is not allowed; [run] holds nothing that members differ in"
        )
    if path in PICKED:
        what = "tasks" if path == "task.name" else "families"
        raise UsageError(f"{home}.{path} is not allowed; {what} have fields of their own")
    try:
        hint = int if path in SEEDS else field_hint(path, kinds)
    except UsageError as error:
        raise UsageError(f"{home}: {error}") from None
    listed = values.plain(points)
    if not isinstance(listed, list):
        raise UsageError(f"{home}.{path} is {points!r}; it must be a list of values")
    converted = tuple(values.convert(f"{home}.{path}", point, hint) for point in listed)
    for point in converted if path in SEEDS else ():
        check_seed(f"{home}.{path}", point)
    if not converted:
        raise UsageError(f"{home} axis {path} is empty; it needs at least one value")
    return converted


def sweep_pairs(sweep: Any, home: str = "sweep") -> Iterator[tuple[str, Any]]:
    """(path, values) of a mapping or a list of pairs; a table of fields counts as its fields.

    {"init": {"gamma": [...]}} is {"init.gamma": [...]}, which TOML writes in both ways. `home`
    is what an error's sentence calls the whole.
    """
    try:
        pairs = sweep.items() if isinstance(sweep, Mapping) else [(p, v) for p, v in sweep]
    except (TypeError, ValueError):
        pairs = [(None, None)]
    for path, points in pairs:
        if not isinstance(path, str):
            raise UsageError(
                f'{home} is {sweep!r}; it must be a table of "section.field" = [values]'
            )
        if isinstance(points, Mapping):
            yield from ((f"{path}.{name}", inner) for name, inner in points.items())
        else:
            yield path, points


def _fields(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of "section.field" -> value that are of one section, by field."""
    split = {path: path.partition(".") for path in values}
    return {name: values[path] for path, (home, _, name) in split.items() if home == section}


def _together(
    make: Callable[..., Section], given: dict[str, Any], first: dict[str, Any]
) -> Section:
    """The section of the given fields, with the first of the members' values where it needs them.

    Raises UsageError where the fields go together in neither way.
    """
    try:
        return make(**given)
    except NotTogether:
        if not first:
            raise
    return make(**{**given, **first})


def _section(name: str, given: Any, kind: type[Section], first: dict[str, Any]) -> Section:
    if isinstance(given, kind):
        return given
    if not isinstance(given, Mapping):
        shown = f"{kind.__name__} or a table of its fields"
        raise UsageError(f"[{name}] is {given!r}; it must be a {shown}")
    for field_name in given:
        field_hint(f"{name}.{field_name}", Kinds())
    default: Any = next(f.default for f in dataclasses.fields(Config) if f.name == name)
    return _together(functools.partial(dataclasses.replace, default), dict(given), first)


def _default_task() -> TaskSection:
    made: TaskSection = task_class(DEFAULT_TASK).Config(**_DEFAULT_FIELDS)
    return made


def _picked(section: str, given: Any) -> str:
    """The name in [task] or [model] that says which fields it has."""
    kind, field, found, default = _PICKS[section]
    what = "task" if section == "task" else "family"
    if isinstance(given, kind):
        name: str = getattr(given, field)
        if type(given) is not found(name).Config:
            raise UsageError(
                f"[{section}] is a {type(given).__name__} with the {field} {name!r}, which is"
                f" another {what}'s"
            )
        return name
    if not isinstance(given, Mapping):
        raise UsageError(
            f"[{section}] is {given!r}; it must be a {what}'s Config or a table of its fields"
        )
    named = given.get(field, default)
    if not isinstance(named, str):
        raise UsageError(f"{section}.{field} is {named!r}; it must be a string")
    return named


def _task(given: Any, name: str, first: dict[str, Any]) -> Section:
    if isinstance(given, TaskSection):
        return given
    for field_name in given:
        field_hint(f"task.{field_name}", Kinds(task=name))
    fields = {**_DEFAULT_FIELDS, **given} if name == DEFAULT_TASK else {"name": name, **given}
    return _together(task_class(name).Config, fields, first)


def _model(given: Any, name: str, first: dict[str, Any]) -> Section:
    if isinstance(given, ModelSection):
        return given
    if name == DEFAULT_FAMILY:
        return _section("model", given, ModelConfig, first)
    for field_name in given:
        field_hint(f"model.{field_name}", Kinds(family=name))
    return _together(family_class(name).Config, dict(given), first)


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """One member's whole life. `model` is resolved: none of its fields is None.

    `member` is a label (the row in the ensemble); no number of the member's life depends on it.
    """

    member: int
    seed: int  # of everything that has no seed of its own
    task: TaskSection
    model: Any  # a family's Config
    init: InitConfig
    optimizer: OptimizerConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    own_init_seed: int | None = None  # of the initial weights
    own_data_seed: int | None = None  # of the training data

    def __post_init__(self) -> None:
        for name in SEEDS:
            check_seed(name, getattr(self, name))

    @property
    def init_seed(self) -> int:
        """Key of the streams that initial weights come from: `seed`, unless it has its own."""
        return self.seed if self.own_init_seed is None else self.own_init_seed

    @property
    def data_seed(self) -> int:
        """Key of the streams that training data come from: `seed`, unless it has its own."""
        return self.seed if self.own_data_seed is None else self.own_data_seed
