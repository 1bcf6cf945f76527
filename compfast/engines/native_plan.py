"""What the native engine trains by: its plan's records and the size of a microbatch.

The microbatch is a function of the member's shape alone (the activations of a microbatch should fit
a nominal 1 MiB L2).
"""

from __future__ import annotations

from compfast.config import ModelSection
from compfast.engines.flat import FlatLayout
from compfast.engines.layout import PlanRecords
from compfast.engines.lengths import ends_early
from compfast.models.families import model_plan

ACTIVATION_BYTES = 9 * 2**17  # an eighth more, about what rows of odd cache lines add
PARAMETER_BYTES = 2 * 1024 * 1024
MICROBATCHES = (64, 32, 16, 8, 4, 2, 1)  # sequences


class NativePlan(PlanRecords):
    """Those by which members train, of one model, batch size and sequence length."""

    def __init__(
        self, model: ModelSection, positions: int, batch: int, decay: str, precision: str = "fp32"
    ) -> None:
        # bf16 keeps the products that eager rounds: each key and value is one of its own.
        plan = model_plan(model, absorb=precision != "bf16")
        super().__init__(
            model,
            plan,
            FlatLayout(model, plan, decay),
            positions=positions,
            batch=batch,
            precision=precision,
            # Training takes each sequence up to its last target, one behind the other
            # (csrc/batch.h).
            ragged=ends_early(plan, positions),
        )
        for sequences in self._microbatches():
            self.lay_out(sequences)
            if 4 * self.workspace_size <= ACTIVATION_BYTES:
                break
        self.microbatch = min(self.microbatch, batch)

    def _microbatches(self) -> list[int]:
        """What may be tried, in order: from 64 rows on, of vectors from 128, and where the
        parameters of each pass come from far away, as many as 640 rows."""
        t, least = self.positions, 128 if self._width else 64
        if 4 * self.flat.size > PARAMETER_BYTES:
            return [next((n for n in MICROBATCHES if n * t <= 640), 1)]
        return [n for n in MICROBATCHES if n <= 16 and n * t >= least] or [16]
