"""The exam of sequences told: which answers are right, and what the wrong ones are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from compfast.config import Prompts
from compfast.tasks.base import Float64, Int32, Scores

CANDIDATES = ("compositional", "bare", "substituted", "cut")

_BANDS = {"exact_to_8": (0, 8), "exact_to_16": (9, 16), "exact_to_24": (17, 24)}
_BANDS |= {"exact_over_24": (25, 2**31)}


@dataclass(frozen=True, slots=True, eq=False)
class ScanExam:
    """Rows of `prompts` are trained commands, then held-out ones; told rows hold actions, then
    END, then -1.
    """

    prompts: Prompts
    seen: int
    right: Int32  # [N, max_new]
    others: Mapping[str, Int32]  # candidate -> [K, N_unseen, max_new], of which any counts
    cut: int = 0  # of split length: actions of the longest trained answers; 0: no candidate

    reads: ClassVar[Literal["answers", "outputs", "sequences"]] = "sequences"
    measures: ClassVar[tuple[str, ...]] = ("exact", *_BANDS, "first_wrong")

    @property
    def inputs(self) -> Int32:
        return self.prompts.tokens

    @property
    def splits(self) -> dict[str, slice]:
        return {"seen": slice(0, self.seen), "unseen": slice(self.seen, len(self.right))}

    @property
    def candidates(self) -> tuple[str, ...]:
        return ("compositional", *self.others, *(["cut"] if self.cut else []))

    @property
    def telling(self) -> NDArray[np.bool_]:
        """Held-out commands [N_unseen] whose right answer is not the bare one as well."""
        right = self.right[self.seen :]
        bare = self.others.get("bare")
        return np.ones(len(right), np.bool_) if bare is None else (bare[0] != right).any(axis=1)

    def score(self, told: NDArray[Any]) -> Scores:
        """Scores of every member from what it told, [M, N, max_new].

        `seen` is the share of trained commands answered exactly. A candidate's score is the share
        of held-out ones answered exactly as it says, among those that tell it from the others:
        where nothing modifies the phrase that is held out, `bare` is right. `cut` is a right answer
        that ends too early: its first actions, at least one and at most as many as were trained,
        then END. `other` is the share of the most frequent answer that no candidate has.

        Measures: `exact` is the share of all held-out commands answered exactly; `exact_to_8` ..
        `exact_over_24` are the same by the number of right actions, NaN where there are none such;
        `first_wrong` is the place of a wrong answer's first wrong token as a share of the right
        one's length (END counts), the mean over wrong answers, 1 where there is none.
        """
        told = np.asarray(told)
        seen = (told[:, : self.seen] == self.right[: self.seen]).all(axis=2).mean(axis=1)
        held_out, right = told[:, self.seen :], self.right[self.seen :]
        differs = held_out != right  # [M, N_unseen, max_new]
        exact = ~differs.any(axis=2)
        first = differs.argmax(axis=2)  # [M, N_unseen]
        hits = {"compositional": exact}
        for name, answers in self.others.items():
            same = [(held_out == answer).all(axis=2) for answer in answers]
            hits[name] = np.logical_or.reduce(same)
        if self.cut:
            ends = np.take_along_axis(held_out, first[..., None], axis=2)[..., 0]
            early = (ends == self.prompts.end) & (first >= 1) & (first <= self.cut)
            hits["cut"] = early & ~exact
        telling = self.telling
        free = telling & ~np.logical_or.reduce(list(hits.values()))
        other = [_most(rows[own]) for rows, own in zip(held_out, free, strict=True)]
        length = (right != -1).sum(axis=1)  # actions and END
        measures = {
            "exact": exact.mean(axis=1),
            **_by_length(exact, length - 1),
            "first_wrong": _first_wrong(exact, first / length),
        }
        return Scores(
            seen,
            {name: hit[:, telling].mean(axis=1) for name, hit in hits.items()},
            np.array(other, np.float64) / telling.sum(),
            measures,
        )


def _most(rows: NDArray[Any]) -> int:
    """How often the most frequent row comes."""
    return int(np.unique(rows, axis=0, return_counts=True)[1].max()) if len(rows) else 0


def _by_length(exact: NDArray[np.bool_], actions: NDArray[Any]) -> dict[str, Float64]:
    found = {}
    for name, (low, high) in _BANDS.items():
        inside = (actions >= low) & (actions <= high)
        nothing = np.full(len(exact), np.nan)
        found[name] = exact[:, inside].mean(axis=1) if inside.any() else nothing
    return found


def _first_wrong(exact: NDArray[np.bool_], place: Float64) -> Float64:
    """Added a member at a time: no bit depends on how many there are."""
    means = [
        float(own[~right].mean()) if not right.all() else 1.0
        for own, right in zip(place, exact, strict=True)
    ]
    return np.array(means)
