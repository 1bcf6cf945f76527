"""SCAN: commands of a finite grammar, told as the actions that they mean.

Lake & Baroni 2018, arXiv 1711.00350; the split "turn left" as in Zhang et al. 2024, arXiv
2405.05409 ([Z24]). A sequence is `command SEP actions END`, of which the actions and END are asked
for. Other grammars come from a file (docs/scan.md).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from compfast.config import EvaluationConfig, Prompts, TaskSection
from compfast.config.section import check_seed, require
from compfast.errors import UsageError
from compfast.streams import philox
from compfast.tasks.base import Int32, Settings
from compfast.tasks.phrases import Int64, Language, Rows, constant, joined
from compfast.tasks.primitives import Primitive
from compfast.tasks.scan_exam import CANDIDATES, ScanExam
from compfast.tasks.scan_grammars import LONGEST, grammar_field, grammar_name, grammar_of
from compfast.tasks.scoring import some_rows
from compfast.tasks.table import TableDraws, TableTask

_MOST_REPEATS = 2**24


@dataclass(frozen=True, slots=True)
class ScanConfig(TaskSection):
    """arXiv 1711.00350, sections 2 to 4."""

    name: str = "scan"
    # scan, small (506 commands, ours), or a .toml file, whose content the field then holds.
    grammar: Annotated[str, grammar_field] = "scan"
    # simple: a random share is trained. length: commands of short answers are. primitive: of those
    # that have `held_out` in them, it alone is.
    split: Literal["simple", "length", "primitive"] = "primitive"
    train_share: float = 0.8  # of split simple
    split_seed: int = 0  # of split simple: which commands these are, the same for all members
    longest: int | None = (
        None  # of split length: most actions trained; None: 22 of scan, 5 of small
    )
    held_out: str = "turn left"  # of split primitive: a command by itself [Z24]; jump
    # Of split primitive: the share of what is drawn that is the phrase alone, again and again.
    bare_share: float = 0.1
    shuffled: bool = True  # epochs over what is trained; False: drawn with replacement

    def _check(self) -> None:
        for name in ("train_share", "bare_share"):
            value = getattr(self, name)
            require(0 < value < 1, f"task.{name} is {value}; it must be above 0 and below 1")
        check_seed("task.split_seed", self.split_seed)
        require(
            self.longest is None or self.longest >= 0,
            f"task.longest is {self.longest}; it must be at least 0",
        )
        require(
            self.split != "length" or self.longest is not None or self.grammar in LONGEST,
            "task.longest is none; split length of a grammar of your own needs it",
        )

    @property
    def most_actions(self) -> int:
        """Of split length: those of the longest trained answers."""
        return LONGEST[self.grammar] if self.longest is None else self.longest

    def describe(self, varied: frozenset[str]) -> str:
        """E.g. "scan, turn left held out"."""
        said = [self.name]
        if self.grammar != "scan" and "grammar" not in varied:
            said.append(grammar_name(self.grammar))
        if "split" in varied:
            return ", ".join(said)
        if self.split == "primitive" and "held_out" not in varied:
            said.append(f"{self.held_out} held out")
        if self.split == "simple" and "train_share" not in varied:
            said.append(f"{self.train_share:.4g} of the commands trained")
        if self.split == "length" and not {"longest", "grammar"} & varied:
            said.append(f"at most {self.most_actions} actions trained")
        return ", ".join(said)


# Ours, tried by hand: the form of [Z24]'s networks at a size for a CPU.
_MODEL: Settings = {
    "layers": 2,
    "d_model": 64,
    "heads": 4,
    "norm": "post",
    "loss_positions": "masked",
}


class ScanTask(TableTask[ScanConfig]):
    """Raises UsageError for an ambiguous grammar, and where either side of the split is empty."""

    Config = ScanConfig
    candidates = CANDIDATES
    masked = causal = True
    presets: ClassVar[Mapping[str, Settings]] = {
        "scan": {
            "model": _MODEL,
            "optimizer": {"lr": 1e-3, "weight_decay": 0.1},
            "training": {"steps": 12_000, "batch_size": 64, "log_every": 200, "eval_every": 4000},
        },
        "scan-small": {
            "task": {"grammar": "small"},
            "model": {**_MODEL, "d_model": 48},
            "optimizer": {"lr": 2e-3, "weight_decay": 0.1},
            "training": {"steps": 2000, "batch_size": 32, "eval_every": 500},
        },
    }
    variants: ClassVar[Mapping[str, Settings]] = {
        "simple": {"split": "simple"},
        "length": {"split": "length"},
        "jump": {"split": "primitive", "held_out": "jump"},
        "turn-left": {"split": "primitive", "held_out": "turn left"},
    }

    def __init__(self, config: ScanConfig) -> None:
        self.config = config
        self.language = _language(config.grammar)
        size = self.language.grammar.size
        self.sep = len(self.language.words)
        self.end = self.sep + 1
        self.vocabulary = self.end + 1 + len(self.language.actions)
        # Any prompt can be gone on from by as many tokens as the longest answer has.
        self.length = size.words + 1 + size.actions
        self.max_new = size.actions + 1
        self._primitive: Primitive | None = None
        self.trained, self.held_out, repeats = self._split()  # rows of the language's commands
        if not len(self.trained) or not len(self.held_out):
            raise UsageError(
                f"{config.describe(frozenset())}: {len(self.trained)} commands are trained and"
                f" {len(self.held_out)} are not; at least one of each is needed"
            )
        self.table = TableDraws(*self._sequences(self.trained), config.shuffled, repeats)

    def exam(self, evaluation: EvaluationConfig) -> ScanExam:
        """Trained and held-out commands: all of them, or as many as `evaluation` asks for.

        `eval_seed` chooses which where there are more.
        """
        seen, unseen = (
            own[some_rows(len(own), most, evaluation.eval_seed)]
            for own, most in (
                (self.trained, evaluation.seen_items),
                (self.held_out, evaluation.unseen_items),
            )
        )
        rows = np.concatenate([seen, unseen])
        right, words = self._told(self.language.answers(rows)), self._prompts(rows)
        return ScanExam(
            Prompts(self._filled(words), words.lengths.astype(np.int32), self.max_new, self.end),
            len(seen),
            right,
            self._others(unseen, right[len(seen) :]),
            self.config.most_actions if self.config.split == "length" else 0,
        )

    def _others(self, rows: Int64, right: Int32) -> dict[str, Int32]:
        """What commands would be answered if the held-out phrase were not composed: [K, N, ..] of
        each candidate, without those that say what another one does.
        """
        if self._primitive is None:
            return {}
        bare = self._told(self._primitive.bare(rows))
        found = {} if (bare == right).all() else {"bare": bare[None]}
        others = [self._told(answers) for answers in self._primitive.substituted(rows)]
        for answers in others:
            same = (answers == right).all(axis=1) | (answers == bare).all(axis=1)
            answers[same] = -2
        return {**found, "substituted": np.stack(others)} if others else found

    def _split(self) -> tuple[Int64, Int64, NDArray[Any] | None]:
        """Trained and held-out commands, and rows of the trained ones to draw from."""
        config, commands = self.config, self.language.commands
        count = len(commands.words)
        if config.split == "simple":
            order = philox.feistel(config.split_seed, 0, np.arange(count), count)
            trained = round(config.train_share * count)
            return order[:trained], order[trained:], None
        if config.split == "length":
            short = commands.meanings.lengths <= config.most_actions
            return np.flatnonzero(short), np.flatnonzero(~short), None
        self._primitive = Primitive(self.language, config.held_out)
        bare = self._primitive.command
        without = ~self._primitive.commands
        others = int(without.sum())
        repeats = max(1, round(others * config.bare_share / (1 - config.bare_share)))
        require(
            repeats <= _MOST_REPEATS,
            f"task.bare_share {config.bare_share} repeats {config.held_out!r} {repeats} times; at"
            f" most {_MOST_REPEATS} are taken",
        )
        without[bare] = True
        trained_rows = np.flatnonzero(without)
        again = np.full(repeats - 1, np.searchsorted(trained_rows, bare))
        order = np.concatenate([np.arange(len(trained_rows)), again])
        return trained_rows, np.flatnonzero(~without), order

    def _prompts(self, rows: Int64) -> Rows:
        words = self.language.commands.words.take(rows)
        return joined([words, constant([self.sep], len(rows))], len(rows))

    def _answers(self, answers: Rows) -> Rows:
        """Actions as tokens, then END."""
        tokens = Rows(answers.values + (self.end + 1), answers.lengths)
        return joined([tokens, constant([self.end], len(answers))], len(answers))

    def _sequences(self, rows: Int64) -> tuple[Int32, Int32]:
        """Tokens [N, T], and targets, -1 but where an action or END comes next."""
        prompts = self._prompts(rows)
        answers = self._answers(self.language.commands.meanings.take(rows))
        whole = joined([prompts, answers], len(rows))
        targets = self._filled(whole, self.length + 1, -1)[:, 1:].copy()
        targets[np.arange(self.length) < prompts.lengths[:, None] - 1] = -1
        return self._filled(whole, self.length + 1)[:, :-1], targets

    def _filled(self, rows: Rows, width: int | None = None, value: int | None = None) -> Int32:
        """As one array, with a value, END by default, past the end of each."""
        shown = rows.values.shape[1]
        filled = np.full(
            (len(rows), width or shown), self.end if value is None else value, np.int32
        )
        inside = np.arange(shown) < rows.lengths[:, None]
        filled[:, :shown][inside] = rows.values[inside]
        return filled

    def _told(self, answers: Rows) -> Int32:
        """What a network tells that answers so, [N, max_new]; -2 where it cannot tell as much."""
        fits = answers.lengths < self.max_new
        told = self._answers(Rows(answers.values, np.where(fits, answers.lengths, 0)))
        filled = self._filled(told, self.max_new, -1)
        filled[~fits] = -2
        return filled


@functools.lru_cache(maxsize=4)
def _language(grammar: str) -> Language:
    return Language(grammar_of(grammar))
