"""A member that was exported as a folder, as a module again."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from compfast.config.paths import user_path
from compfast.config.settings import from_dict
from compfast.errors import StorageError, UsageError
from compfast.export.card import FORMAT, VERSION
from compfast.export.folders import WEIGHTS
from compfast.models.families import family_of
from compfast.models.params import parameter_table
from compfast.storage import durable, tensorfile


def from_pretrained(path: str | PathLike[str]) -> Any:
    """The member in a folder of `compfast.export.folder`: its family's plain `nn.Module`, in
    evaluation mode, with the same bits.

    Its `config.json` is at `.compfast` of the module. Raises UsageError where the folder is not
    there or not one of these, StorageError where its files are damaged.
    """
    home = user_path(path)
    told = _described(home)
    model = _model(home, told)
    weights = home / WEIGHTS
    try:
        layout = {t.name: ("F32", tuple(t.shape)) for t in parameter_table(model)}
    except (UsageError, ValueError, TypeError) as error:
        raise _damaged(home, str(error)) from error
    tensorfile.check_layout(weights, layout)
    if durable.digest_of(weights).sha256 != _digest(home, told):
        raise StorageError(f"{weights} is damaged: its SHA-256 is not the one in config.json")
    module = family_of(model).holding(model, tensorfile.read(weights, layout)).eval()
    module.compfast = told
    return module


def _described(home: Path) -> dict[str, Any]:
    file = home / "config.json"
    if not file.is_file():
        raise UsageError(
            f"there is no exported member in {home}: it has no config.json"
            " (compfast.export.folder writes one)"
        )
    told = durable.read_json(file)
    if told.get("format") != FORMAT:
        run = "config" in told and "engine" in told
        what = "is a run; compfast.load reads it" if run else "was not written by compfast.export"
        raise UsageError(f"{home} {what}")
    if told.get("version") != VERSION:
        raise UsageError(
            f"{home} is of version {told.get('version')!r}; this compfast reads version {VERSION}"
        )
    return told


def _model(home: Path, told: Mapping[str, Any]) -> Any:
    """The resolved settings of its network."""
    spec = told.get("spec")
    fields = spec.get("model") if isinstance(spec, Mapping) else None
    if not isinstance(fields, Mapping):
        raise _damaged(home, "it has no settings of a model")
    try:
        return from_dict({"model": dict(fields)}).model
    except UsageError as error:
        raise _damaged(home, str(error)) from error


def _digest(home: Path, told: Mapping[str, Any]) -> Any:
    weights = told.get("weights")
    if not isinstance(weights, Mapping):
        raise _damaged(home, "it has no digest of the weights")
    return weights.get("sha256")


def _damaged(home: Path, why: str) -> StorageError:
    return StorageError(f"{home / 'config.json'} cannot be used: {why}")
