"""Where the native engine's time goes: seconds by op record of the plan, by its own counters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compfast.engines.base import Float32

PHASES = ("draw", "pack", "clear", "update")  # as in csrc/plan.h


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """Seconds over `steps` steps of one member on one thread; `forward[i]` is op i of the plan."""

    steps: int
    total: float
    forward: tuple[float, ...]
    backward: tuple[float, ...]
    phases: dict[str, float]  # what a step does beside its ops, by PHASES
    loss: Float32  # [steps]
    grad_norm: Float32  # [steps]

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Profile:
        """From what `_native.Group.profile` gives."""
        steps: int = found["steps"]
        return cls(
            steps=steps,
            total=found["total"],
            forward=tuple(found["forward"].tolist()),
            backward=tuple(found["backward"].tolist()),
            phases=dict(zip(PHASES, found["phases"].tolist(), strict=True)),
            loss=found["loss"][:steps],
            grad_norm=found["grad_norm"][:steps],
        )

    @property
    def rest(self) -> float:
        """Seconds that no counter saw."""
        return self.total - sum(self.forward) - sum(self.backward) - sum(self.phases.values())
