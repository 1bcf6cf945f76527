"""The anchor task: splits, batches, the drawn set and the exam."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from compfast.config import EvaluationConfig
from compfast.engines.base import Int32
from compfast.errors import UsageError
from compfast.streams import philox
from compfast.tasks import labels_of
from compfast.tasks.anchor import AnchorConfig, AnchorTask

TASK = AnchorConfig()
BOTH_UNSEEN = AnchorConfig(overridden=(), unseen=((3, 4), (4, 3)))
SHIFT = {1: 5, 2: 1, 3: -2, 4: -8}


def by_hand(
    task: AnchorTask, words: list[int], pair: tuple[int, int, int]
) -> tuple[list[int], int]:
    """One training sequence from its words, one token at a time."""
    config = task.config
    key, position = task.train_combos[(words[1] * len(task.train_combos)) >> 32].tolist()
    items = config.item_high - config.item_low
    tokens = [config.item_low + ((u * items) >> 32) for u in words[2 : 2 + config.seq_len]]
    tokens[position : position + 3] = [key, pair[0], pair[1]]
    return tokens, key + pair[2]


def pairs_of(tokens: Int32) -> list[tuple[int, int, int]]:
    """(key, a1, a2) of each row, found from the tokens alone."""
    position = (tokens < 20).argmax(axis=1)
    assert ((tokens < 20).sum(axis=1) == 2).all()
    rows = np.arange(len(tokens))
    found = [tokens[rows, position + offset] for offset in (-1, 0, 1)]
    return list(zip(*(column.tolist() for column in found), strict=True))


def test_splits_of_the_standard_task() -> None:
    task = AnchorTask(TASK)
    trained = {(a, b): s for a, b, s in task.train_pairs.tolist()}
    assert list(trained) == [(a, b) for a in SHIFT for b in SHIFT if (a, b) != (4, 3)]
    assert trained.pop((3, 4)) == -6
    assert all(s == SHIFT[a] + SHIFT[b] for (a, b), s in trained.items())
    assert task.unseen_pairs.tolist() == [[4, 3, -10]]
    train, test = (set(map(tuple, c.tolist())) for c in (task.train_combos, task.test_combos))
    assert not train & test
    assert train | test == {(k, p) for k in range(20, 100) for p in range(7)}
    assert all(k % 7 == p for k, p in test)
    assert task.train_combos.tolist() == sorted(task.train_combos.tolist())
    assert (task.vocabulary, task.words) == (110, 12)


def test_modulus_of_the_authors_code() -> None:
    task = AnchorTask(dataclasses.replace(TASK, key_modulus=9))
    assert all(k % 9 == p for k, p in task.test_combos.tolist())
    assert len(task.test_combos) + len(task.train_combos) == 560


def test_a_fresh_batch_word_by_word() -> None:
    task = AnchorTask(TASK)
    tokens, targets = task.batch(12, 345, 50)
    assert tokens.shape == (50, 9)
    assert tokens.dtype == targets.dtype == np.int32
    words = philox.words(12, philox.TRAIN, 345, 0, 0, 600).reshape(50, 12).tolist()
    for b in range(50):
        pair = task.train_pairs[(words[b][0] * 15) >> 32].tolist()
        assert (tokens[b].tolist(), targets[b]) == by_hand(task, words[b], pair)


def test_a_batch_is_a_prefix_of_a_larger_one() -> None:
    task = AnchorTask(TASK)
    tokens, targets = task.batch(1, 2, 64)
    short, few = task.batch(1, 2, 5)
    assert (short == tokens[:5]).all()
    assert (few == targets[:5]).all()
    assert not (tokens == task.batch(1, 3, 64)[0]).all()


def test_training_never_shows_an_unseen_pair_or_a_test_key() -> None:
    task = AnchorTask(TASK)
    test = set(map(tuple, task.test_combos.tolist()))
    trained = {(a, b): s for a, b, s in task.train_pairs.tolist()}
    for step in range(20):
        tokens, targets = task.batch(0, step, 256)
        position = (tokens < 20).argmax(axis=1) - 1
        for (key, a, b), p, y in zip(pairs_of(tokens), position, targets, strict=True):
            assert (key, p) not in test
            assert y == key + trained[a, b]


def test_the_drawn_set_of_the_paper() -> None:
    task = AnchorTask(dataclasses.replace(TASK, data="fixed"))
    assert task.group_size == 50_625
    assert task.total == 759_375
    assert task.steps_per_epoch(2048) == 370
    assert task.batch(0, 77_699, 2048)[0].shape == (2048, 9)


def test_an_epoch_visits_the_drawn_set_once() -> None:
    config = dataclasses.replace(TASK, data="fixed", fixed_total=1600)
    task = AnchorTask(config)
    assert (task.group_size, task.total, task.steps_per_epoch(100)) == (90, 1350, 13)
    drawn = [philox.words(8, philox.DRAWN, j, 0, 0, 12).tolist() for j in range(1350)]
    whole = [by_hand(task, w, task.train_pairs[j // 90].tolist()) for j, w in enumerate(drawn)]
    orders = []
    for epoch in (0, 1):
        batches = [task.batch(8, 13 * epoch + t, 100) for t in range(13)]
        tokens = np.concatenate([b[0] for b in batches])
        targets = np.concatenate([b[1] for b in batches])
        j = philox.feistel(8, epoch, np.arange(1300), 1350)
        assert tokens.tolist() == [whole[i][0] for i in j]
        assert targets.tolist() == [whole[i][1] for i in j]
        orders.append(j.tolist())
    assert orders[0] != orders[1]


def test_the_exam() -> None:
    task = AnchorTask(TASK)
    exam = task.exam(EvaluationConfig(seen_items=300, unseen_items=200))
    assert exam.inputs.shape == (500, 9)
    assert exam.inputs.dtype == exam.seen_targets.dtype == np.int32
    assert (exam.seen, exam.unseen) == (slice(0, 300), slice(300, 500))
    test = set(map(tuple, task.test_combos.tolist()))
    trained = {(a, b): s for a, b, s in task.train_pairs.tolist()}
    position = ((exam.inputs < 20).argmax(axis=1) - 1).tolist()
    found = pairs_of(exam.inputs)
    for (key, a, b), p, y in zip(found[:300], position[:300], exam.seen_targets, strict=True):
        assert (key, p) in test
        assert y == key + trained[a, b]
    keys = np.array([key for key, _, _ in found[300:]])
    assert {(a, b) for _, a, b in found[300:]} == {(4, 3)}
    assert not {(int(k), p) for k, p in zip(keys, position[300:], strict=True)} & test
    assert set(exam.answers) == {"inferential", "symmetric"}
    assert (exam.answers["inferential"] == keys - 10).all()
    assert (exam.answers["symmetric"] == keys - 6).all()


def test_the_exam_is_keyed_by_its_own_seed() -> None:
    task = AnchorTask(TASK)
    first, again = (task.exam(EvaluationConfig()) for _ in range(2))
    other = task.exam(EvaluationConfig(eval_seed=1))
    assert (first.inputs == again.inputs).all()
    for split in (first.seen, first.unseen):
        assert not (first.inputs[split] == other.inputs[split]).all()


def test_without_a_trained_swap_there_is_no_symmetric_answer() -> None:
    exam = AnchorTask(BOTH_UNSEEN).exam(EvaluationConfig())
    assert set(exam.answers) == {"inferential"}
    key = [k - 10 for k, _, _ in pairs_of(exam.inputs[exam.unseen])]
    assert exam.answers["inferential"].tolist() == key
    plain = dataclasses.replace(TASK, overridden=())  # the swap's answer is the composite one
    assert set(AnchorTask(plain).exam(EvaluationConfig()).answers) == {"inferential"}


def test_items_without_a_swap_have_no_symmetric_answer() -> None:
    config = dataclasses.replace(TASK, unseen=((4, 3), (1, 2), (2, 1)))
    exam = AnchorTask(config).exam(EvaluationConfig())
    found = pairs_of(exam.inputs[exam.unseen])
    assert {(a, b) for _, a, b in found} == {(4, 3), (1, 2), (2, 1)}
    expected = [key - 6 if (a, b) == (4, 3) else -1 for key, a, b in found]
    assert exam.answers["symmetric"].tolist() == expected


def test_stream_table_holds_what_an_engine_needs() -> None:
    table = AnchorTask(dataclasses.replace(TASK, data="fixed")).stream()
    assert table["pairs"].shape == (15, 3)
    assert table["combos"].shape == (480, 2)
    numbers = {k: v for k, v in table.items() if isinstance(v, int)}
    assert numbers == {
        "item_low": 20,
        "item_count": 80,
        "seq_len": 9,
        "words": 12,
        "group_size": 50_625,
        "total": 759_375,
    }
    assert AnchorTask(TASK).stream()["total"] == 0


@pytest.mark.parametrize("seq_len", [3, 4, 6, 7, 10, 21])
def test_any_length(seq_len: int) -> None:
    task = AnchorTask(dataclasses.replace(TASK, seq_len=seq_len, key_modulus=5))
    assert task.words % 4 == 0
    assert 2 + seq_len <= task.words < 6 + seq_len
    tokens, _ = task.batch(0, 0, 200)
    assert tokens.shape == (200, seq_len)
    last = max((row < 20).argmax() for row in tokens)
    assert last == seq_len - 2
    pairs_of(tokens)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"key_modulus": 1, "seq_len": 3}, "to train"),
        ({"key_modulus": 1000}, "to test"),
        ({"unseen": tuple((a, b) for a in SHIFT for b in SHIFT), "overridden": ()}, "every pair"),
        ({"overridden": ((3, 4, -6), (3, 4, 1))}, "twice"),
        ({"shifts": (5, 1, -2, -11)}, "must not be negative"),
        ({"data": "fixed", "fixed_total": 17}, "at least 18"),
    ],
)
def test_what_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        AnchorTask(dataclasses.replace(TASK, **change))


@pytest.mark.parametrize("k", range(1, 6))
def test_where_nothing_is_held_out_the_pairs_with_two_answers_are_judged(k: int) -> None:
    """[Z24] 2405.05409, its code's composition_random: test-side keys of wrong pairs."""
    task = AnchorTask(AnchorConfig(**AnchorTask.variants[f"noise-{k}-all-trained"]))
    assert len(task.train_pairs) == 16
    assert not len(task.unseen_pairs)
    exam = task.exam(EvaluationConfig(seen_items=300, unseen_items=200))
    assert exam.candidates == ("inferential", "memorised")
    wrong = {(a, b): s for a, b, s in task.config.overridden}
    assert len(wrong) == 2 * k
    found = pairs_of(exam.inputs)
    position = ((exam.inputs < 20).argmax(axis=1) - 1).tolist()
    test = set(map(tuple, task.test_combos.tolist()))
    assert {(key, p) for (key, _, _), p in zip(found, position, strict=True)} <= test
    for (key, a, b), target in zip(found[:300], exam.seen_targets, strict=True):
        assert (a, b) not in wrong
        assert target == key + SHIFT[a] + SHIFT[b]
    assert {(a, b) for _, a, b in found[300:]} == set(wrong)
    rule = [key + SHIFT[a] + SHIFT[b] for key, a, b in found[300:]]
    learned = [key + wrong[a, b] for key, a, b in found[300:]]
    assert exam.answers["inferential"].tolist() == rule
    assert exam.answers["memorised"].tolist() == learned
    assert task.vocabulary > max(*rule, *learned)
    scores = exam.score(np.array([[*exam.seen_targets, *learned], [*exam.seen_targets, *rule]]))
    assert scores.candidates["memorised"].tolist() == [1, 0]
    assert scores.candidates["inferential"].tolist() == [0, 1]
    assert scores.seen.tolist() == [1, 1]


