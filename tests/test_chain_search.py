"""Chain search: sequences solved by walking their links, draws in C++ and NumPy, what a shortcut
scores.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import pytest

from compfast import _native
from compfast.config import EvaluationConfig
from compfast.errors import UsageError
from compfast.solutions import verdicts
from compfast.streams import philox
from compfast.tasks.chain_search import ChainSearchConfig, ChainSearchTask

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "named": {"named": True, "seq_len": 22, "order": 4},
    "one chain to its end": {"chains": 1, "question": "end", "order": 3},
    "wrong links": {"seq_len": 17, "wrong_links": True},
    "all": {
        "chains": 1,
        "seq_len": 14,
        "order": 3,
        "named": True,
        "question": "end",
        "wrong_links": True,
        "item_low": 7,
        "item_high": 52,
        "modulus": 6,
        "steps": (5,),
    },
    "one link": {"chains": 1, "seq_len": 3, "order": 1},
    "256 nodes": {"seq_len": 509, "item_high": 1420, "order": 100},
}


def _task(name: str) -> ChainSearchTask:
    return ChainSearchTask(ChainSearchConfig(**VARIANTS[name]))


def _solved(c: ChainSearchConfig, tokens: list[int], steps: tuple[int, ...]) -> tuple[int, int]:
    """Order and label of a sequence, by walking its links; everything promised of it holds."""
    last = len(tokens) - 1 - c.named
    asked, order = tokens[-1], tokens[-2] if c.named else c.order
    pairs = list(zip(tokens[:last:2], tokens[1:last:2], strict=True))
    after = dict(pairs)
    assert len(after) == len(pairs) == c.pairs  # one way on from each node
    assert all((b - a) % c.modulus in steps for a, b in pairs)
    assert all(c.item_low <= item < c.item_high for pair in pairs for item in pair)
    assert len({*after, *after.values()}) == c.nodes

    def walk(node: int) -> list[int]:
        path = [node]
        while path[-1] in after:
            path.append(after[path[-1]])
        return path

    entered = Counter(after.values())
    paths = [walk(node) for node in after if node not in entered]
    assert len(paths) == c.chains * (1 + c.wrong_links)
    assert sorted(entered.values())[-c.chains :] == [1 + c.wrong_links] * c.chains
    assert max(map(len, paths)) == c.links + 1
    path = walk(asked)
    assert c.question == "any" or len(path) == order + 1
    return order, path[order]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_label_is_found_by_walking(name: str) -> None:
    task = _task(name)
    c = task.config
    tokens, targets = task.batch(3, 7, 3 if name == "256 nodes" else 200)
    orders: Counter[int] = Counter()
    for row, target in zip(tokens.tolist(), targets.tolist(), strict=True):
        order, label = _solved(c, row, c.steps)
        orders[order] += 1
        assert label == target
    assert set(orders) == (set(range(1, c.order + 1)) if c.named else {c.order})


def test_a_sequence_by_hand() -> None:
    """A chain of two links, 2 steps on, item by item from the words that draw it."""
    task = ChainSearchTask(ChainSearchConfig(chains=1, seq_len=5))
    words = philox.words(8, philox.TRAIN, 4, 0, 0, 12).astype(object)
    left = {rest: list(range(20 + rest, 100, 5)) for rest in range(5)}
    taken = dict.fromkeys(left, 0)

    def take(rest: int, word: int) -> int:
        own, first = left[rest], taken[rest]
        place = first + (word * (16 - first) >> 32)
        own[first], own[place] = own[place], own[first]
        taken[rest] += 1
        return own[first]

    nodes = [take(words[3] * 5 >> 32, words[4])]
    for i in (5, 7):
        step = (0, 1, 4)[words[i] * 3 >> 32]
        nodes.append(take((nodes[-1] + step) % 5, words[i + 1]))
    pairs = [nodes[:2], nodes[1:]]
    if words[9] < 2**31:  # the last pair changes places with the first
        pairs.reverse()
    tokens, targets = task.batch(8, 4, 1)
    assert tokens[0].tolist() == [*pairs[0], *pairs[1], nodes[0]]
    assert targets.tolist() == nodes[2:]


@pytest.mark.usefixtures("native_extension")
@pytest.mark.parametrize("name", VARIANTS)
def test_cpp_draws_the_same_sequences(name: str) -> None:
    task = _task(name)
    for seed, step, size in ((0, 0, 1), (7, 3, 6), (2**53 - 1, 2**32 - 1, 65)):
        wanted = task.batch(seed, step, size)
        for got, want in zip(
            _native.task_batch(task.stream(), seed, step, size), wanted, strict=True
        ):
            assert got.dtype == want.dtype == np.int32
            assert np.array_equal(got, want)


def test_what_is_drawn_never_changes() -> None:
    drawn = b"".join(array.tobytes() for name in VARIANTS for array in _task(name).batch(3, 17, 4))
    assert hashlib.sha256(drawn).hexdigest()[:16] == "6a2cb6feccd84d66"


def test_every_item_node_and_place_comes() -> None:
    """Uniformly: a count that is far off shows a word used twice or a part that never comes."""
    task = _task("wrong links")
    drawn = task.drawn(1, philox.TRAIN, 0, 0, 6000, task.config.steps)
    items = np.bincount(drawn.nodes.ravel(), minlength=100)[20:]
    assert items.min() > 0.75 * items.mean()
    for counts in (np.bincount(drawn.chain), np.bincount(drawn.at)):
        assert counts.tolist() == pytest.approx([3000, 3000], rel=0.1)
    for part in range(2):
        steps = np.bincount(np.diff(drawn.nodes[:, part], axis=1).ravel() % 5, minlength=5)
        assert steps.tolist() == pytest.approx([6000, 6000, 0, 0, 6000], rel=0.1)
    asked = (drawn.tokens[:, :16:2] == drawn.tokens[:, -1:]).argmax(axis=1)
    assert np.bincount(asked).tolist() == pytest.approx([750] * 8, rel=0.2)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_exam_asks_on_held_out_steps(name: str) -> None:
    task = _task(name)
    c = task.config
    exam = task.exam(EvaluationConfig(seen_items=30, unseen_items=40))
    rows = exam.inputs.tolist()
    assert [_solved(c, row, c.steps)[1] for row in rows[exam.seen]] == exam.seen_targets.tolist()
    held = [_solved(c, row, c.held_out)[1] for row in rows[exam.unseen]]
    assert held == exam.answers["search"].tolist()


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        ("default", ["search", "neighbour", "end", "nearest"]),
        ("one chain to its end", ["search", "neighbour", "nearest"]),
        ("one link", ["search"]),
    ],
)
def test_a_shortcut_is_told_by_its_answers(name: str, candidates: list[str]) -> None:
    """Each candidate's answers, and the first node of the asked chain, which is no candidate."""
    task, evaluation = _task(name), EvaluationConfig(seen_items=50, unseen_items=300)
    exam = task.exam(evaluation)
    assert list(exam.candidates) == candidates
    right = exam.answers["search"]
    for candidate, said in exam.answers.items():
        assert candidate == "search" or (said != right).all()
        told = np.concatenate([exam.seen_targets, np.where(said < 0, right, said)])[None]
        scores = exam.score(told)
        assert scores.seen[0] == 1
        assert scores.candidates[candidate][0] == (said >= 0).mean()
        assert scores.other[0] == 0
        if candidate == "neighbour":  # right nowhere: order 2 or 3
            assert verdicts(scores, evaluation, np.zeros(1, bool))[0] == "neighbour"


