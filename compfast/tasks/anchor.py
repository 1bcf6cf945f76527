"""Composite anchor functions: a key followed by two anchors, answered by key + shift.

Zhang et al. 2024, arXiv 2405.05409, section 3. A sequence of T tokens holds a key at `pos` and
two anchors at pos + 1, pos + 2; every other token is a noise item. The target of a trained pair
(a1, a2) is key + shift(a1) + shift(a2) unless the pair is overridden.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from compfast.config import EvaluationConfig, TaskSection
from compfast.config.presets import PRESETS
from compfast.config.section import MOST, at_most, choice, positive, require, require_together
from compfast.errors import UsageError
from compfast.streams import philox
from compfast.tasks.anchored import AnchoredExam
from compfast.tasks.base import Int32, Settings, Task

Int64 = NDArray[np.int64]

_MOST_WORDS = 2**34  # of a stream: a block of four has 32 bits of its counter
_MOST_PLACES = 2**20  # items x positions
SEEN, UNSEEN = 0, 1  # splits of the exam: the `sub` of its streams


@dataclass(frozen=True, slots=True)
class AnchorConfig(TaskSection):
    """Composite anchor functions ([Z24] section 3 and its released code)."""

    name: str = "anchor"
    anchors: tuple[int, ...] = (1, 2, 3, 4)  # token ids of the single-anchor functions
    shifts: tuple[int, ...] = (5, 1, -2, -8)  # g(x; a) = x + shift [Z24]
    item_low: int = 20  # smallest item, inclusive [Z24]
    item_high: int = 100  # largest item, exclusive [Z24]
    seq_len: int = 9  # input tokens a sequence [Z24]
    overridden: tuple[tuple[int, int, int], ...] = ((3, 4, -6),)  # (a1, a2, trained shift) [Z24]
    unseen: tuple[tuple[int, int], ...] = ((4, 3),)  # ordered pairs never trained [Z24]
    key_modulus: int = 7  # key x is test-side at pos when x % modulus == pos; code uses 9
    data: Literal["fresh", "fixed"] = "fresh"  # new sequences each step, or one drawn set [Z24]
    fixed_total: int = 900_000  # sequences over all groups of the drawn set [Z24]
    fixed_train_weight: int = 9  # train-side : test-side groups = 9 : 1 [Z24 code]

    def _check(self) -> None:
        require_together(
            len(self.anchors) == len(self.shifts) >= 1,
            f"task.anchors has {len(self.anchors)} entries and task.shifts {len(self.shifts)};"
            " they must be equally many and at least 1",
        )
        require(
            len(set(self.anchors)) == len(self.anchors),
            f"task.anchors is {self.anchors}; the anchors must be distinct",
        )
        require_together(
            all(0 < a < self.item_low or a >= self.item_high for a in self.anchors),
            f"task.anchors is {self.anchors}; anchors must be positive and outside the items"
            f" {self.item_low}..{self.item_high - 1}",
        )
        require_together(
            0 < self.item_low < self.item_high,
            f"task.item_low is {self.item_low} and task.item_high {self.item_high};"
            " 0 < item_low < item_high is needed",
        )
        require(self.seq_len >= 3, f"task.seq_len is {self.seq_len}; it must be at least 3")
        positive("task", self, "key_modulus", "fixed_total", "fixed_train_weight")
        at_most("task", self, key_modulus=MOST, fixed_total=2**31 - 1, fixed_train_weight=MOST)
        places = (self.item_high - self.item_low) * self.seq_len
        require(
            max(self.seq_len, self.item_high, places) <= _MOST_PLACES and len(self.anchors) <= 1024,
            f"task has {self.item_high - self.item_low} items up to {self.item_high},"
            f" {self.seq_len} positions and {len(self.anchors)} anchors; items x positions and"
            f" the largest item must be at most {_MOST_PLACES}, anchors at most 1024",
        )
        require(
            max(map(abs, (*self.anchors, *self.shifts, *(s for *_, s in self.overridden))))
            <= _MOST_PLACES,
            f"task.anchors, shifts and overridden shifts must be within +-{_MOST_PLACES}",
        )
        choice("task", self, data=("fresh", "fixed"))
        for a, b, *_ in (*self.overridden, *self.unseen):
            require_together(
                a in self.anchors and b in self.anchors,
                f"task pair ({a},{b}) names an anchor that is not in {self.anchors}",
            )
        both = {(a, b) for a, b, _ in self.overridden} & set(self.unseen)
        require_together(not both, f"task pairs {sorted(both)} are both overridden and unseen")

    def describe(self, varied: frozenset[str]) -> str:
        """E.g. "anchor, (3,4) trained as x-6, (4,3) unseen"."""
        said = [self.name]
        if "overridden" not in varied:
            said += [f"({a},{b}) trained as x{shift:+d}" for a, b, shift in self.overridden]
        if "unseen" not in varied and self.unseen:
            said.append(" and ".join(f"({a},{b})" for a, b in self.unseen) + " unseen")
        return ", ".join(said)


# [Z24] code, composition_random: pairs whose both orders get a wrong target.
_NOISE = ((1, 2, 4), (1, 3, 1), (1, 4, -5), (2, 3, 5), (2, 4, -9))


def _noise_groups(k: int, unseen: list[list[int]]) -> Settings:
    """The first k pairs wrong."""
    wrong = [[*order, shift] for a, b, shift in _NOISE[:k] for order in ((a, b), (b, a))]
    return {"overridden": wrong, "unseen": unseen}


class AnchorTask(Task[AnchorConfig]):
    """Splits, batches and the exam of one task; the same numbers as the C++ generator.

    Sequence b of a step owns `words` = W words: pair, allowed (key, position), T noise words,
    then padding to a multiple of 4.

    Raises UsageError when a split is empty, a pair is overridden twice, a target or candidate
    answer is negative, or the drawn set has no sequence a group.
    """

    Config = AnchorConfig
    candidates = ("inferential", "symmetric", "memorised")
    presets = PRESETS
    variants: ClassVar[Mapping[str, Settings]] = {
        "standard": {"overridden": [[3, 4, -6]], "unseen": [[4, 3]]},
        "both-unseen": {"overridden": [], "unseen": [[3, 4], [4, 3]]},  # [Z24] appendix E
        "nine-anchors": {  # [Z24] code, composition_more_anchor; what is unseen is our choice
            "anchors": list(range(1, 10)),
            "shifts": list(range(-4, 5)),
            "overridden": [],
            "unseen": [[3, 4], [4, 3]],
        },
        # (4,3) is held out, so that the verdict is the standard one; the paper holds nothing out.
        **{f"noise-{k}": _noise_groups(k, [[4, 3]]) for k in range(6)},
        # As the paper has it. Without a wrong pair, k = 0, no pair would have two answers.
        **{f"noise-{k}-all-trained": _noise_groups(k, []) for k in range(1, 6)},
    }

    train_pairs: Int32  # [P, 3] rows (a1, a2, trained shift), in the order of the anchors
    unseen_pairs: Int32  # [U, 3] rows (a1, a2, composite shift)
    split_pairs: Int32  # [S, 3] rows (a1, a2, composite shift) of pairs trained by another shift
    train_combos: Int32  # [A, 2] rows (key, position), by key, then position
    test_combos: Int32  # [A', 2], rows with key % modulus == position
    words: int  # W
    group_size: int  # sequences a trained pair of the drawn set; 0 for fresh data
    total: int  # N, sequences of the drawn set; 0 for fresh data

    def __init__(self, config: AnchorConfig) -> None:
        self.config = config
        self.length = config.seq_len
        shift = dict(zip(config.anchors, config.shifts, strict=True))
        trained = {(a, b): s for a, b, s in config.overridden}
        if len(trained) != len(config.overridden):
            raise UsageError(f"task.overridden {config.overridden} names a pair twice")
        pairs = [(a, b) for a in config.anchors for b in config.anchors]
        unseen = set(config.unseen)
        composite = {(a, b): shift[a] + shift[b] for a, b in pairs}
        self._trained = {p: trained.get(p, composite[p]) for p in pairs if p not in unseen}
        self.train_pairs = _rows([(*p, s) for p, s in self._trained.items()], 3)
        self.unseen_pairs = _rows([(*p, composite[p]) for p in pairs if p in unseen], 3)
        split = [p for p, s in self._trained.items() if s != composite[p]]
        self.split_pairs = _rows([(*p, composite[p]) for p in split], 3)
        combos = [
            (key, position)
            for key in range(config.item_low, config.item_high)
            for position in range(config.seq_len - 2)
        ]
        test = {(k, p) for k, p in combos if k % config.key_modulus == p}
        self.train_combos = _rows([c for c in combos if c not in test], 2)
        self.test_combos = _rows([c for c in combos if c in test], 2)
        self._refuse_empty()
        self.vocabulary = self._vocabulary()
        self.words = -(-(2 + config.seq_len) // 4) * 4
        self.group_size = self.total = 0
        if config.data == "fixed":
            weight = config.fixed_train_weight
            self.group_size = config.fixed_total * weight // ((weight + 1) * len(pairs))
            self.total = self.group_size * len(self.train_pairs)
            if self.group_size == 0:
                raise UsageError(
                    f"task.fixed_total {config.fixed_total} leaves no sequence for each of"
                    f" {len(pairs)} pairs; it must be at least"
                    f" {-(-(weight + 1) * len(pairs) // weight)}"
                )

    def batch(self, seed: int, step: int, size: int) -> tuple[Int32, Int32]:
        """tokens int32 [B, T] and targets int32 [B] of one training step.

        Raises UsageError when the drawn set is smaller than one batch.
        """
        if not self.total:
            words = self._step_words(seed, philox.TRAIN, 0, step, size)
            pair = philox.integers(words[:, 0], len(self.train_pairs))
        else:
            j = self._epoch_order(seed, step, size)
            words = philox.word_rows(seed, philox.DRAWN, j, 0, 0, self.words)
            pair = j // self.group_size
        tokens, targets = self._sequences(words, self.train_pairs[pair], self.train_combos)
        return tokens, targets

    def exam(self, evaluation: EvaluationConfig) -> AnchoredExam:
        """The exam of `evaluation.eval_seed`.

        With unseen pairs these are judged, with train-side keys: `inferential` is the composite
        shift; `symmetric` the trained answer of the swapped pair, left out when no swapped pair
        is trained or when it is the same answer as the inferential one for every unseen pair.

        Without them the trained pairs that have two answers are judged, with test-side keys:
        `inferential` is the composite shift, `memorised` what was trained. Then `seen` asks the
        other pairs alone, so that rule and exception are told apart.

        Raises UsageError where no pair has two answers, or every one.
        """
        if len(self.unseen_pairs):
            return self._exam(evaluation, self.train_pairs, self.unseen_pairs, self.train_combos)
        if not len(self.split_pairs):
            raise UsageError(
                "task.unseen is empty and no pair of task.overridden has another shift than the"
                " composed one; the exam needs a pair that is unseen or that has two answers"
            )
        two = {(a, b) for a, b, _ in self.split_pairs.tolist()}
        plain = _rows([(*p, s) for p, s in self._trained.items() if p not in two], 3)
        if not len(plain):
            raise UsageError(
                "task.unseen is empty and task.overridden gives every pair another shift than the"
                " composed one; the exam needs a pair that is trained as it is composed"
            )
        return self._exam(evaluation, plain, self.split_pairs, self.test_combos)

    def _exam(
        self, evaluation: EvaluationConfig, seen_pairs: Int32, judged: Int32, combos: Int32
    ) -> AnchoredExam:
        """Rows (a1, a2, shift) asked as they were trained, and rows judged by every candidate."""
        seen, unseen = evaluation.seen_items, evaluation.unseen_items
        words = self._step_words(evaluation.eval_seed, philox.EVAL, SEEN, 0, seen)
        pair = philox.integers(words[:, 0], len(seen_pairs))
        seen_tokens, targets = self._sequences(words, seen_pairs[pair], self.test_combos)

        words = self._step_words(evaluation.eval_seed, philox.EVAL, UNSEEN, 0, unseen)
        pair = philox.integers(words[:, 0], len(judged))
        tokens, inferential = self._sequences(words, judged[pair], combos)
        keys = inferential - judged[pair, 2]
        answers = {"inferential": inferential}
        for name, shifts in self._rivals(judged).items():
            known = np.array([s is not None for s in shifts])[pair]
            shift = np.array([s or 0 for s in shifts], dtype=np.int32)[pair]
            answers[name] = np.where(known, keys + shift, -1).astype(np.int32)
        splits = slice(0, seen), slice(seen, seen + unseen)
        inputs, own = np.concatenate((seen_tokens, tokens)), self.config.anchors
        return AnchoredExam(inputs, *splits, targets, answers, anchors=own)

    def _rivals(self, judged: Int32) -> dict[str, list[int | None]]:
        """Other candidates' shifts of each judged pair; None where one has no answer."""
        pairs = [(a, b) for a, b, _ in judged.tolist()]
        if not len(self.unseen_pairs):
            return {"memorised": [self._trained[pair] for pair in pairs]}
        swapped = [self._trained.get((b, a)) for a, b in pairs]
        own = judged[:, 2].tolist()
        told_apart = any(s not in (None, c) for s, c in zip(swapped, own, strict=True))
        return {"symmetric": swapped} if told_apart else {}

    def stream(self) -> dict[str, Any]:
        """The numbers from which an engine draws training batches itself."""
        return {
            "kind": "anchor",
            "pairs": self.train_pairs,  # int32 [P, 3]
            "combos": self.train_combos,  # int32 [A, 2]
            "item_low": self.config.item_low,
            "item_count": self.config.item_high - self.config.item_low,
            "seq_len": self.config.seq_len,
            "words": self.words,
            "group_size": self.group_size,
            "total": self.total,
        }

    def check_batch(self, size: int) -> None:
        """Raises UsageError for a batch that no step can draw: it has more sequences than the
        drawn set, or more words than a stream.
        """
        if self.total:
            self.steps_per_epoch(size)
        if size * self.words > _MOST_WORDS:
            raise UsageError(
                f"training.batch_size is {size}; with task.seq_len {self.config.seq_len} it"
                f" must be at most {_MOST_WORDS // self.words}"
            )

    def steps_per_epoch(self, batch_size: int) -> int:
        """Whole batches in the drawn set; raises UsageError when there is none."""
        steps = self.total // batch_size
        if steps == 0:
            raise UsageError(
                f"training.batch_size is {batch_size}; the drawn set has {self.total} sequences"
                f" (task.fixed_total {self.config.fixed_total}) and must hold at least one batch"
            )
        return steps

    def _epoch_order(self, seed: int, step: int, batch_size: int) -> Int64:
        epoch, within = divmod(step, self.steps_per_epoch(batch_size))
        rows = within * batch_size + np.arange(batch_size)
        return philox.feistel(seed, epoch, rows, self.total)

    def _step_words(
        self, seed: int, purpose: int, sub: int, step: int, count: int
    ) -> philox.UInt32:
        """Words of `count` sequences of one stream, uint32 [count, W]."""
        flat = philox.words(seed, purpose, step, sub, 0, count * self.words)
        return flat.reshape(count, self.words)

    def _sequences(self, words: philox.UInt32, pairs: Int32, combos: Int32) -> tuple[Int32, Int32]:
        """Words [B, W] and rows (a1, a2, shift) [B, 3] -> tokens [B, T], key + shift [B]."""
        config = self.config
        key, position = combos[philox.integers(words[:, 1], len(combos))].T
        noise = words[:, 2 : 2 + config.seq_len]
        drawn = config.item_low + philox.integers(noise, config.item_high - config.item_low)
        tokens = drawn.astype(np.int32)
        row = np.arange(len(words))
        tokens[row, position] = key
        tokens[row, position + 1] = pairs[:, 0]
        tokens[row, position + 2] = pairs[:, 1]
        return tokens, key + pairs[:, 2]

    def _vocabulary(self) -> int:
        judged = self.unseen_pairs if len(self.unseen_pairs) else self.split_pairs
        shifts = [*self._trained.values(), *judged[:, 2].tolist()]
        lowest = self.config.item_low + min(shifts)
        if lowest < 0:
            raise UsageError(
                f"task.item_low {self.config.item_low} with shift {min(shifts)} gives the target"
                f" {lowest}; targets must not be negative"
            )
        highest = self.config.item_high - 1
        largest: int = max(highest, highest + max(shifts), *self.config.anchors)
        return largest + 1

    def _refuse_empty(self) -> None:
        modulus = self.config.key_modulus
        for rows, sentence in (
            (self.train_pairs, "task.unseen names every pair; no pair is left to train on"),
            (self.train_combos, f"task.key_modulus {modulus} leaves no (key, position) to train"),
            (self.test_combos, f"task.key_modulus {modulus} leaves no (key, position) to test"),
        ):
            if not len(rows):
                raise UsageError(sentence)


def _rows(rows: list[Any], width: int) -> Int32:
    return np.array(rows, dtype=np.int32).reshape(-1, width)