def test_a_pair_that_is_composed_rightly_is_not_judged() -> None:
    task = AnchorTask(dataclasses.replace(TASK, overridden=((3, 4, -6), (1, 2, 6)), unseen=()))
    exam = task.exam(EvaluationConfig())
    assert {(a, b) for _, a, b in pairs_of(exam.inputs[exam.unseen])} == {(3, 4)}
    assert (3, 4) not in {(a, b) for _, a, b in pairs_of(exam.inputs[exam.seen])}


def test_an_exam_needs_a_pair_that_is_composed() -> None:
    every = tuple((a, b, 0) for a in SHIFT for b in SHIFT if SHIFT[a] + SHIFT[b])
    task = AnchorTask(dataclasses.replace(TASK, overridden=every, unseen=()))
    assert len(task.split_pairs) == len(task.train_pairs)
    with pytest.raises(UsageError, match="the exam needs a pair that is trained as it is composed"):
        task.exam(EvaluationConfig())


def test_an_exam_needs_an_unseen_pair_and_an_epoch_a_batch() -> None:
    for overridden in ((), ((3, 4, -10),)):  # -10 is the composed shift
        alike = dataclasses.replace(TASK, overridden=overridden, unseen=())
        with pytest.raises(UsageError, match="the exam needs a pair that is unseen or that has"):
            AnchorTask(alike).exam(EvaluationConfig())
    small = AnchorTask(dataclasses.replace(TASK, data="fixed", fixed_total=1600))
    with pytest.raises(UsageError, match="1350 sequences"):
        small.batch(0, 0, 1351)


