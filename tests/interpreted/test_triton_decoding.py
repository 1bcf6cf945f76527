"""Greedy decoding by passes on the device, interpreted: every token is the best in float64."""

from __future__ import annotations

import pytest
import quick_interpreter  # noqa: F401
from ensembles import group
from test_masked_loss import specs_of
from triton_networks import check_greedy

from compfast.config import MemberSpec

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_INTERPRET=1", "ignore::RuntimeWarning")

LAST = "one_layer"  # whose plan has the last position alone


@pytest.mark.parametrize("name", [LAST, pytest.param("relative", marks=pytest.mark.slow)])
def test_every_token_is_the_best_in_float64(name: str) -> None:
    specs: list[MemberSpec] = (
        group(name) if name == LAST else specs_of(position="relative", attention="linear")
    )
    check_greedy(specs[:2])
