"""Mechanisms over whole ensembles: what a run's members are inside, at every snapshot.

Reads runs, never trains. docs/analysis.md shows how.
"""

from __future__ import annotations

from compfast.analysis.attention import attention_to_skip
from compfast.analysis.codes import Codes, latent_codes
from compfast.analysis.matrices import rank_one_energy
from compfast.analysis.probes import code_similarity, probe

__all__ = [
    "Codes",
    "attention_to_skip",
    "code_similarity",
    "latent_codes",
    "probe",
    "rank_one_energy",
]