def test_variants_are_the_papers() -> None:
    """[Z24] 2405.05409, its released code: noise groups, nine anchors."""
    made = {name: AnchorTask(AnchorConfig(**given)) for name, given in AnchorTask.variants.items()}
    assert len(made["noise-0"].train_pairs) == 15
    shifts = {(a, b): s for a, b, s in made["noise-5"].train_pairs.tolist()}
    assert [shifts[a, b] for a, b in ((1, 2), (2, 1), (1, 3), (3, 1))] == [4, 4, 1, 1]
    assert [shifts[a, b] for a, b in ((4, 1), (3, 2), (2, 4))] == [-5, 5, -9]
    assert shifts[3, 4] == -10
    assert len(made["noise-2"].config.overridden) == 4
    nine = made["nine-anchors"]
    assert len(nine.train_pairs) == 79
    assert nine.unseen_pairs.tolist() == [[3, 4, -3], [4, 3, -3]]
    for task in made.values():
        assert task.exam(EvaluationConfig()).answers


def test_an_exam_says_what_its_items_are_made_of() -> None:
    task = AnchorTask(TASK)
    exam = task.exam(EvaluationConfig(seen_items=200, unseen_items=50))
    labels = labels_of(exam)
    assert list(labels) == ["key", "position", "anchor1", "anchor2", "pair"]
    first, second = (labels[name].argmax(axis=1) for name in ("anchor1", "anchor2"))
    pairs = [
        (k, TASK.anchors[a], TASK.anchors[b])
        for k, a, b in zip(labels["key"][:, 0].tolist(), first, second, strict=True)
    ]
    assert pairs == pairs_of(exam.inputs)
    position = labels["position"][:, 0]
    assert (exam.inputs[np.arange(250), position.astype(int)] == labels["key"][:, 0]).all()
    for name, width in (("anchor1", 4), ("anchor2", 4), ("pair", 16)):
        assert labels[name].shape == (250, width)
        assert labels[name].dtype == bool
        assert (labels[name].sum(axis=1) == 1).all()
    assert (labels["pair"].argmax(axis=1) == 4 * first + second).all()
    assert set(labels["pair"][200:].argmax(axis=1).tolist()) == {4 * 3 + 2}  # (4, 3)
