"""From flags to a config: preset < file < flags, and the sweep that they span."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from compfast.cli import sampled, written
from compfast.cli.counts import count
from compfast.cli.flags import FIELD_FLAGS, LIST_FLAGS, text_of
from compfast.cli.sampled import GAMMA, SEED
from compfast.config import DEFAULT_TASK, MAX_SEED, SEEDS, Config, Kinds, field_hint, settings
from compfast.config.plugins import task_class
from compfast.config.settings import Settings
from compfast.ensembles.grid import (
    MOST_MEMBERS,
    gamma_axis,
    gammas_and_seeds,
    parse_range,
    parse_values,
)
from compfast.errors import UsageError
from compfast.runs.parents import parse_start, settings_of
from compfast.tasks import preset, start_of


@dataclass(slots=True)
class Given:
    """What flags say of single fields, axes and ranges to draw from, and which flag said it."""

    settings: Settings = field(default_factory=lambda: {"sweep": {}, "sample": {}})
    origin: dict[str, str] = field(default_factory=dict)  # field -> the flag as it was written

    def put(self, path: str, value: Any, shown: str) -> None:
        section, _, name = path.partition(".")
        self._forget(path)
        self.settings.setdefault(section, {})[name] = value
        self.origin[path] = shown

    def put_axis(self, path: str, values: Any, shown: str) -> None:
        self._forget(path)
        self.settings["sweep"][path] = list(values)
        self.origin[path] = shown

    def put_range(self, path: str, text: str, shown: str) -> None:
        self._forget(path)
        self.settings["sample"][path] = text
        self.origin[path] = shown

    def _forget(self, path: str) -> None:
        section, _, name = path.partition(".")
        self.settings["sweep"].pop(path, None)
        self.settings["sample"].pop(path, None)
        self.settings.get(section, {}).pop(name, None)


def new_config(arguments: argparse.Namespace) -> Config:
    """The config of a new run; raises UsageError."""
    parent = _parent(arguments)
    start = base(arguments) if parent is None else _parents(arguments, parent)
    kinds = settings.kinds_of(start)
    flags = given(arguments, kinds).settings
    data, ranges = sampled.split_ranges(settings.apply(start, flags))
    ends = sampled.ends(arguments, kinds, ranges)  # drawn from below, so no axes
    shared = settings.from_dict({**data, "sweep": {**data.get("sweep", {}), **ends}})
    axes = dict(shared.sweep) if data.get("sweep") else {}
    drawn = sampled.columns(arguments, kinds, ranges, axes)
    if arguments.sample is not None and not drawn:
        raise UsageError(
            f"--sample is {arguments.sample}, but nothing is given to draw from, such as"
            " --gamma-range 0.1:1.5 or --lr log:1e-4:1e-2"
        )
    if drawn and shared.sample:
        raise UsageError(f"--sample is {arguments.sample}, but the settings file holds points")
    sample = drawn or dict(shared.sample)
    axes = {path: levels for path, levels in axes.items() if path not in drawn}
    gammas, seeds = axes.pop(GAMMA, None), axes.pop(SEED, None)
    gammas, seeds = _inner_axes(arguments, axes, gammas, seeds, sample)
    if seeds is None and drawn:
        sample[SEED] = _seeds(arguments, len(next(iter(drawn.values()))))
    inner = ((GAMMA, gammas), (SEED, seeds))
    sweep = (*axes.items(), *((path, levels) for path, levels in inner if levels))
    if parent is not None:  # rows are in the parent's order
        order = list(start["sweep"])
        sweep = tuple(sorted(sweep, key=lambda axis: (*order, axis[0]).index(axis[0])))
    steps = snapshots(arguments, shared.training.steps)
    run = shared.run if steps is None else dataclasses.replace(shared.run, snapshots=steps)
    return dataclasses.replace(shared, run=run, sweep=sweep, sample=tuple(sample.items()))


def base(arguments: argparse.Namespace) -> Settings:
    """The settings of the preset with those of the file over them."""
    file = _file(arguments)
    task = _task_of(arguments, file)
    data = start_of(task or DEFAULT_TASK) if arguments.preset is None else _preset(arguments, task)
    named = {"task": {"name": settings.kinds_of(data).task}}
    data = settings.apply(_with_family(arguments, data, file), named)
    family = settings.kinds_of(data).family
    settings.from_dict({**named, "model": {"family": family}, "sweep": file.get("sweep", {})})
    return data


def _file(arguments: argparse.Namespace) -> Settings:
    return {} if arguments.config is None else settings.load_toml(arguments.config)


def _parent(arguments: argparse.Namespace) -> str | None:
    """The run to start from, as --start-from, --set or the settings file names it."""
    if arguments.start_from is not None:
        return parse_start(arguments.start_from)[0]
    if (given := _set_flag(arguments, "start.run")) is not None:
        return given
    start = _file(arguments).get("start")
    run = start.get("run") if isinstance(start, Mapping) else None
    return run if isinstance(run, str) else None


def _parents(arguments: argparse.Namespace, run: str) -> Settings:
    """The settings of the run to start from with those of the file over them."""
    if arguments.preset is not None:
        raise UsageError(
            f"--preset is {arguments.preset}, but the settings are those of {run}, which this run"
            " starts from"
        )
    data, file = settings_of(run), _file(arguments)
    task = _task_of(arguments, file)
    if task not in (None, settings.kinds_of(data).task):
        data["task"] = {**start_of(task).get("task", {}), "name": task}
    return _with_family(arguments, data, file)


def _with_family(arguments: argparse.Namespace, data: Settings, file: Settings) -> Settings:
    """`data` with the file over it, and without the fields of its network where another family is
    asked for."""
    asked = _set_flag(arguments, "model.family")
    over = {} if asked is None else {"model": {"family": asked}}
    family = settings.kinds_of(settings.apply(settings.apply(data, file), over)).family
    if family != settings.kinds_of(data).family:
        data = {**data, "model": {"family": family}}
    return settings.apply(settings.apply(data, file), over)


def _preset(arguments: argparse.Namespace, task: str | None) -> Settings:
    try:
        data = preset(arguments.preset)
    except UsageError as error:
        raise UsageError(f"--{error}") from None
    own = settings.kinds_of(data).task
    if task not in (None, own):
        raise UsageError(f"--preset {arguments.preset} is one of task {own}, not of {task}")
    return data


def _task_flag(arguments: argparse.Namespace) -> str | None:
    """The task that --task or --set task.name= names."""
    name: str | None = arguments.task or _set_flag(arguments, "task.name")
    return None if name is None else name.strip()


def _task_of(arguments: argparse.Namespace, file: Settings) -> str | None:
    """The task that the flags name, else the file."""
    return _task_flag(arguments) or (settings.kinds_of(file).task if "task" in file else None)


def _set_flag(arguments: argparse.Namespace, wanted: str) -> str | None:
    """What --set says of a field, as text."""
    for text in arguments.set:
        path, value = written.set_parts(text)
        if path == wanted:
            return value.strip()
    return None


def given(arguments: argparse.Namespace, kinds: Kinds) -> Given:
    """What the flags say, apart from those that count members and draw points, and --snapshots.

    `kinds` say which fields [task] and [model] have.
    """
    result = Given()
    if arguments.variant is not None:
        variants = task_class(kinds.task).variants
        if arguments.variant not in variants:
            known = f"must be one of {', '.join(variants)}" if variants else "has none"
            raise UsageError(
                f"--variant is {arguments.variant!r}; that of task {kinds.task} {known}"
            )
        for name, value in variants[arguments.variant].items():
            result.put(f"task.{name}", value, f"--variant {arguments.variant}")
    for text in arguments.set:
        path, value = written.set_parts(text)
        if sampled.range_of(arguments, path, path, value, kinds):
            result.put_range(path, value, f"--set {text}")
            continue
        path, value, many = written.parse_set(text, kinds)
        put = result.put_axis if many else result.put
        put(path, value, f"--set {text}")
    for flag, path in FIELD_FLAGS.items():
        text = text_of(arguments, flag)
        if text is not None:
            result.put(path, _field(flag, path, text, kinds), f"{flag} {text}")
    for flag, (path, kind) in LIST_FLAGS.items():
        text = text_of(arguments, flag)
        if text is not None and sampled.range_of(arguments, flag, path, text, kinds):
            result.put_range(path, text, f"{flag} {text}")
        elif text is not None:
            seed = path in SEEDS  # one value of it is an axis too
            if not seed:
                field_hint(path, kinds)
            values = parse_values(flag, text, kind)
            put = result.put if len(values) == 1 and not seed else result.put_axis
            put(path, values if put == result.put_axis else values[0], f"{flag} {text}")
    if arguments.start_from is not None:
        run, step = parse_start(arguments.start_from)
        result.put("start.run", run, f"--start-from {arguments.start_from}")
        if step is not None:
            result.put("start.step", step, f"--start-from {arguments.start_from}")
    if arguments.shard is not None:
        result.put("run.shard", _shard(arguments.shard), f"--shard {arguments.shard}")
    if arguments.quiet:
        result.put("run.quiet", True, "--quiet")
    return result


def snapshots(arguments: argparse.Namespace, last: int) -> tuple[int, ...] | None:
    """Steps of --snapshots: a list, or log:N for N steps evenly spaced in log from 1 to `last`."""
    text = arguments.snapshots
    if text is None:
        return None
    if not text.startswith("log:") or text.count(":") == 3:
        steps = parse_values("--snapshots", text, int)
        if min(steps) < 0 or max(steps) > last:
            raise UsageError(f"--snapshots is {text!r}; steps must be between 0 and {last}")
        return steps
    n = count(text[4:], "--snapshots log:N", least=2, below=100_001)
    assert n is not None
    return tuple(sorted({round(last ** (i / (n - 1))) for i in range(n)}))


def gamma_range(text: str) -> tuple[float, float]:
    try:
        return parse_range("--gamma-range", text)
    except UsageError:
        raise UsageError(
            f"--gamma-range is {text!r}; it must be LO:HI with finite LO <= HI, e.g. 0.1:1.5"
        ) from None


def _field(flag: str, path: str, text: str, kinds: Kinds) -> Any:
    value, many = written.read(path, text, kinds, flag)
    if many:
        raise UsageError(f"{flag} is {text!r}; it takes one value")
    return settings.convert(path, value, kinds, flag)


def _shard(text: str) -> list[int]:
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and int(i) < int(n)):
        raise UsageError(f"--shard is {text!r}; it must be I/N with 0 <= I < N, e.g. 0/4")
    return [int(i), int(n)]


def _inner_axes(
    arguments: argparse.Namespace,
    axes: Mapping[str, tuple[Any, ...]],
    gammas: tuple[float, ...] | None,
    seeds: tuple[int, ...] | None,
    sample: Mapping[str, tuple[Any, ...]],
) -> tuple[tuple[float, ...] | None, tuple[int, ...] | None]:
    """The axes of gamma and seed, from the flags and from what a settings file sweeps.

    No axis of seeds (None) where the points of a sample have, or are to have, their own.
    """
    models = count(arguments.models, "--models")
    first = count(arguments.seed, "--seed", least=0, below=MAX_SEED)
    wanted = count(arguments.seeds, "--seeds", below=MOST_MEMBERS + 1)
    if wanted is None and seeds is not None:
        wanted = len(seeds)
    if SEED in sample and (first is not None or wanted is not None):
        raise UsageError("the settings file's points have seeds; --seed and --seeds are not needed")
    other = math.prod(len(values) for values in (*axes.values(), *list(sample.values())[:1]))
    if arguments.gamma_range is not None and arguments.sample is None:
        gammas, wanted = _spanned(arguments, models, other, wanted)
    elif models is not None:
        if gammas is None and not sample:
            raise UsageError("--models needs --gamma-range LO:HI, e.g. --gamma-range 0.1:1.5")
        each = other * len(gammas or (0,)) * (wanted or 1)
        if models % each or (wanted and models != each):
            what = f"make {each}" if wanted else f"need a multiple of {each}"
            raise UsageError(f"--models is {models}, but the gammas, seeds and lists {what}")
        if not sample or models > each:
            wanted = wanted or models // each
    elif not axes and not sample and gammas is None and wanted is None:
        raise UsageError(
            "nothing says what to train; give --models N and --gamma-range LO:HI, e.g."
            " --models 512 --gamma-range 0.1:1.5"
        )
    if wanted is None and (arguments.sample is not None or SEED in sample):
        return gammas, None
    if seeds is not None and first is None and len(seeds) == (wanted or 1):
        return gammas, seeds
    return gammas, _seeds(arguments, wanted or 1)


def _seeds(arguments: argparse.Namespace, many: int) -> tuple[int, ...]:
    """So many seeds, from --seed on."""
    first = count(arguments.seed, "--seed", least=0, below=MAX_SEED) or 0
    last = first + many - 1
    if last >= MAX_SEED:
        raise UsageError(
            f"--seed {first} with {many} seeds reaches seed {last}; seeds must be below 2^53"
        )
    return tuple(range(first, first + many))


def _spanned(
    arguments: argparse.Namespace, models: int | None, other: int, seeds: int | None
) -> tuple[tuple[float, ...], int]:
    """(gammas, seeds a gamma) of --gamma-range."""
    low, high = gamma_range(arguments.gamma_range)
    if models is None:
        raise UsageError("--gamma-range needs --models N, the number of members")
    n, seeds = gammas_and_seeds(models, other, seeds, single=low == high)
    if n == 1 and low != high:
        raise UsageError(
            f"--models is {models}, which leaves one gamma for --gamma-range"
            f" {arguments.gamma_range}; give more models, or LO = HI"
        )
    return gamma_axis(low, high, n), seeds
