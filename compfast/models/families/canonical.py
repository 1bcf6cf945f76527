"""The canonical model of binary Markov chains: one logit from three numbers (e, w, b).

Makkuva et al., arXiv 2406.03072: what a transformer of one layer without attention is along its
rank-one directions. The embedding of x_n is e x_n alpha and its position -(e / 2) alpha, the FFN
adds 2 w |w| times what it reads, and the head reads e alpha^T z + b, alpha a vector of signs over
sqrt(d). So P(x_{n+1} = 1) is the logistic function of

    e^2 (1 + 2 w |w|) x_n + b - e^2 / 2,

trained with the logistic loss. What its gradient flow does from (e, w) is known in closed form
(compfast.tasks.chain_theory).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from compfast.config import ModelSection, Ports
from compfast.config.section import at_most, choice, positive
from compfast.errors import UsageError
from compfast.models.families.base import Family, Network, check_resolved, check_tokens
from compfast.models.plan import Builder, Plan, prune_rows
from compfast.models.tensors import Tensor


@dataclass(frozen=True, slots=True)
class CanonicalConfig(ModelSection):
    """Nothing to choose but which positions the loss reads.

    Each number is a tensor of one with d_in 1, so that its initial value is Normal(0, 1) whatever
    gamma is: `init.std` gives another scale (0.01 in the code of 2406.03072), and
    `init.constants` a point (e, w).
    """

    family: str = "canonical"
    vocab_size: int | None = None  # 2
    max_positions: int | None = None  # None: task.seq_len; positions share the three numbers
    loss_positions: Literal["last", "all"] = "all"  # 2406.03072

    def _check(self) -> None:
        positive("model", self, "vocab_size", "max_positions")
        at_most("model", self, vocab_size=2**24, max_positions=2**24)
        choice("model", self, loss_positions=("last", "all"))


class CanonicalFamily(Family[CanonicalConfig]):
    """Its module is compfast.models.canonical.Canonical."""

    Config = CanonicalConfig

    def resolve(self, model: CanonicalConfig, ports: Ports) -> CanonicalConfig:
        check_tokens("canonical", ports)
        if ports.vocabulary != 2 or model.vocab_size not in (None, 2):
            raise UsageError(
                f"model.family is canonical, for tokens 0 and 1; this task has {ports.vocabulary}"
                f" and model.vocab_size is {model.vocab_size}"
            )
        positions = model.max_positions or ports.length
        check_resolved(2, positions, ports)
        return dataclasses.replace(model, vocab_size=2, max_positions=positions)

    def table(self, model: CanonicalConfig) -> tuple[Tensor, ...]:
        return (
            Tensor(0, "e", (1,), "normal", 1),
            Tensor(1, "w", (1,), "normal", 1),
            Tensor(2, "b", (1,), "zero", 1),
        )

    def plan(self, model: CanonicalConfig, *, absorb: bool) -> Plan:
        builder = Builder("ewb")
        logits = builder.op("canonical", "logits", 1, (), ("e", "w"), ("b",))
        return prune_rows(builder.plan(logits, "logistic"), model.loss_positions)

    def holding(self, model: CanonicalConfig, weights: Mapping[str, NDArray[Any]]) -> Network:
        from compfast.models.canonical import Canonical

        return Canonical.holding(weights)
