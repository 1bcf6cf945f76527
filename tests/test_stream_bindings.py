"""The bindings refuse a stream that would lead a kernel astray, and steps that no buffer holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from changed_calls import attempt, changed, stream_of

from compfast import _native

pytestmark = pytest.mark.usefixtures("native_extension")

BAD_STREAMS: list[tuple[str, str, Any, str]] = [
    ("fixed", "kind", "markov", "kind is 'markov'; a stream is anchor, table, chain, chain"),
    ("fixed", "kind", None, "kind is a NoneType"),
    ("fixed", "kind", "table", "tokens"),
    ("table", "shuffled", 2, "shuffled is 2; it must be in 0..1"),
    ("table", "tokens", lambda tokens: tokens[:, :4], "seq_len is 4; it must be in 5..5"),
    ("table", "tokens", lambda tokens: tokens[:0], r"targets has shape \[7\]; \[0\] is needed"),
    ("table", "tokens", lambda tokens: tokens + 100, "a token of the table is"),
    ("table", "tokens", lambda tokens: tokens * 1.0, "tokens is no array of the right type"),
    ("table", "targets", lambda targets: targets - 100, "a target of the table is -"),
    ("table", "targets", lambda targets: targets[:2], "targets has shape"),
    ("table", "masked", 2, "masked is 2; it must be in 0..1"),
    ("table", "masked", 1, r"targets has shape \[7\]; \[7, 5\] is needed"),
    ("masked", "masked", 0, r"targets has shape \[273, 16\]; \[273\] is needed"),
    ("masked", "targets", lambda targets: targets - 1, "a target of the table is -2"),
    ("masked", "targets", lambda targets: targets + 2, "a target of the table is 16"),
    ("masked", "order", lambda order: order + 1, "a row of the order is 273; it must be in 0..272"),
    ("masked", "order", lambda order: order - 1, "a row of the order is -1"),
    ("masked", "order", lambda order: order[:2], "batch is 3; the table has 2 rows"),
    ("masked", "order", lambda order: order[:, None], "order has shape"),
    ("chain", "states", 1, "states of the chain is 1"),
    ("chain", "states", 4, "next has shape"),
    ("chain", "order", 3, "9 contexts; states.order is needed"),
    ("chain", "order", 6, "order of the chain is 6; it must be in 1..5"),
    ("chain", "next", lambda limits: limits[:, ::-1].copy(), "a threshold of the chain is"),
    ("chain", "next", lambda limits: limits - 2**30, "a threshold of the chain is -"),
    ("chain", "start", lambda limits: limits[:3], "start has shape"),
    ("chain_search", "steps", lambda steps: steps + 1, "a step is 5; it must be in 0..4"),
    ("chain_search", "steps", lambda steps: steps[:0], "steps is 0; it must be in 1..5"),
    ("chain_search", "chains", 0, "chains is 0; it must be in 1..256"),
    ("chain_search", "chains", 2, "seq_len is 9; it must be in 5..5"),
    ("chain_search", "chains", 6, "nodes of a sequence is 18; it must be in 2..16"),
    ("chain_search", "links", 2**31 - 1, "links is 2147483647; it must be in 1..256"),
    ("chain_search", "order", 2, "order is 2; it must be in 1..1"),
    ("chain_search", "named", 2, "named is 2; it must be in 0..1"),
    ("chain_search", "to_end", -1, "to_end is -1; it must be in 0..1"),
    ("chain_search", "wrong_links", 2, "wrong_links is 2; it must be in 0..1"),
    ("chain_search", "modulus", 65, "modulus is 65; it must be in 2..64"),
    ("chain_search", "modulus", 4, "a step is 4; it must be in 0..3"),
    ("chain_search", "modulus", 30, "nodes of a sequence is 3; it must be in 2..2"),
    ("chain_search", "item_count", 4097, "item_count is 4097; it must be in 5..4096"),
    ("chain_search", "item_low", 40, "item_low is 40; it must be in 0..32"),
    ("host", "inputs", lambda tokens: tokens[:, :, :2], "targets has shape"),
    ("host", "inputs", lambda tokens: tokens + 100, "a token of the buffer is"),
    ("host", "targets", lambda targets: targets - 100, "a target of the buffer is -"),
    ("host", "slots", lambda slots: slots * 2, "a slot is 2; it must be in 0..1"),
    ("host", "slots", lambda slots: -slots, "a slot is -1"),
    ("host", "slots", lambda slots: slots[:1], "members of the buffer is 1; it must be in 2..2"),
    ("host", "first", -1, "first is -1"),
    ("host", "first", 2**63, "first is a int that is not a value of its type"),
]


@pytest.mark.parametrize(("data", "field", "value", "sentence"), BAD_STREAMS)
@pytest.mark.parametrize("method", ["group", "feed"])
def test_a_stream_with_one_thing_wrong(
    method: str, data: str, field: str, value: Any, sentence: str
) -> None:
    call = changed(f"{method}.stream.{field}", value, "one_layer", data)
    with pytest.raises((ValueError, TypeError, KeyError), match=sentence):
        attempt(call, method if method == "feed" else None)


@pytest.mark.parametrize("method", ["advance", "profile"])
def test_steps_that_a_buffer_does_not_hold(method: str) -> None:
    """Nothing is trained, not even the steps that are there."""
    for field, value, held in (
        ("first", 1, "1 to 4"),
        ("inputs", lambda tokens: tokens[:, :1], "0 to 1"),
        ("inputs", lambda tokens: tokens[:, :0], "0 to 0"),
    ):
        call = changed(f"group.stream.{field}", value, "one_layer", "host")
        stream = call["group"]["stream"]
        stream["targets"] = stream["targets"][:, : stream["inputs"].shape[1]]
        call["profile"]["steps"] = 2
        with pytest.raises(ValueError, match=f"are asked for; the buffer holds {held}"):
            attempt(call, method)
        assert not call["group"]["arrays"]["step"].any()


def test_a_fed_buffer_is_drawn_from() -> None:
    call = changed("feed.stream.first", 2, "one_layer", "host")
    arrays = call["group"]["arrays"]
    made = _native.Group(*call["group"].values())
    made.advance(**call["advance"])
    loss, norm = np.zeros((2, 2, 1), np.float32)
    made.feed(call["group"]["stream"] | {"first": 3})
    with pytest.raises(ValueError, match="steps 2 to 3 of member 0"):
        made.advance(3, 2, loss, norm, None)
    made.feed(**call["feed"])
    made.advance(3, 2, loss, norm, None)
    assert arrays["step"].tolist() == [3, 3]


def test_a_batch_that_cannot_be_drawn() -> None:
    stream = stream_of("one_layer_post", "fixed")
    _native.task_batch(stream, 0, 0, 15)
    with pytest.raises(ValueError, match="batch is 16; the drawn set has 15 sequences"):
        _native.task_batch(stream, 0, 0, 16)
    for batch, step in ((0, 0), (1, -1), (1, 2**32), (2**31 - 1, 0)):
        with pytest.raises((ValueError, MemoryError)):
            _native.task_batch(stream, 0, step, batch)
    with pytest.raises(KeyError, match="words"):
        _native.task_batch({k: v for k, v in stream.items() if k != "words"}, 0, 0, 1)
    with pytest.raises(KeyError, match="kind"):
        _native.task_batch({k: v for k, v in stream.items() if k != "kind"}, 0, 0, 1)
    stream = stream_of("one_layer", "table")
    with pytest.raises(ValueError, match="batch is 8; the table has 7 rows"):
        _native.task_batch(stream, 0, 0, 8)
    stream = stream_of("one_layer", "host")
    tokens, targets = _native.task_batch(stream, 0, 2, 3, member=0)
    assert np.array_equal(tokens, stream["inputs"][1, 2])
    assert np.array_equal(targets, stream["targets"][1, 2, :, 0])
    for size, member, sentence in ((2, 0, "batch of the buffer is 3"), (3, 2, "member is 2")):
        with pytest.raises(ValueError, match=sentence):
            _native.task_batch(stream, 0, 2, size, member=member)
