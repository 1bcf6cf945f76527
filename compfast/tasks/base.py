"""What the rest of the program knows of a task, and nothing else.

A task is one file: its Config, its batches, its exam and the candidate solutions that a verdict
may name. It is found by its name (compfast.config.plugins) and knows no engine and no report.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from compfast.config import EvaluationConfig, Ports, Prompts, TaskSection
from compfast.config.ports import Loss
from compfast.tasks.known_answers import KnownAnswers

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Inputs = Int32 | Float32
Targets = Int32 | Float32
Float64 = NDArray[np.float64]
Labels = NDArray[np.bool_] | NDArray[np.float64]
Settings = dict[str, Any]
Own = TypeVar("Own", bound=TaskSection)


@dataclass(frozen=True, slots=True)
class Scores:
    """What an exam says of members, each array [M], each number but a measure in [0, 1]."""

    seen: Float64  # how well a member does on what it was trained for, with test-side items
    candidates: dict[str, Float64]  # agreement with each candidate solution on the held-out group
    other: Float64  # the most frequent answer there that is no candidate's
    # What else tables say of a member, any numbers, by the names of the exam's `measures`.
    measures: Mapping[str, Float64] = field(default_factory=dict)


class Exam(Protocol):
    """One exam for all members and all times.

    It may have `measures`, names of more numbers that it gives (`measures_of`), and `labels`, what
    its items are made of (`labels_of`). One that reads sequences has `prompts`
    (`prompts_of`), whose tokens are its `inputs`. One that reads answers may have `known_answers`,
    the candidates' own to each item of a split (`known_answers_of`).
    """

    @property
    def inputs(self) -> Inputs:
        """Token ids [N, T], or vectors [N, T, width], of every split."""

    @property
    def splits(self) -> Mapping[str, slice]:
        """Rows of each split by name; none is empty."""

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the scores that may become a verdict, in the order of the tables."""

    @property
    def reads(self) -> Literal["answers", "outputs", "sequences"]:
        """What it scores: the likeliest next token [M, N], or outputs, logits [M, N, V], or the
        sequences [M, N, max_new] that follow its prompts, -1 where a row was told no further.

        Of a task of vectors, the likeliest symbol [M, N, asked] or outputs [M, N, asked, V]; of
        a masked one, at all T positions.
        """

    def score(self, told: NDArray[Any], /) -> Scores:
        """From what members say at the last positions of each input; members are independent."""


def measures_of(exam: Exam) -> tuple[str, ...]:
    """Names of the numbers that an exam gives beside its scores, columns of the tables."""
    names: tuple[str, ...] = getattr(exam, "measures", ())
    return names


def prompts_of(exam: Exam) -> Prompts:
    """What an exam that reads sequences has networks go on from."""
    found: Prompts = exam.prompts  # type: ignore[attr-defined]
    return found


def labels_of(exam: Exam) -> Mapping[str, Labels]:
    """What an exam's items are made of: name -> [N, places], for probes to look for in networks.

    Booleans, or numbers; numbers are NaN in the rows of items that have none.
    """
    found: Mapping[str, Labels] = getattr(exam, "labels", {})
    return found


def known_answers_of(exam: Exam) -> KnownAnswers | None:
    """What candidates answer to each held-out item; None where an exam does not say so."""
    found: KnownAnswers | None = getattr(exam, "known_answers", None)
    return found


class Task(ABC, Generic[Own]):
    """A generator of batches with named splits, and what a network could have learned from it.

    A subclass sets `Config`, `candidates`, `length` and `vocabulary` (or `width` and `outputs`:
    then it is a task of vectors), and defines `batch` and `exam`. Its constructor raises
    UsageError for a config that makes no task.
    """

    Config: ClassVar[type[TaskSection]]
    candidates: ClassVar[tuple[str, ...]]  # every solution that some exam of it may name
    # Settings by preset, the first one for a run that names the task alone; variants of [task].
    presets: ClassVar[Mapping[str, Settings]] = {}
    variants: ClassVar[Mapping[str, Settings]] = {}

    config: Own
    length: int  # T, positions of a sequence
    vocabulary: int = 0  # token ids needed by inputs, targets and candidate answers
    width: int = 0  # of a task of vectors: numbers a position
    outputs: int = 0  # of a task of vectors: numbers, or logits, asked for at a position
    asked: int = 1  # of a task of vectors: so many last positions have a target
    loss: Loss = "cross_entropy"
    masked: bool = False  # of tokens: every position has a target, or -1 where nothing is asked
    empty: int = 0  # of a task of vectors: tokens after the query's, which hold nothing
    causal: bool = False  # of tokens: later ones hold what is asked for, so none may be seen

    @abstractmethod
    def batch(self, seed: int, step: int, size: int) -> tuple[Any, Any]:
        """Inputs and targets of one training step: a function of the arguments alone.

        Token ids int32 [B, T] and targets int32 [B], or [B, T] where the task is masked; of a
        task of vectors float32 [B, T, width] and targets int32 [B, asked], or float32 [B, asked,
        outputs] for the squared error. The same numbers as the engines' own generator where
        `stream` gives them one.
        """

    @abstractmethod
    def exam(self, evaluation: EvaluationConfig) -> Exam:
        """The exam of `evaluation.eval_seed`; raises UsageError where a split would be empty."""

    @property
    def ports(self) -> Ports:
        """What goes into a network, and what is asked of it."""
        out = self.outputs if self.width else self.vocabulary
        asked = self.length if self.masked else self.asked
        return Ports(
            self.length,
            out,
            self.width,
            asked,
            self.masked,
            self.loss,
            self.empty,
            self.causal,
        )

    def stream(self) -> dict[str, Any] | None:
        """The record from which engines draw training batches themselves; None: from `batch`."""
        return None

    def check_batch(self, size: int) -> None:
        """Raise UsageError for a batch size that no step can draw."""
