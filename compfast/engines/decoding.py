"""What the native engine decodes by: its members' plan with one position a sequence."""

from __future__ import annotations

from typing import Any

from compfast.config import ModelSection, Prompts
from compfast.engines.base import Int32, Int64
from compfast.engines.flat import FlatLayout
from compfast.engines.layout import PlanRecords
from compfast.models.families import model_plan
from compfast.models.params import parameter_table
from compfast.models.relative import distance_buckets
from compfast.models.unpruned import apart, every_position

ROWS = 64  # sequences under way at most


class DecodingPlan(PlanRecords):
    """The records of csrc/decode.h: a row is one token of one sequence.

    Its tensors lie where `flat` has them, whatever the plan that members train by.
    """

    def __init__(self, model: ModelSection, flat: FlatLayout, precision: str) -> None:
        widths = {t.name: t.shape[0] for t in parameter_table(model) if t.matrix}
        plan = apart(every_position(model_plan(model, absorb=False)), widths)
        super().__init__(model, plan, flat, positions=1, batch=ROWS, precision=precision)
        self.lay_out(ROWS)

    def record(self) -> dict[str, Any]:
        return {**super().record(), "masked": 0, "loss_all": 0}

    def buckets(self, length: int) -> Int32 | None:
        """Of the keys 0 .. length - 1 seen from the last position; None without such a bias."""
        found = {op.attributes["buckets"] for op in self.plan.ops if op.attributes.get("relative")}
        return distance_buckets(length, found.pop())[:length].copy() if found else None


class Decoder:
    """Greedy decoding by a `_native.Group` of such members."""

    def __init__(self, model: ModelSection, flat: FlatLayout, precision: str) -> None:
        self._plan = DecodingPlan(model, flat, precision)
        self._record = self._plan.record()

    def generate(self, group: Any, members: Int64, prompts: Prompts) -> Int32:
        """[len(members), N, max_new] of checked prompts."""
        length = int(prompts.lengths.max(initial=1)) + prompts.max_new - 1
        told: Int32 = group.generate(
            self._record,
            members,
            prompts.tokens,
            prompts.lengths,
            prompts.max_new,
            prompts.end,
            self._plan.buckets(length),
        )
        return told
