"""Mechanisms over whole ensembles: what a run's members are inside, at every snapshot.

Reads runs, never trains. docs/analysis.md shows how.
"""

from __future__ import annotations

from compfast.analysis.attention import attention_to_skip
from compfast.analysis.matrices import rank_one_energy

__all__ = ["attention_to_skip", "rank_one_energy"]
