"""Settings of the bottleneck; see compfast.models.families.bottleneck."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from compfast.config import ModelConfig
from compfast.config.section import at_most, choice, positive, require


@dataclass(frozen=True, slots=True)
class BottleneckConfig(ModelConfig):
    """The transformer's fields, without a mask by default, and what its last output generates."""

    family: str = "bottleneck"
    causal: bool = False  # 2407.12275
    head_bias: bool = False  # of the small network's readout; the teacher has none
    latent: int = 6  # numbers of the code; 2407.12275 tries 6, 8 and 12
    hidden: int = 32  # units of the small network; 2407.12275 tries 16 and 32
    net_activation: Literal["relu", "gelu", "gelu_tanh"] = "gelu"  # UNVERIFIED: the teacher's
    code_bias: bool = True  # of the layers to the code and to the weights; UNVERIFIED
    sees_query: bool = False  # whether the transformer reads the query's token; UNVERIFIED
    query_width: int | None = None  # first numbers of a token that are x; None: all but outputs
    empty: int | None = None  # tokens after the query's; None: the task's

    shown: ClassVar[Mapping[str, str]] = {**ModelConfig.shown, "latent": "latent {}"}

    def _check(self) -> None:
        ModelConfig._check(self)
        positive("model", self, "latent", "hidden", "query_width")
        at_most("model", self, latent=2**12, hidden=2**12, query_width=2**12)
        choice("model", self, net_activation=("relu", "gelu", "gelu_tanh"))
        require(
            self.empty is None or self.empty >= 0,
            f"model.empty is {self.empty}; it must be at least 0",
        )
