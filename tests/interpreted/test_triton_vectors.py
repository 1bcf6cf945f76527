"""Networks of vectors under the interpreter: attention of every kind, value paths, dropout, more
than one position asked. What tests/test_vector_networks.py asks of the other engines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import quick_interpreter  # noqa: F401
import test_vector_networks as networks
import torch
from architectures import VECTORS
from ensembles import random_state, same_bits, start

from compfast.config import MemberSpec
from compfast.models.dropout import keep_mask

pytestmark = pytest.mark.filterwarnings(
    "ignore:TRITON_INTERPRET=1",
    "ignore::RuntimeWarning",  # NumPy's, where NaN is computed with
)

QUICK = ("softmax_none", "linear_linear", "rms_head_deep", "rows_rms_relu", "no_attention")


def cases(every: Sequence[Any], quick: Sequence[Any]) -> list[Any]:
    """All of them, slow but for the quick ones."""
    return [c if c in quick else pytest.param(c, marks=pytest.mark.slow) for c in every]


@pytest.mark.parametrize("name", cases(list(VECTORS), QUICK))
def test_forward_and_every_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = networks.specs_of(name)[:2]
    monkeypatch.setattr(networks, "specs_of", lambda name: specs)
    networks._reference.cache_clear()
    networks.test_forward_and_every_gradient("triton", name, 3)
    networks._reference.cache_clear()
