"""What the rest of the program knows of a family of networks, and nothing else.

A family is one file beside its module: its Config, the table of its tensors, and the plan that
the fast engines run. It is found by its name (compfast.config.plugins).
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from numpy.typing import NDArray

from compfast.config import ModelSection, Ports
from compfast.errors import UsageError
from compfast.models.plan import Plan
from compfast.models.tensors import Tensor

if TYPE_CHECKING:
    import torch

Own = TypeVar("Own", bound=ModelSection)


class Network(Protocol):
    """A member as a plain `nn.Module`, the specification of every engine.

    Parameter names and shapes are those of the family's table.
    """

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Token ids [B, T], or vectors [B, T, width] -> outputs [B, T, V]."""

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor, positions: str) -> torch.Tensor:
        """Mean loss of a batch as a task gives it; `positions` is model.loss_positions.

        Of tokens [B, T] and the token after each sequence, targets [B], it is the cross-entropy.
        """

    def parameters(self) -> Any: ...
    def get_parameter(self, target: str) -> torch.nn.Parameter: ...
    def eval(self) -> Any: ...


class Family(ABC, Generic[Own]):
    """A subclass sets `Config`, a frozen dataclass on `ModelSection`."""

    Config: ClassVar[type[ModelSection]]

    @abstractmethod
    def resolve(self, model: Own, ports: Ports) -> Own:
        """`model` with nothing left to derive; see `compfast.models.families.resolve`."""

    @abstractmethod
    def table(self, model: Own) -> tuple[Tensor, ...]:
        """Its tensors, in the order of the flat parameter vector."""

    @abstractmethod
    def plan(self, model: Own, *, absorb: bool) -> Plan:
        """What the fast engines run; see `compfast.models.families.model_plan`."""

    def training(
        self, module: Any, model: Own, length: int, seed: int, step: int
    ) -> contextlib.AbstractContextManager[None]:
        """What a module is in while it takes training step `step` on sequences of `length`: its
        dropout, of `init_seed` `seed`. By default nothing.
        """
        return contextlib.nullcontext()

    @abstractmethod
    def holding(self, model: Own, weights: Mapping[str, NDArray[Any]]) -> Network:
        """The module with copies of these weights by name, on the CPU; nothing is drawn."""


def check_resolved(vocab_size: int, max_positions: int, ports: Ports) -> None:
    """Raise UsageError where a network has fewer tokens or positions than its task needs."""
    if vocab_size < ports.vocabulary:
        raise UsageError(
            f"model.vocab_size is {vocab_size}; the task needs at least {ports.vocabulary}"
        )
    if max_positions < ports.length:
        raise UsageError(
            f"model.max_positions is {max_positions};"
            f" a sequence of {ports.length} positions needs at least as many"
        )


def check_tokens(family: str, ports: Ports) -> None:
    """Raise UsageError where a task of vectors meets a family for tokens."""
    if ports.width:
        raise UsageError(
            f"model.family is {family}, for tokens; this task has vectors of {ports.width} numbers,"
            " which family transformer takes"
        )
    check_masked(family, ports, False)


def check_masked(family: str, ports: Ports, masked: bool) -> None:
    """Raise UsageError unless the loss reads a task's mask where there is one, and only there."""
    if ports.masked and not masked:
        raise UsageError(
            f"this task's targets have a mask; model.family {family} needs model.loss_positions ="
            " masked"
        )
    if masked and not ports.masked:
        raise UsageError("model.loss_positions is masked; this task's targets have no mask")
