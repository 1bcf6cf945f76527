"""Families of networks: one file each, its settings, its tensors, its plan and its module."""

from __future__ import annotations

import functools
from typing import Any

from compfast.config import ModelSection, Ports
from compfast.config.plugins import family_class
from compfast.models.families.base import Family, Network
from compfast.models.plan import Plan

__all__ = ["Family", "Network", "family_of", "model_plan", "resolve"]


def family_of(model: ModelSection) -> Family[Any]:
    """The family that [model] names; raises UsageError for one that there is not."""
    return _made(model.family)


def resolve(model: ModelSection, ports: Ports) -> Any:
    """`model` with every derived field filled in, for a task of these ports.

    Raises UsageError where the model has fewer positions or tokens, or cannot take its inputs.
    """
    return family_of(model).resolve(model, ports)


def model_plan(model: ModelSection, *, absorb: bool = True) -> Plan:
    """The plan of a resolved model, with rows that the loss never reads pruned.

    `absorb`: where a sequence has one query, keys and values are not projected; see
    `compfast.models.plan.absorb_projections`.
    """
    return family_of(model).plan(model, absorb=absorb)


@functools.lru_cache(maxsize=64)
def _made(name: str) -> Family[Any]:
    made: Family[Any] = family_class(name)()
    return made
