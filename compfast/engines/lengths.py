"""How much of a sequence training has to compute: up to its last target.

In a causal network nothing after it matters to the loss or to any gradient. Engine native takes
each sequence at its own length, engine eager cuts a batch at its longest one's, others compute
all positions. The rule reads a network's plan and a batch's targets, nothing else, so that a
member's bits depend on nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compfast.models.plan import Plan

WHOLE = 16  # positions that attention takes whole (csrc/attention_sizes.h): nothing to gain there


def ends_early(plan: Plan, positions: int) -> bool:
    """Whether sequences of so many positions may end at their last target.

    True of losses under a mask behind causal attention (or none), where there are more than 16
    positions; any other network computes all of them.
    """
    masked = bool(plan.ops[-1].attributes.get("masked"))
    attentions = [op for op in plan.ops if op.kind in ("attention", "mixed_attention")]
    return masked and positions > WHOLE and all(op.attributes["causal"] for op in attentions)


def cuts_batches(plan: Plan, positions: int) -> bool:
    """Whether engine eager cuts a batch of such sequences; it does not where attention weights are
    dropped, by a mask of all positions."""
    return ends_early(plan, positions) and not any(op.attributes.get("dropout") for op in plan.ops)


def asked_lengths(targets: NDArray[Any]) -> NDArray[np.int64]:
    """[B] of targets [B, T]: the positions up to the last target, 0 where nothing is asked."""
    asked = targets >= 0
    backwards = asked[:, ::-1].argmax(1)
    lengths: NDArray[np.int64] = np.where(asked.any(1), targets.shape[1] - backwards, 0)
    return lengths


@dataclass(frozen=True, slots=True)
class Padding:
    """Positions of some batches that are of use, and those that each way computes."""

    used: int  # up to each sequence's last target: what native computes
    cut: int  # up to the last target of each batch: what eager computes
    whole: int  # all

    def waste(self, computed: int) -> float:
        """The share of so many computed positions that has no use."""
        return 1.0 - self.used / computed if computed else 0.0


def padding(batches: Iterable[NDArray[Any]]) -> Padding:
    """Of batches' targets [B, T]."""
    used = cut = whole = 0
    for targets in batches:
        lengths = asked_lengths(targets)
        used += int(lengths.sum())
        cut += len(targets) * int(lengths.max(initial=0))
        whole += targets.size
    return Padding(used, cut, whole)
