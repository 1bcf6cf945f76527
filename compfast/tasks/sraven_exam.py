"""The exam of symbolic Raven matrices: the rules applied, or a shortcut by frequency?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from compfast.tasks.base import Int32, Labels, Scores

CANDIDATES = ("rule", "frequency", "column")


@dataclass(frozen=True, slots=True, eq=False)
class RavenExam:
    """Items are grids: the first `seen` of them of trained sets of rules, the others held out."""

    inputs: NDArray[np.float32]  # [N, 9 K, F]
    panels: Int32  # [N, row, column, K]
    seen: int
    symbols: int  # F
    labels: Mapping[str, Labels] = field(default_factory=dict)  # of the rows of `inputs`

    candidates: ClassVar[tuple[str, ...]] = CANDIDATES
    reads: ClassVar[Literal["outputs"]] = "outputs"
    measures: ClassVar[tuple[str, ...]] = ("ood_accuracy", "ood_feature_accuracy", "seen_accuracy")

    @property
    def splits(self) -> dict[str, slice]:
        return {"seen": slice(0, self.seen), "unseen": slice(self.seen, len(self.inputs))}

    def answers(self) -> dict[str, Int32]:
        """What each candidate says of the held-out items, [N, K].

        `rule` is the ninth panel. `frequency` says for every feature the most frequent symbol of
        the item's eight panels, the least of several. `column` repeats the panel above it, the
        third of the second row.
        """
        panels = self.panels[self.seen :]
        count, features = len(panels), panels.shape[3]
        shown = panels.reshape(count, -1)[:, :-features]
        counts = (shown[:, :, None] == np.arange(self.symbols)).sum(axis=1)
        most = counts.argmax(axis=1).astype(np.int32)
        frequency = np.repeat(most[:, None], features, axis=1)
        return dict(zip(CANDIDATES, (panels[:, 2, 2], frequency, panels[:, 1, 2]), strict=True))

    def score(self, outputs: NDArray[Any]) -> Scores:
        """Scores of every member from its outputs [M, N, K, F], by their most likely symbols.

        A candidate's score is the share of features (over all held-out items) that are answered
        as it says; a feature may agree with several. `other` is the share of the most frequent
        difference to the rule's answer, modulo F, among those that agree with none. `seen` is the
        share of right features of the seen items.
        """
        said = np.asarray(outputs).argmax(axis=-1)  # [M, N, K]
        seen, held_out = said[:, : self.seen], said[:, self.seen :]
        answers = self.answers()
        matches = {name: held_out == answer for name, answer in answers.items()}
        unmatched = ~np.logical_or.reduce(list(matches.values()))
        difference = (held_out - answers["rule"]) % self.symbols
        other = [
            np.bincount(row[free], minlength=1).max()
            for row, free in zip(difference, unmatched, strict=True)
        ]
        right = seen == self.panels[: self.seen, 2, 2]
        scores = {name: match.mean(axis=(1, 2)) for name, match in matches.items()}
        return Scores(
            right.mean(axis=(1, 2)),
            scores,
            np.array(other, np.float64) / answers["rule"].size,
            {
                "ood_accuracy": matches["rule"].all(axis=2).mean(axis=1),
                "ood_feature_accuracy": scores["rule"],
                "seen_accuracy": right.all(axis=2).mean(axis=1),
            },
        )
