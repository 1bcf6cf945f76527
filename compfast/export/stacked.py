"""Whole ensembles in one call: modules whose parameters are [M, ...], ready for torch.func.

    for stack in stacked_modules(run.filter(verdict="symmetric")):
        outputs = stack(tokens)                        # [M, B, T, V]
        stack.call(one_member_s_parameters, tokens)    # what torch.vmap and torch.func.grad take

A batched pass rounds otherwise than a member's own (compfast.analysis takes those): use it for
speed and for derivatives, not for a bit-for-bit comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compfast.errors import UsageError
from compfast.models.families import family_of
from compfast.runs.reading import Run

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class StackedModule:
    """Members of one shape: one module without weights of its own, and all of theirs."""

    members: tuple[int, ...]  # their numbers in the run
    params: dict[str, Tensor]  # name -> [M, *shape], float32 on the CPU; leaves of autograd
    module: Any  # the family's plain module, whose structure all share; its tensors are on "meta"

    def call(self, params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """One member's outputs [B, T, V] with parameters by name, each [*shape]."""
        from torch.func import functional_call

        outputs: Tensor = functional_call(self.module, dict(params), (inputs,))
        return outputs

    def __call__(self, inputs: Tensor, each: bool = False) -> Tensor:
        """All members' outputs [M, B, T, V] on the same inputs [B, T], or vectors [B, T, width].

        With `each` the inputs have an axis of members in front, one batch a member. Raises
        UsageError where that axis is not as long as there are members.
        """
        import torch

        if each and (inputs.ndim < 1 or len(inputs) != len(self.members)):
            raise UsageError(
                f"inputs are {list(inputs.shape)}; with each=True the first axis is that of the"
                f" {len(self.members)} members"
            )
        outputs: Tensor = torch.vmap(self.call, (0, 0 if each else None))(self.params, inputs)
        return outputs


def stacked_modules(run: Run, step: int | None = None) -> list[StackedModule]:
    """The members of a run, or of a view of one, stacked by shape.

    `step`: a snapshot's weights; None: the newest. Raises UsageError for a step that is not there.
    """
    import torch

    found = []
    for stack, specs in zip(run.stack(step=step), run.groups, strict=True):
        first = {name: array[0] for name, array in stack.arrays.items()}
        model = specs[0].model
        with torch.inference_mode(False):
            module: Any = family_of(model).holding(model, first)
            params = {n: torch.from_numpy(a).requires_grad_() for n, a in stack.arrays.items()}
        found.append(StackedModule(stack.members, params, module.eval().to("meta")))
    return found
