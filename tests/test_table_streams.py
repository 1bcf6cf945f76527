"""Rows drawn from a table: NumPy's reference, C++ and the trained bits agree."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from ensembles import group, same_bits, start
from host_tasks import HostTask, TableTask

from compfast import _native
from compfast.errors import UsageError
from compfast.tasks.table import TableDraws

pytestmark = pytest.mark.usefixtures("native_extension")

SEEDS = (0, 12345, 2**32, 2**53 - 1)


def table(rows: int, shuffled: bool, length: int = 3) -> TableDraws:
    """Rows whose tokens tell them apart."""
    tokens = np.arange(rows * length).reshape(rows, length)
    return TableDraws(tokens, tokens[:, 0] // length % 97, shuffled)


@pytest.mark.parametrize("length", [1, 3, 8])
@pytest.mark.parametrize("rows", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("shuffled", [False, True])
def test_batches_are_those_of_cpp(rows: int, shuffled: bool, length: int) -> None:
    draws = table(rows, shuffled, length)
    for size in (1, rows) if shuffled else (1, 5, 300):
        last = draws.steps_per_epoch(min(size, rows)) - 1
        for seed in SEEDS:
            for step in (0, last, last + 1, 3 * last + 2, 2**32 - 1):
                tokens, targets = _native.task_batch(draws.stream(), seed, step, size)
                want = draws.batch(seed, step, size)
                assert tokens.dtype == targets.dtype == np.int32
                assert np.array_equal(tokens, want[0])
                assert np.array_equal(targets, want[1])


def masked_table(rows: int, shuffled: bool, length: int, order: Any = None) -> TableDraws:
    tokens = np.arange(rows * length).reshape(rows, length)
    targets = np.where(tokens % 3 == 0, -1, tokens % 89)
    return TableDraws(tokens, targets, shuffled, order)


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("order", [None, [0], [2, 2, 2, 0, 1, 6, 6, 3, 5, 5, 5]])
@pytest.mark.parametrize("shuffled", [False, True])
def test_masks_and_orders_are_those_of_cpp(
    shuffled: bool, order: list[int] | None, length: int
) -> None:
    entries = None if order is None else np.array(order)
    masked = masked_table(7, shuffled, length, entries)
    plain = TableDraws(masked.tokens, masked.tokens[:, 0], shuffled, entries)
    draws = 7 if order is None else len(order)
    for made in (masked, plain):
        assert made.rows == draws
        for size in (1, draws) if shuffled else (1, 40):
            for seed, step in itertools.product(SEEDS, (0, 1, draws, 2**32 - 1)):
                found = _native.task_batch(made.stream(), seed, step, size)
                for own, wanted in zip(found, made.batch(seed, step, size), strict=True):
                    assert own.dtype == wanted.dtype == np.int32
                    assert np.array_equal(own, wanted)


def test_an_order_is_drawn_in_the_place_of_rows() -> None:
    """Entry i of the order where a table without one has row i: bits of the others stay."""
    order = np.array([3, 3, 0, 2, 1, 3])
    for shuffled in (False, True):
        entries = TableDraws(np.arange(6)[:, None], np.arange(6), shuffled)
        ordered = TableDraws(np.arange(4)[:, None], np.arange(4), shuffled, order)
        for step in range(5):
            assert np.array_equal(ordered.batch(3, step, 6)[1], order[entries.batch(3, step, 6)[1]])
        epoch = TableDraws(np.arange(4)[:, None], np.arange(4), True, order).batch(9, 4, 6)[1]
        assert sorted(epoch.tolist()) == [0, 1, 2, 3, 3, 3]


def test_a_buffer_s_masked_targets_have_room() -> None:
    """Drawn alone, for a test, they are [B, T] as those of a table."""
    tokens = np.arange(24, dtype=np.int32).reshape(1, 1, 4, 6)
    record = {"kind": "host", "inputs": tokens, "targets": tokens - 1, "width": 0, "numbers": 0}
    record |= {"slots": np.zeros(1, np.int32), "first": 0}
    found = _native.task_batch({**record, "masked": 1}, 0, 0, 4)
    assert np.array_equal(found[1], tokens[0, 0] - 1)
    with pytest.raises(ValueError, match=r"targets of a sequence is 6; it must be in 1\.\.1"):
        _native.task_batch({**record, "masked": 0, "targets": tokens}, 0, 0, 4)


def test_rows_taken_at_random() -> None:
    """Row (word 0 * N) >> 32 of a block of its own, whatever the batch."""
    draws = table(37, shuffled=False)
    tokens, _ = draws.batch(8, 5, 6)
    rows = [_native.philox((b, 5, 1, 0), 8)[0].item() * 37 >> 32 for b in range(6)]
    assert (tokens[:, 0] // 3).tolist() == rows
    assert len(np.unique(draws.batch(8, 5, 2000)[0][:, 0])) == 37
    assert np.array_equal(draws.batch(8, 5, 2000)[0][:6], tokens)


@pytest.mark.parametrize(
    ("shuffled", "seed", "step", "rows"),
    [
        (False, 3, 17, [16, 10, 11, 14, 19, 2]),
        (False, 2**40 + 3, 2, [4, 13, 20, 17, 17, 14]),
        (True, 3, 17, [17, 1, 9, 0, 2, 20]),
        (True, 2**40 + 3, 2, [8, 16, 10, 0, 6, 3]),
    ],
)
def test_the_rows_stay_what_they_are(shuffled: bool, seed: int, step: int, rows: list[int]) -> None:
    """Drawn when tables came; runs that are stored go on with them."""
    draws = table(21, shuffled, length=1)
    assert draws.batch(seed, step, 6)[0][:, 0].tolist() == rows
    assert _native.task_batch(draws.stream(), seed, step, 6)[0][:, 0].tolist() == rows


@pytest.mark.parametrize(("rows", "size"), [(12, 4), (13, 4), (5, 5), (1, 1)])
def test_an_epoch_visits_no_row_twice(rows: int, size: int) -> None:
    draws = table(rows, shuffled=True)
    steps = draws.steps_per_epoch(size)
    orders = []
    for epoch in range(3):
        tokens = [draws.batch(3, epoch * steps + i, size)[0] for i in range(steps)]
        visited = np.concatenate(tokens)[:, 0] // 3
        assert len(visited) == len(set(visited)) == rows // size * size
        orders.append(visited.tolist())
    assert rows < 5 or orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize(
    ("tokens", "targets", "sentence"),
    [
        (np.ones((3, 2), int), np.ones(2, int), r"targets of shape \(2,\)"),
        (np.ones(3, int), np.ones(3, int), r"tokens of shape \(3,\)"),
        (np.ones((0, 2), int), np.ones(0, int), "N and T of at least 1"),
        (np.ones((3, 2)), np.ones(3, int), "tokens of a table are float64"),
        (np.ones((3, 2), int), np.ones(3, bool), "targets of a table are bool"),
        (-np.ones((3, 2), int), np.ones(3, int), "tokens of a table reach from -1"),
        (np.ones((3, 2), int), np.full(3, 2**31), "targets of a table reach from 2147483648"),
        (np.ones((3, 2), int), np.ones((3, 1), int), r"targets of shape \(3, 1\)"),
        (np.ones((3, 2), int), np.full((3, 2), -2), "reach from -2 to -2; they must be in -1"),
    ],
)
def test_what_is_no_table(tokens: Any, targets: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        TableDraws(tokens, targets, shuffled=False)


@pytest.mark.parametrize(
    ("order", "sentence"),
    [
        (np.zeros((2, 2), int), r"the order of a table has shape \(2, 2\)"),
        (np.zeros(0, int), r"the order of a table has shape \(0,\)"),
        (np.array([0, 3]), "the order of a table has row 3; the table has 3 rows"),
        (np.array([-1]), "the order of a table reach from -1"),
        (np.zeros(2), "the order of a table are float64"),
    ],
)
def test_what_is_no_order(order: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        TableDraws(np.ones((3, 2), int), np.ones(3, int), False, order)


def test_a_batch_larger_than_a_shuffled_table() -> None:
    sentence = "training.batch_size is 8; the table has 7 rows and must hold at least one batch"
    with pytest.raises(UsageError, match=sentence):
        table(7, shuffled=True).check_batch(8)
    with pytest.raises(UsageError, match=sentence):
        table(7, shuffled=True).batch(0, 0, 8)
    table(7, shuffled=False).check_batch(8)
    with pytest.raises(UsageError, match="batch_size is 0"):
        table(7, shuffled=False).check_batch(0)


def test_a_table_is_a_copy_that_nobody_changes() -> None:
    tokens = np.arange(6).reshape(2, 3)
    draws = TableDraws(tokens, tokens[:, 0], shuffled=False)
    tokens[:] = 9
    assert draws.tokens.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="read-only"):
        draws.tokens[0, 0] = 1


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_members_train_on_the_batches_of_the_reference(
    shuffled: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C++ draws by itself, or is handed what NumPy drew: the same bits."""
    specs = group("one_layer", steps=9)
    rng = np.random.default_rng(0)
    vocabulary = specs[0].model.vocab_size
    draws = TableDraws(rng.integers(0, vocabulary, (40, 5)), rng.integers(0, 50, 40), shuffled)
    ends = []
    for task in (TableTask(draws), HostTask(draws)):
        monkeypatch.setattr("compfast.engines.native.make_task", lambda _, task=task: task)
        engine = start("native", specs, threads)
        result = engine.advance(9)
        assert np.isfinite(result.loss).all()
        ends.append((engine.state(), result.loss.tobytes(), result.grad_norm.tobytes()))
    same_bits(ends[0][0], ends[1][0], range(3), range(3))
    assert ends[0][1:] == ends[1][1:]


def test_a_table_of_unknown_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for tokens, targets, sentence in (
        (np.full((2, 5), 112), np.zeros(2, int), "a token of the table is 112"),
        (np.zeros((2, 5), int), np.full(2, 112), "a target of the table is 112"),
    ):
        task = TableTask(TableDraws(tokens, targets, shuffled=False))
        monkeypatch.setattr("compfast.engines.native.make_task", lambda _, task=task: task)
        with pytest.raises(UsageError, match=sentence):
            start("native", group("one_layer"))
