"""Losses under a mask on engine triton, under the interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import quick_interpreter  # noqa: F401
import test_masked_loss
from ensembles import start

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_INTERPRET=1", "ignore::RuntimeWarning")


TIED = {"tied_head": True, "position": "none"}


@pytest.mark.parametrize("model", [{"layers": 1}, pytest.param(TIED, marks=pytest.mark.slow)])
def test_forward_and_every_gradient(model: dict[str, Any]) -> None:
    test_masked_loss.test_forward_and_every_gradient("triton", model, 3)


def test_members_train_as_on_engine_native() -> None:
    specs = test_masked_loss.specs_of(layers=1, d_model=12)
    loss = start("triton", specs).advance(2).loss
    assert loss == pytest.approx(start("native", specs).advance(2).loss, rel=1e-5)