def test_another_answer_is_counted_by_its_part() -> None:
    task = _task("wrong links")
    exam = task.exam(EvaluationConfig(seen_items=2, unseen_items=300))
    drawn = task.drawn(0, philox.EVAL, 0, 1, 300, task.config.held_out)
    assert np.array_equal(drawn.tokens, exam.inputs[exam.unseen])
    row = np.arange(300)
    parts = {
        "itself": drawn.reached(drawn.at),
        "the other chain's start": drawn.nodes[row, 1 - drawn.chain, 0],
        "the other chain's wrong node": drawn.wrong[row, 1 - drawn.chain],
    }
    for said in parts.values():
        clear = ~np.logical_or.reduce([said == answer for answer in exam.answers.values()])
        scores = exam.score(np.concatenate([exam.seen_targets, said])[None])
        assert scores.other[0] == clear.mean() > 0.7
        assert scores.candidates["search"][0] == 0
    nowhere = exam.score(np.concatenate([exam.seen_targets, np.zeros(300, np.int32)])[None])
    assert nowhere.other[0] == 0


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"chains": 3}, "task.chains is 3; it must be 1 or 2"),
        ({"seq_len": 12}, r"task.seq_len is 12; with these chains it must be 1 \+ 4 x n, n at lea"),
        ({"seq_len": 13, "named": True}, r"it must be 2 \+ 4 x n, n at least 1"),
        ({"seq_len": 5, "wrong_links": True}, r"it must be 1 \+ 4 x n, n at least 2"),
        ({"order": 4}, "task.order is 4; a chain has 3 links"),
        ({"order": 0}, "task.order is 0; it must be at least 1"),
        ({"modulus": 1, "steps": (0,)}, "task.modulus is 1; it must be at least 2"),
        ({"modulus": 65}, "task.modulus is 65; it must be at most 64"),
        ({"steps": ()}, r"task.steps is \[\]; it must be different numbers of 0..4"),
        ({"steps": (0, 1, 2, 3, 4)}, "at least one and not all"),
        ({"steps": (1, 0)}, "in rising order"),
        ({"steps": (0, 5)}, r"numbers of 0..4 in"),
        ({"item_high": 59}, "8 distinct nodes need 40 to 4096 items"),
        ({"item_high": 5000}, "8 distinct nodes need 40 to 4096 items"),
        ({"seq_len": 513, "item_high": 4000}, "there may be 256 nodes"),
        ({"item_low": 0}, "task.item_low is 0; it must be above 0"),
        (
            {"item_low": 2, "named": True, "seq_len": 14},
            "task.item_low is 2; it must be above 0 and, where it is named, the order's token",
        ),
    ],
)
def test_what_makes_no_chains_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        ChainSearchConfig(**fields)


def test_it_describes_itself() -> None:
    named = ChainSearchConfig(**VARIANTS["all"]).describe(frozenset())
    assert (
        named == "chain_search, 1 chain of 5 links, 1 to 3 steps on, to the end, with wrong links"
    )
    assert ChainSearchConfig().describe(frozenset({"order"})) == "chain_search, 2 chains of 3 links"
