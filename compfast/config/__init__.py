"""Configuration as data: frozen dataclasses, one comment a field, validated on construction."""

from compfast.config.ensemble import Axis, Config, MemberSpec, axis, resolve, sweep_pairs
from compfast.config.sections import (
    GAMMA_GROUPS,
    MAX_SEED,
    SECTIONS,
    EvaluationConfig,
    InitConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TaskConfig,
    TrainingConfig,
    field_hint,
    hints,
    names,
)

__all__ = [
    "GAMMA_GROUPS",
    "MAX_SEED",
    "SECTIONS",
    "Axis",
    "Config",
    "EvaluationConfig",
    "InitConfig",
    "MemberSpec",
    "ModelConfig",
    "OptimizerConfig",
    "RunConfig",
    "TaskConfig",
    "TrainingConfig",
    "axis",
    "field_hint",
    "hints",
    "names",
    "resolve",
    "sweep_pairs",
]
