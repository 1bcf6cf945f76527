"""Greedy decoding by passes on the device, interpreted: every token is the best in float64."""

from __future__ import annotations

import numpy as np
import pytest
import quick_interpreter  # noqa: F401
from ensembles import group, member, random_state, start
from greedy_oracle import check_told
from test_masked_loss import specs_of

from compfast.config import MemberSpec, Prompts

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_INTERPRET=1", "ignore::RuntimeWarning")

LAST = "one_layer"  # whose plan has the last position alone


@pytest.mark.parametrize("name", [LAST, pytest.param("relative", marks=pytest.mark.slow)])
def test_every_token_is_the_best_in_float64(name: str) -> None:
    specs: list[MemberSpec] = (
        group(name) if name == LAST else specs_of(position="relative", attention="linear")
    )
    specs = specs[:2]
    made, state = start("triton", specs), random_state(specs)
    made.load(state)
    tokens = np.array([[3, 1, -1], [2, 0, 1], [5, -1, -1]])
    prompts = Prompts(tokens, np.array([2, 3, 1]), 3)
    told = made.generate(prompts, [1, 0])
    for own, row in zip(told, (1, 0), strict=True):
        check_told(specs[0].model, member(state.params, row), prompts, own)
