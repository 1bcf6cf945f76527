"""The one table of tensors: everything that walks over parameters reads it."""

from __future__ import annotations

from compfast.config import ModelSection
from compfast.models.families import family_of
from compfast.models.tensors import Tensor

__all__ = ["Tensor", "parameter_count", "parameter_table"]


def parameter_table(model: ModelSection) -> tuple[Tensor, ...]:
    """All tensors of a resolved model, in the order of the flat parameter vector."""
    return family_of(model).table(model)


def parameter_count(model: ModelSection) -> int:
    return sum(tensor.size for tensor in parameter_table(model))
