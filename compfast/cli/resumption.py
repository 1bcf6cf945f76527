"""Going on with a run: its own config counts, and every flag is held against it."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Container
from typing import Any

from compfast.cli import request, sampled
from compfast.cli.counts import count
from compfast.cli.sampled import GAMMA, SEED
from compfast.config import SECTIONS, SEEDS, Config, settings
from compfast.config.labels import brief, extent, numbers
from compfast.config.paths import user_path
from compfast.ensembles.grid import member_count
from compfast.errors import UsageError
from compfast.runs.description import RESUMABLE
from compfast.runs.reading import Run, load


def resumption(arguments: argparse.Namespace) -> tuple[Run, Config]:
    """The run of --resume and its config with what a resumption may change.

    Raises UsageError for a folder that is no run, and for a flag (also a field of --preset or
    --config) that says other than the folder, naming flag, given and stored value.
    """
    run = load(arguments.resume)
    if arguments.out is not None and user_path(arguments.out).resolve() != run.path.resolve():
        raise UsageError(f"--out {arguments.out} is not the folder of --resume {arguments.resume}")
    given = request.given(arguments, run.config.kinds)
    drawn = _hold_sample(run, arguments, given)
    _hold_files(run, arguments, given, drawn)
    kinds = run.config.kinds
    changes: dict[str, Any] = {"quiet": arguments.quiet}  # how this process talks, not the run
    axes = {**dict(run.config.sample), **dict(run.config.sweep)}
    for path, shown in given.origin.items():
        if path in drawn:
            continue
        section, _, name = path.partition(".")
        own = None if path in SEEDS else getattr(getattr(run.config, section), name)
        axis = given.settings["sweep"].get(path)
        values = [given.settings[section][name]] if axis is None else axis
        wanted = tuple(v if path in SEEDS else settings.convert(path, v, kinds) for v in values)
        stored = axes.get(path, (own,))
        if section == "run" and name in RESUMABLE:
            changes[name] = wanted[0]
        elif path == "run.engine":
            _hold(run, shown, wanted[0] in ("auto", run.info["engine"]), run.info["engine"])
        elif path == "run.device":
            _hold(run, shown, wanted[0] in ("auto", own), own)
        else:
            _hold(run, shown, wanted == stored, _shown(stored))
    _hold_sweep(run, arguments)
    steps = request.snapshots(arguments, run.config.training.steps)
    if steps is not None:
        changes["snapshots"] = steps
    own_run = dataclasses.replace(run.config.run, **changes)
    return run, dataclasses.replace(run.config, run=own_run)


def _hold(run: Run, shown: str, agrees: bool, stored: Any) -> None:
    if not agrees:
        raise UsageError(f"{shown} contradicts {run.path}, which was started with {stored}")


def _hold_sample(
    run: Run, arguments: argparse.Namespace, given: request.Given
) -> dict[str, tuple[Any, ...]]:
    """The columns that --sample draws again, held against the stored ones.

    Each hangs on its own range alone, so that only what is given has to be the same.
    """
    points = count(arguments.sample, "--sample")
    stored = dict(run.config.sample)
    agrees = points is None or (points == run.config.points and bool(stored))
    _hold(run, f"--sample {points}", agrees, run.config.points if stored else "no sample")
    kinds = run.config.kinds
    named = {"task": {"name": kinds.task}, "model": {"family": kinds.family}}
    start = named if arguments.config is None else request.base(arguments)
    data, ranges = sampled.split_ranges(settings.apply(start, given.settings))
    axes = dict(settings.from_dict(data).sweep) if data.get("sweep") else {}
    drawn = sampled.columns(arguments, kinds, ranges, axes)
    if arguments.sample_seed is not None and not drawn:
        raise UsageError("--sample-seed says nothing without the ranges that were drawn from")
    for path, column in drawn.items():
        shown = given.origin.get(path, f"--sample {points} with its {path}")
        own = f"{path} {extent(stored[path])}" if path in stored else f"no sample of {path}"
        _hold(run, shown, stored.get(path) == column, own)
    return drawn


def _hold_files(
    run: Run,
    arguments: argparse.Namespace,
    given: request.Given,
    drawn: Container[str],
) -> None:
    """A preset or file has to describe the stored run wherever no flag says otherwise."""
    if arguments.preset is None and arguments.config is None:
        return
    shown = " and ".join(
        f"--{flag} {getattr(arguments, flag)}"
        for flag in ("preset", "config")
        if getattr(arguments, flag) is not None
    )
    data, _ = sampled.split_ranges(request.base(arguments))
    config = settings.from_dict(data)
    for section in SECTIONS:
        fields = settings.to_dict(config).get(section, {})
        explicit = arguments.preset is not None and section not in ("run", "start")
        for name in fields if explicit else data.get(section, {}):
            path = f"{section}.{name}"
            wanted, own = (getattr(getattr(c, section), name) for c in (config, run.config))
            if path in given.origin or (section == "run" and name in RESUMABLE):
                continue
            _hold(run, f"{shown} ({path} = {brief(wanted)})", wanted == own, brief(own))
    stored = dict(run.config.sweep)
    for path, values in config.sweep if data.get("sweep") else ():
        if path not in given.origin and path not in (GAMMA, SEED) and path not in drawn:
            _hold(run, f"{shown} (sweep over {path})", values == stored.get(path), "another")
    points = dict(run.config.sample)
    for path, values in config.sample:
        if path not in given.origin:
            _hold(run, f"{shown} (sample of {path})", values == points.get(path), "another")


def _hold_sweep(run: Run, arguments: argparse.Namespace) -> None:
    """--models, --gamma-range, --seeds and --seed against the stored axes."""
    axes, points = dict(run.config.sweep), dict(run.config.sample)
    gammas = axes.get(GAMMA, (run.config.init.gamma,))
    seeds = axes.get(SEED, (0,))
    each = "a seed a point" if SEED in points else len(seeds)
    for flag, text, least, stored in (
        ("--models", arguments.models, 1, member_count(run.config)),
        ("--seeds", arguments.seeds, 1, each),
        ("--seed", arguments.seed, 0, points.get(SEED, seeds)[0]),
    ):
        value = count(text, flag, least)
        _hold(run, f"{flag} {text}", value in (None, stored), stored)
    if arguments.gamma_range is not None and GAMMA in points:
        said = "gammas drawn with --sample and --sample-seed, which have to be given too"
        _hold(run, f"--gamma-range {arguments.gamma_range}", arguments.sample is not None, said)
    elif arguments.gamma_range is not None:
        bounds = tuple(round(end, 12) for end in request.gamma_range(arguments.gamma_range))
        ends = (gammas[0], gammas[-1])
        shown = f"--gamma-range {arguments.gamma_range}"
        _hold(run, shown, bounds == ends, ":".join(numbers((*ends, *bounds))[:2]))


def _shown(values: tuple[Any, ...]) -> str:
    return ",".join(brief(value) for value in values) if len(values) <= 9 else extent(values)
