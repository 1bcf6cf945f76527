"""The bindings refuse a stream of vectors that would lead a draw astray."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compfast import _native
from compfast.tasks.fuzzy import FuzzyConfig, FuzzyTask
from compfast.tasks.hyperteacher import HyperteacherConfig, HyperteacherTask
from compfast.tasks.sraven import SravenConfig, SravenTask

pytestmark = pytest.mark.usefixtures("native_extension")

STREAMS: dict[str, dict[str, Any]] = {
    "fuzzy": FuzzyTask(FuzzyConfig(samples=4)).stream(),
    "sraven": SravenTask(SravenConfig(features=2)).stream(),
    "hyperteacher": HyperteacherTask(HyperteacherConfig(samples=4, dim=3, hidden=5)).stream(),
}
BAD: list[tuple[str, str, Any, str]] = [
    ("fuzzy", "combinations", lambda rows: rows + 5, "a term is 1"),
    ("fuzzy", "combinations", lambda rows: -rows, "a term is -"),
    ("fuzzy", "combinations", lambda rows: rows[:0], "combinations is 0"),
    ("fuzzy", "combinations", lambda rows: rows[:, :0], "terms of a combination is 0"),
    ("fuzzy", "variables", 31, "variables is 31; it must be in 1..30"),
    ("fuzzy", "variables", 2, "a term is"),
    ("fuzzy", "product", 2, "product is 2"),
    ("fuzzy", "seq_len", 0, "seq_len is 0"),
    ("sraven", "rules", lambda rows: rows + 1, "a rule is 8; it must be in 0..7"),
    ("sraven", "rules", lambda rows: rows[:, :1], "permutations has shape"),
    ("sraven", "rules", lambda rows: rows[:0], "sets of rules is 0"),
    ("sraven", "permutations", lambda rows: rows + 1, "a feature of a permutation is 2"),
    ("sraven", "triples", lambda rows: rows + 1, "a symbol of a triple is 8"),
    ("sraven", "triples", lambda rows: rows[:0], "triples is 0"),
    ("sraven", "symbols", 2, "symbols is 2"),
    ("sraven", "symbols", 7, "a symbol of a triple is 7"),
    ("sraven", "permuted", -1, "permuted is -1"),
    ("hyperteacher", "masks", lambda rows: rows + 1, "a mask's entry is 2"),
    ("hyperteacher", "masks", lambda rows: rows[:, :5], "theta has shape"),
    ("hyperteacher", "masks", lambda rows: rows[:0], "masks is 0"),
    ("hyperteacher", "masks", lambda rows: rows * 0, "a mask has no module"),
    ("hyperteacher", "theta", lambda theta: theta[:, :, :0], "dim is 0"),
    ("hyperteacher", "theta", lambda theta: np.zeros((6, 5, 65)), "dim is 65; it must be in 1..64"),
    ("hyperteacher", "theta", lambda theta: np.zeros((6, 65, 3)), "readout has shape"),
    ("hyperteacher", "theta", lambda theta: theta * np.nan, "a module has a number that is not"),
    ("hyperteacher", "readout", lambda readout: readout[:4], "readout has shape"),
    ("hyperteacher", "discrete", 2, "discrete is 2"),
    ("hyperteacher", "tanh", 2, "tanh is 2"),
    ("hyperteacher", "samples", 0, "samples is 0"),
    ("hyperteacher", "extra", 2, "extra is 2"),
]


@pytest.mark.parametrize(("kind", "field", "value", "sentence"), BAD)
def test_a_stream_with_one_thing_wrong(kind: str, field: str, value: Any, sentence: str) -> None:
    stream = dict(STREAMS[kind])
    _native.task_batch(stream, 0, 0, 2)
    stream[field] = value(stream[field]) if callable(value) else value
    with pytest.raises(ValueError, match=sentence):
        _native.task_batch(stream, 0, 0, 2)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_batch_that_cannot_be_drawn(kind: str) -> None:
    stream = STREAMS[kind]
    for batch, step in ((0, 0), (1, -1), (1, 2**32), (2**31 - 1, 0)):
        with pytest.raises((ValueError, MemoryError)):
            _native.task_batch(stream, 0, step, batch)
    for field in stream:
        with pytest.raises(KeyError, match=field):
            _native.task_batch({k: v for k, v in stream.items() if k != field}, 0, 0, 1)
