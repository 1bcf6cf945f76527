"""Configuration as data: frozen dataclasses, one comment a field, validated on construction."""

from compfast.config.ensemble import (
    SEEDS,
    Axis,
    Config,
    MemberSpec,
    axis,
    column,
    resolve,
    sweep_pairs,
)
from compfast.config.section import MAX_SEED, Section, TaskSection, hints, names
from compfast.config.sections import (
    DEFAULT_TASK,
    GAMMA_GROUPS,
    SECTIONS,
    EvaluationConfig,
    InitConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
    field_hint,
    sections,
)

__all__ = [
    "DEFAULT_TASK",
    "GAMMA_GROUPS",
    "MAX_SEED",
    "SECTIONS",
    "SEEDS",
    "Axis",
    "Config",
    "EvaluationConfig",
    "InitConfig",
    "MemberSpec",
    "ModelConfig",
    "OptimizerConfig",
    "RunConfig",
    "Section",
    "TaskSection",
    "TrainingConfig",
    "axis",
    "column",
    "field_hint",
    "hints",
    "names",
    "resolve",
    "sections",
    "sweep_pairs",
]
