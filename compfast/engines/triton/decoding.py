"""Greedy decoding on the device: a pass over all positions for each token that is told.

Nothing is kept between passes. Members go as many at a time as memory holds, and sequences in
parts of one size, which fills up with sequences of nobody.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from compfast.config import MemberSpec, Prompts
from compfast.engines.base import Int32
from compfast.engines.flat import FlatLayout
from compfast.engines.greedy import greedy
from compfast.engines.triton.program import Program
from compfast.engines.triton.refusals import check_plan
from compfast.models.families import model_plan
from compfast.models.unpruned import every_position

SEQUENCES = 64  # of a pass
MEMBERS = 16  # of a pass, at most


def generate(spec: MemberSpec, flat: FlatLayout, params: torch.Tensor, prompts: Prompts) -> Int32:
    """Told [C, N, max_new] by members of one shape with `params` [C, P], of checked prompts.

    Raises UsageError for what the kernels do not have at this length.
    """
    length = int(prompts.lengths.max(initial=1)) + prompts.max_new - 1
    plan = every_position(model_plan(spec.model, absorb=False))
    check_plan(plan, length)
    told = np.empty((len(params), len(prompts.tokens), prompts.max_new), np.int32)
    start, count = 0, MEMBERS
    while start < len(params):
        part = params[start : start + count]
        try:
            passes = _Passes(spec, flat, part, length, len(prompts.tokens))
            told[start : start + count] = greedy(prompts, len(part), passes.likeliest)
        except torch.OutOfMemoryError:
            if count == 1:
                raise
            count //= 2
        else:
            start += count
    return told


class _Passes:
    """A program over `length` positions for some members."""

    def __init__(
        self, spec: MemberSpec, flat: FlatLayout, params: torch.Tensor, length: int, count: int
    ) -> None:
        live = torch.ones(len(params), dtype=torch.int32, device=params.device)
        self._program = Program(
            every_position(model_plan(spec.model, absorb=False)),
            flat,
            params,
            live,
            batch=max(1, min(count, SEQUENCES)),
            length=length,
            precision=spec.training.precision,
        )
        self._program.drop_nothing()

    def likeliest(self, tokens: Int32) -> NDArray[np.integer]:
        return np.concatenate(list(self._parts(tokens)), 1)

    def _parts(self, tokens: Int32) -> Iterator[NDArray[np.integer]]:
        program, (members, count, at) = self._program, tokens.shape
        given = torch.from_numpy(tokens).to(program.tokens.device)
        for start in range(0, count, program.batch):
            part = given[:, start : start + program.batch]
            program.tokens.zero_()
            program.tokens[:, : part.shape[1], :at] = part
            for launch in program.forward:
                launch.run()
            found = program.logits
            rows = found.tensor.view(members, program.batch, found.each, found.ld)
            logits = rows[:, : part.shape[1], at - 1, : found.width]
            if found.width == 1:  # a single logit, that of token 1 against 0
                logits = torch.cat([torch.zeros_like(logits), logits], -1)
            yield first_largest(logits).cpu().numpy()


def first_largest(values: torch.Tensor) -> torch.Tensor:
    """The smallest index of the largest value (or of a NaN) along the last axis."""
    largest = (values == values.amax(-1, keepdim=True)) | values.isnan()
    index = torch.arange(values.shape[-1], device=values.device)
    return torch.where(largest, index, values.shape[-1]).amin(-1)
