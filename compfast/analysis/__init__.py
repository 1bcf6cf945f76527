"""Mechanisms over whole ensembles: what a run's members are inside, at every snapshot.

Reads runs, never trains. docs/analysis.md shows how.
"""

from __future__ import annotations

from compfast.analysis.attention import attention_to_skip
from compfast.analysis.codes import Codes, latent_codes
from compfast.analysis.flow import Flow, information_flow
from compfast.analysis.matrices import rank_one_energy
from compfast.analysis.patching import Edge, Patch, effects
from compfast.analysis.probes import code_similarity, probe
from compfast.analysis.stacked import States, Weights, attention_weights, each_member, states

__all__ = [
    "Codes",
    "Edge",
    "Flow",
    "Patch",
    "States",
    "Weights",
    "attention_to_skip",
    "attention_weights",
    "code_similarity",
    "each_member",
    "effects",
    "information_flow",
    "latent_codes",
    "probe",
    "rank_one_energy",
    "states",
]
