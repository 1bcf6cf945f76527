"""Doors to other tools: what a run holds, in the forms that they take.

Reads runs, never trains. docs/doors.md shows how. A door whose package is missing says which.
"""

from __future__ import annotations

from compfast.export.folders import folder
from compfast.export.graphs import onnx
from compfast.export.hub import hub
from compfast.export.lens import transformer_lens
from compfast.export.pretrained import from_pretrained
from compfast.export.stacked import StackedModule, stacked_modules
from compfast.export.trackers import tensorboard, trackio, wandb

__all__ = [
    "StackedModule",
    "folder",
    "from_pretrained",
    "hub",
    "onnx",
    "stacked_modules",
    "tensorboard",
    "trackio",
    "transformer_lens",
    "wandb",
]
