"""Mechanisms over whole ensembles: what a run's members are inside, at every snapshot.

Reads runs, never trains. docs/analysis.md shows how.
"""

from __future__ import annotations

from compfast.analysis.attention import attention_to_skip
from compfast.analysis.codes import Codes, latent_codes
from compfast.analysis.connectivity import (
    connectivity,
    connectivity_effort,
    lines_between,
    loss_line,
    loss_line_effort,
)
from compfast.analysis.effort import Effort
from compfast.analysis.flow import Flow, information_flow
from compfast.analysis.landscape import sharpness, sharpness_effort
from compfast.analysis.learning_coefficient import (
    local_learning_coefficient,
    local_learning_coefficient_effort,
)
from compfast.analysis.lines import barriers
from compfast.analysis.matrices import rank_one_energy
from compfast.analysis.patching import Edge, Patch, effects
from compfast.analysis.probes import code_similarity, probe
from compfast.analysis.stacked import States, Weights, attention_weights, each_member, states

__all__ = [
    "Codes",
    "Edge",
    "Effort",
    "Flow",
    "Patch",
    "States",
    "Weights",
    "attention_to_skip",
    "attention_weights",
    "barriers",
    "code_similarity",
    "connectivity",
    "connectivity_effort",
    "each_member",
    "effects",
    "information_flow",
    "latent_codes",
    "lines_between",
    "local_learning_coefficient",
    "local_learning_coefficient_effort",
    "loss_line",
    "loss_line_effort",
    "probe",
    "rank_one_energy",
    "sharpness",
    "sharpness_effort",
    "states",
]
