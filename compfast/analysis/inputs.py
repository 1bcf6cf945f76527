"""What members' networks read, as measures of attention give it to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compfast.config import MemberSpec, ModelConfig
from compfast.errors import UsageError
from compfast.runs.reading import Run
from compfast.tasks import make_task

if TYPE_CHECKING:
    from torch import Tensor

_ROOM = 2**24  # numbers that one pass of a network may hold: 64 MB
_COPIES = 4  # of weights and of activations, at most, that a layer holds at once


def attending_groups(run: Run) -> list[list[MemberSpec]]:
    """The run's groups whose members have attention; UsageError where none has."""
    groups: list[list[MemberSpec]] = [specs for specs in run.groups if attends(specs[0])]
    if not groups:
        model = run.groups[0][0].model
        why = "model.attention is none" if isinstance(model, ModelConfig) else ""
        raise UsageError(
            f"{why or f'model.family is {model.family}'}; there is no attention in {run.path}"
        )
    return groups


def attends(spec: MemberSpec) -> bool:
    """Whether a member has attention."""
    return isinstance(spec.model, ModelConfig) and spec.model.attention != "none"


def as_tensor(inputs: NDArray[Any]) -> Tensor:
    """Vectors as they are, token ids as PyTorch indexes with them."""
    import torch

    numbers = inputs.dtype.kind == "f"
    return torch.from_numpy(np.ascontiguousarray(inputs, None if numbers else np.int64))


def checked_inputs(inputs: NDArray[Any], spec: MemberSpec) -> NDArray[Any]:
    """As the member's networks read them: float32 vectors [N, T, width], or token ids [N, T]."""
    given, (width, positions, vocabulary) = np.asarray(inputs), _read(spec)
    fits = given.ndim == (3 if width else 2) and given.size > 0
    fits = fits and (given.shape[2] == width if width else given.dtype.kind in "iu")
    if not fits or given.dtype.kind not in "fiu" or given.shape[1] > positions:
        needed = f"vectors [N, T, {width}]" if width else "token ids [N, T]"
        raise UsageError(
            f"inputs have shape {list(given.shape)} and type {given.dtype}; member {spec.member}"
            f" reads {needed}, T at most {positions}"
        )
    if width:
        return given.astype(np.float32)
    low, high = int(given.min()), int(given.max())
    if low < 0 or high >= vocabulary:
        raise UsageError(
            f"inputs go from {low} to {high}; member {spec.member} knows 0 to {vocabulary - 1}"
            " (model.vocab_size)"
        )
    return given


def at_once(spec: MemberSpec, inputs: NDArray[Any]) -> int:
    """Sequences that a pass takes; a function of the member's shape, never of the machine."""
    model, length = spec.model, int(inputs.shape[1])
    if not isinstance(model, ModelConfig):  # of another family nothing more is known
        return max(1, _ROOM // (_COPIES * length * _read(spec)[2]))
    widest = max(model.d_model, model.d_ff or 0, model.vocab_size or 0)
    values = (model.d_v or 0) if model.value_path != "none" else 0
    most: int = max(1, _ROOM // (_COPIES * length * ((model.heads + values) * length + widest)))
    return most


def _read(spec: MemberSpec) -> tuple[int, int, int]:
    """Numbers a position (0: tokens), positions at most, and token ids (or numbers out)."""
    model, ports = spec.model, make_task(spec.task).ports
    positions = getattr(model, "max_positions", None) or ports.length
    return ports.width, positions, getattr(model, "vocab_size", None) or ports.vocabulary
