"""Weight decays as engines hold them: a row a member, a column a group of tensors.

The columns are those of GAMMA_GROUPS, one of the tensors in none (biases, norms), and zeros for
what never decays (csrc/plan.h counts them: DECAYS).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compfast.config import GAMMA_GROUPS, MemberSpec
from compfast.models.params import Tensor

_GROUPS = (*GAMMA_GROUPS, "")  # a tensor's `group`
NEVER = len(_GROUPS)
DECAYS = NEVER + 1


def decay_column(tensor: Tensor, decay: str) -> int:
    """Which column a tensor decays by; `decay` is optimizer.decay."""
    return _GROUPS.index(tensor.group) if tensor.decays(decay) else NEVER


def weight_decays(specs: Sequence[MemberSpec]) -> NDArray[np.float64]:
    """Every member's weight decays, [M, DECAYS], to be multiplied by the table of their windows."""
    return np.array(
        [[*(s.optimizer.weight_decay_of(group) for group in _GROUPS), 0.0] for s in specs]
    )
