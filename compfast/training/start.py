"""Where a run starts that starts from another: found, held against it, written into its config.

The config says it all afterwards (the folder, the step, the digest), so that a shard, a part on
another machine and a resumption before the first checkpoint start from the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from compfast.config import Config, MemberSpec, ModelConfig, names
from compfast.engines.base import ACTIVE
from compfast.ensembles.grid import member_count
from compfast.ensembles.groups import Groups, member_groups
from compfast.errors import UsageError
from compfast.models.params import parameter_table
from compfast.runs.parents import DERIVED_SIZES, Parent, find, reachable
from compfast.training.inherited import Inheritance


def resolved(config: Config) -> Config:
    """The config with the step and digest that it starts from, and the parent's derived sizes.

    A config that starts from no run comes back as it is. Raises UsageError where there is no such
    run or step, where members differ in number, in a shape or in their initial weights, and
    where nothing is left to train; StorageError for what cannot be read.
    """
    if config.start.run is None:
        return config
    parent = find(config.start)
    _check_members(parent, config)
    start = dataclasses.replace(config.start, step=parent.step, digest=parent.digest)
    config = dataclasses.replace(_sized(parent, config), start=start)
    config = dataclasses.replace(config, run=reachable(config))
    groups = member_groups(config)
    for specs in groups:
        for spec in specs:
            _check_member(parent, config, spec)
    _check_left(Inheritance(parent, config), config, groups)
    return config


def inherited(config: Config) -> Inheritance | None:
    """What the members of a resolved config take over, every file verified; None without a start.

    Raises StorageError for a damaged file, and where the parent is not what it was any more.
    """
    if config.start.run is None:
        return None
    parent = find(config.start)
    parent.verify()
    return Inheritance(parent, config)


def _check_members(parent: Parent, config: Config) -> None:
    own, theirs = member_count(config), member_count(parent.run.config)
    if own != theirs:
        raise UsageError(
            f"this run would have {own} members, {parent.run.path} has {theirs};"
            " each member starts from the one of its row"
        )


def _sized(parent: Parent, config: Config) -> Config:
    """Sizes that nobody gives are the parent's, where the task needs no more."""
    swept = {path for path, _ in (*config.sweep, *config.sample)}
    sizes = {}
    for name in DERIVED_SIZES:
        theirs = {getattr(spec.model, name) for spec in parent.specs.values()}
        given = getattr(config.model, name) is not None or f"model.{name}" in swept
        if given or len(theirs) != 1:
            continue
        own = {getattr(spec.model, name) for spec in _members(member_groups(config))}
        if own != theirs and max(own) <= max(theirs):
            sizes[name] = theirs.pop()
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **sizes))


def _check_member(parent: Parent, config: Config, spec: MemberSpec) -> None:
    run, member = parent.run.path, spec.member
    old = parent.specs.get(member)
    if old is None:
        known = sorted(parent.specs)
        raise UsageError(f"{run} holds members {known[0]} to {known[-1]}, not member {member}")
    if (field := _other_shape(old.model, spec.model)) is not None:
        raise UsageError(
            f"model.{field} of member {member} is {getattr(spec.model, field)}, in {run}"
            f" {getattr(old.model, field)}; weights keep their shapes"
        )
    drawn = [("init_seed", spec.init_seed, old.init_seed)]
    for name in names(spec.init):
        drawn.append((f"init.{name}", getattr(spec.init, name), getattr(old.init, name)))
    for name, own, theirs in drawn:
        if own != theirs:
            raise UsageError(
                f"{name} of member {member} is {own}, in {run} {theirs}; its weights are there"
                " already, so that what they were drawn with stays"
            )
    moments = config.start.mode == "go_on" and not parent.snapshot
    if moments and spec.optimizer.kind != old.optimizer.kind:
        raise UsageError(
            f"optimizer.kind of member {member} is {spec.optimizer.kind}, in {run}"
            f" {old.optimizer.kind}, whose moments mean something else; start.mode restart takes"
            " the weights alone"
        )


def _other_shape(old: ModelConfig, new: ModelConfig) -> str | None:
    """The first field of two resolved models that gives their tensors other shapes."""
    if old == new or _shapes(old) == _shapes(new):
        return None
    changed = [name for name in names(old) if getattr(old, name) != getattr(new, name, None)]
    if type(old) is not type(new):
        return changed[0]
    return next((name for name in changed if _reshapes(old, new, name)), changed[0])


def _reshapes(old: ModelConfig, new: ModelConfig, name: str) -> bool:
    """Whether one field alone does so; what it cannot be alone, another one decides."""
    try:
        return _shapes(dataclasses.replace(old, **{name: getattr(new, name)})) != _shapes(old)
    except UsageError:
        return False


def _shapes(model: ModelConfig) -> list[tuple[Any, ...]]:
    """Of all tensors, and how queries, keys and values fall into heads."""
    tensors = [(tensor.name, *tensor.shape) for tensor in parameter_table(model)]
    return [*tensors, tuple(getattr(model, name, None) for name in ("heads", "d_k", "d_v"))]


def _check_left(start: Inheritance, config: Config, groups: Groups) -> None:
    """Raise UsageError unless somebody is left to train, or trains in another shard."""
    parent, steps = start.parent, config.training.steps
    if start.event >= steps:
        raise UsageError(
            f"training.steps is {steps} and {parent.run.path} stands at step {parent.step}, so"
            " that nothing is left to train; give more steps, or start.mode restart"
        )
    standing = [start.standing(specs) for specs in groups]
    furthest = max(int(step.max()) for step, _ in standing)
    if furthest > steps:
        raise UsageError(
            f"training.steps is {steps}, but a member of {parent.run.path} has gone to step"
            f" {furthest} already"
        )
    if config.run.shard[1] == 1 and all((status != ACTIVE).all() for _, status in standing):
        raise UsageError(
            f"every member of {parent} has stopped or diverged, so that nothing is left to train"
        )


def _members(groups: Groups) -> Iterable[MemberSpec]:
    return (spec for specs in groups for spec in specs)
