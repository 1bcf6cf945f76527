"""Configuration as data: frozen dataclasses, one comment a field, validated on construction."""

from compfast.config.ensemble import (
    SEEDS,
    Axis,
    Config,
    MemberSpec,
    axis,
    column,
    sweep_pairs,
)
from compfast.config.model import ModelConfig
from compfast.config.ports import Ports
from compfast.config.prompts import Prompts
from compfast.config.section import MAX_SEED, ModelSection, Section, TaskSection, hints, names
from compfast.config.sections import (
    DEFAULT_FAMILY,
    DEFAULT_TASK,
    GAMMA_GROUPS,
    PICKED,
    SECTIONS,
    WEIGHT_DECAYS,
    EvaluationConfig,
    InitConfig,
    Kinds,
    OptimizerConfig,
    RunConfig,
    StartConfig,
    TrainingConfig,
    field_hint,
    sections,
)

__all__ = [
    "DEFAULT_FAMILY",
    "DEFAULT_TASK",
    "GAMMA_GROUPS",
    "MAX_SEED",
    "PICKED",
    "SECTIONS",
    "SEEDS",
    "WEIGHT_DECAYS",
    "Axis",
    "Config",
    "EvaluationConfig",
    "InitConfig",
    "Kinds",
    "MemberSpec",
    "ModelConfig",
    "ModelSection",
    "OptimizerConfig",
    "Ports",
    "Prompts",
    "RunConfig",
    "Section",
    "StartConfig",
    "TaskSection",
    "TrainingConfig",
    "axis",
    "column",
    "field_hint",
    "hints",
    "names",
    "sections",
    "sweep_pairs",
]
