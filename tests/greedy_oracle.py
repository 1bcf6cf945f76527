"""What members say after a prompt, held against float64: each token told must be the best there,
or lie below it by no more than rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compfast.config import ModelSection, Prompts
from compfast.models.families import family_of

Array = NDArray[Any]
BUDGET = 2e-4  # of the largest logit: of float32 sums over a few layers


def check_told(
    model: ModelSection,
    params: Mapping[str, Array],
    prompts: Prompts,
    told: Array,
    budget: float = BUDGET,
) -> int:
    """Fail unless `told` [N, max_new] is what greedy decoding may give; how many tokens it has."""
    module: Any = family_of(model).holding(model, dict(params))
    module = module.double()
    count = 0
    for tokens, length, own in zip(prompts.tokens, prompts.lengths, told, strict=True):
        ends = np.flatnonzero((own == prompts.end) & (own >= 0))
        size = int(ends[0]) + 1 if ends.size else prompts.max_new
        assert (own[size:] == -1).all(), f"told past its end: {own}"
        whole = np.concatenate([tokens[:length], own[:size]]).astype(np.int64)
        with torch.no_grad():
            logits = module(torch.from_numpy(whole[None, :-1]))[0, length - 1 :].numpy()
        chosen = logits[np.arange(size), own[:size]]
        lacking = logits.max(-1) - chosen
        allowed = budget * np.abs(logits).max(-1)
        assert (lacking <= allowed).all(), f"{own} lacks {lacking}, more than {allowed}"
        count += size
    return count
