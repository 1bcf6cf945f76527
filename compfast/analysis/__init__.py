"""Mechanisms over whole ensembles: what a run's members are inside, at every snapshot.

Reads runs, never trains. docs/analysis.md shows how.
"""

from __future__ import annotations

from compfast.analysis.answers import answers
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
from compfast.analysis.long import to_xarray
from compfast.analysis.matrices import rank_one_energy
from compfast.analysis.measures import MEASURES, Measure
from compfast.analysis.moments import at_transition, transitions
from compfast.analysis.neurons import condensation
from compfast.analysis.patching import Edge, Patch, effects
from compfast.analysis.place_probes import probe_places
from compfast.analysis.prediction import predict
from compfast.analysis.probes import code_similarity, probe
from compfast.analysis.relations import associations, by_level
from compfast.analysis.singular import complexity, ranks, spectra
from compfast.analysis.stacked import States, Weights, attention_weights, each_member, states
from compfast.analysis.tokens import embeddings
from compfast.analysis.weights import distances, norms
from compfast.analysis.writing import Progress, analyse

__all__ = [
    "MEASURES",
    "Codes",
    "Edge",
    "Effort",
    "Flow",
    "Measure",
    "Patch",
    "Progress",
    "States",
    "Weights",
    "analyse",
    "answers",
    "associations",
    "at_transition",
    "attention_to_skip",
    "attention_weights",
    "barriers",
    "by_level",
    "code_similarity",
    "complexity",
    "condensation",
    "connectivity",
    "connectivity_effort",
    "distances",
    "each_member",
    "effects",
    "embeddings",
    "information_flow",
    "latent_codes",
    "lines_between",
    "local_learning_coefficient",
    "local_learning_coefficient_effort",
    "loss_line",
    "loss_line_effort",
    "norms",
    "predict",
    "probe",
    "probe_places",
    "rank_one_energy",
    "ranks",
    "sharpness",
    "sharpness_effort",
    "spectra",
    "states",
    "to_xarray",
    "transitions",
]
