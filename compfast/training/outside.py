"""Weights from outside of compfast as the start of members."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compfast.config import Config, MemberSpec
from compfast.config.paths import user_path
from compfast.config.settings import from_dict
from compfast.engines.base import Engine, Named, State
from compfast.ensembles.groups import Groups, member_groups
from compfast.ensembles.schedule import Tables
from compfast.errors import OutOfMemory, UsageError
from compfast.models.params import parameter_table
from compfast.runs.folder import default_out
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run, load
from compfast.training.inherited import Taken
from compfast.training.progress import Progress
from compfast.training.runs import begun

if TYPE_CHECKING:
    from torch import nn

    Weights = nn.Module | Mapping[str, Any]

_EXACT = ("float32", "float16", "bfloat16")  # types whose every number is a float32


def from_module(
    module: Weights | Sequence[Weights],
    like: Config | Mapping[str, Any],
    out: str | Path | None = None,
) -> Run:
    """A run of the config `like` whose members hold these weights, at step 0, not trained.

    `module` is a `torch.nn.Module` or a state dict with the names and shapes of the member's own
    (`run.model(i)` has them), or a list of these, one a member in member order. The run, in the
    folder `out` (default: runs/TASK-UTC-RANDOM), is one to go on with: `compfast.train(out=
    run.path, resume=True)` trains it, `start_from=run.path` starts others from it. Its config.json
    has the digests of the weights under "from_module", since nothing of them was drawn.

    Raises UsageError for names, shapes and types that do not fit, numbers that are not finite,
    and a config of another number of members; otherwise what `compfast.train` raises.
    """
    if not isinstance(like, Config | Mapping):
        raise UsageError(f"like is {like!r}; it must be a compfast.Config or a mapping")
    config = like if isinstance(like, Config) else from_dict(like)
    if config.start.run is not None:
        raise UsageError("a run whose weights are given starts from no other; leave out [start]")
    groups = member_groups(config)
    given = list(module) if isinstance(module, list | tuple) else [module]
    count = sum(len(specs) for specs in groups)
    if len(given) != count:
        raise UsageError(f"there are {len(given)} modules for {count} members; give one for each")
    members = sorted(spec.member for specs in groups for spec in specs)
    own = dict(zip(members, given, strict=True))
    weights = {s.member: _weights(own[s.member], s) for specs in groups for s in specs}
    path = default_out(config.task.name) if out is None else user_path(out)
    origin = {"from_module": {str(m): _digest(weights[m]) for m in members}}
    try:
        with begun(config, path, _Given(weights), origin):
            return load(path)
    except MemoryError as error:
        raise OutOfMemory from error


@dataclass(frozen=True, slots=True)
class _Given:
    """Members that hold these weights, as if a run had been stopped before its step 0."""

    weights: Mapping[int, Named]
    moments_from: int = 0

    def take(self, engines: Sequence[Engine], groups: Groups, tables: Sequence[Tables]) -> Taken:
        for engine, specs in zip(engines, groups, strict=True):
            own = [self.weights[spec.member] for spec in specs]
            engine.load(State.fresh({name: np.stack([w[name] for w in own]) for name in own[0]}))
        parts = zip(groups, exams_of(groups), tables, strict=True)
        return Taken(-1, [Progress.fresh(*part) for part in parts])


def _weights(module: Any, spec: MemberSpec) -> Named:
    """A member's weights by name, float32; raises UsageError unless they are exactly those."""
    if isinstance(module, Mapping):
        found = dict(module)
    elif hasattr(module, "named_parameters"):
        found = dict(module.named_parameters(remove_duplicate=False))
    else:
        raise UsageError(
            f"the module of member {spec.member} is a {type(module).__name__}; it must be a"
            " torch.nn.Module or a state dict"
        )
    table = {tensor.name: tuple(tensor.shape) for tensor in parameter_table(spec.model)}
    who = f"the module of member {spec.member}"
    if missing := [name for name in table if name not in found]:
        raise UsageError(
            f"{who} lacks {missing[0]} {list(table[missing[0]])}, which its config says"
            f" ({len(missing)} of {len(table)} tensors are not there)"
        )
    if extra := [name for name in found if name not in table]:
        raise UsageError(f"{who} has {str(extra[0])!r}, which its config knows nothing of")
    return {name: _array(who, name, found[name], shape) for name, shape in table.items()}


def _array(who: str, name: str, value: Any, shape: tuple[int, ...]) -> Any:
    kind = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
    if kind not in _EXACT:
        raise UsageError(
            f"{name} of {who} is {kind}; members are float32, so give {', '.join(_EXACT)}"
        )
    if tuple(value.shape) != shape:
        raise UsageError(f"{name} of {who} is {list(value.shape)}; its config says {list(shape)}")
    if getattr(value, "is_meta", False):
        raise UsageError(f"{name} of {who} is on the device meta, which holds no numbers")
    plain = value.detach().cpu().float().numpy() if hasattr(value, "detach") else value
    array = np.array(plain, np.float32)  # a copy of our own
    if not np.isfinite(array).all():
        raise UsageError(f"{name} of {who} has numbers that are not finite")
    return array


def _digest(weights: Named) -> str:
    """SHA-256 of the numbers, tensor after tensor."""
    digest = hashlib.sha256()
    for array in weights.values():
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
