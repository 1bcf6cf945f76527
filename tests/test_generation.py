"""`run.generate`, and tasks whose exam reads the sequences that networks tell."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from greedy_oracle import check_told
from numpy.typing import NDArray
from small_runs import assert_same_run, interrupted_at, resumed

import compfast
from compfast.config import (
    Config,
    EvaluationConfig,
    Prompts,
    RunConfig,
    TaskSection,
    TrainingConfig,
)
from compfast.errors import UsageError
from compfast.streams import philox
from compfast.tasks.base import Scores, Task

SYMBOLS, SEP, END = 4, 4, 5
LENGTH = 10  # up to four symbols, SEP, as many again, END

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class BackwardsConfig(TaskSection):
    name: str = "test_generation:BackwardsTask"


@dataclass(frozen=True, slots=True, eq=False)
class BackwardsExam:
    """Whether a word is told backwards, or as it stands; `measures` has the share of first
    symbols that are right.
    """

    prompts: Prompts
    backwards: Array  # [N, 5], END behind, then -1
    forwards: Array
    reads: ClassVar[Literal["sequences"]] = "sequences"
    candidates = ("backwards", "forwards")
    measures = ("first",)

    @property
    def inputs(self) -> Array:
        return self.prompts.tokens

    @property
    def splits(self) -> dict[str, slice]:
        return {"all": slice(0, len(self.prompts.tokens))}

    def score(self, told: Array) -> Scores:
        assert told.shape[1:] == self.backwards.shape
        right, same = (
            (told == wanted).all(2).mean(1) for wanted in (self.backwards, self.forwards)
        )
        first = (told[:, :, 0] == self.backwards[:, 0]).mean(1)
        candidates = {"backwards": right, "forwards": same}
        return Scores(np.ones(len(told)), candidates, np.zeros(len(told)), {"first": first})


class BackwardsTask(Task[BackwardsConfig]):
    """A word, SEP, the word backwards, END; what follows SEP is asked for."""

    Config = BackwardsConfig
    candidates = ("backwards", "forwards")
    length, vocabulary, masked = LENGTH, 6, True

    def __init__(self, config: BackwardsConfig) -> None:
        self.config = config

    def batch(self, seed: int, step: int, size: int) -> tuple[Array, Array]:
        words = philox.words(seed, philox.TRAIN, step, 0, 0, size * 8).reshape(size, 8)
        whole, sizes, _ = _packed(words)
        tokens, following = whole[:, :-1], whole[:, 1:].copy()
        at = np.arange(LENGTH)
        following[(at < sizes[:, None]) | (at > 2 * sizes[:, None])] = -1
        return tokens, following

    def exam(self, evaluation: EvaluationConfig) -> BackwardsExam:
        words = philox.words(evaluation.eval_seed, philox.EVAL, 0, 0, 0, 40 * 8).reshape(40, 8)
        whole, sizes, letters = _packed(words)
        prompts = Prompts(whole[:, :5].copy(), (sizes + 1).astype(np.int32), 5, END)
        told = [
            [
                [*(row[:n][::way]), END, *[-1] * (4 - n)]
                for row, n in zip(letters, sizes, strict=True)
            ]
            for way in (-1, 1)
        ]
        return BackwardsExam(prompts, *(np.array(each, np.int32) for each in told))


def _packed(words: Array) -> tuple[Array, Array, Array]:
    """Rows of LENGTH + 1 tokens, letters a row, the letters [N, 4]."""
    letters = philox.integers(words[:, :4], SYMBOLS).astype(np.int32)
    sizes = philox.integers(words[:, 4], 4).astype(np.int32) + 1
    whole = np.zeros((len(words), LENGTH + 1), np.int32)
    for row, own, n in zip(whole, letters, sizes, strict=True):
        row[: 2 * n + 2] = [*own[:n], SEP, *own[:n][::-1], END]
    return whole, sizes, letters


def config_of(steps: int = 40) -> Config:
    return Config(
        task=BackwardsConfig(),
        model={"d_model": 16, "layers": 1, "loss_positions": "masked"},
        training=TrainingConfig(steps=steps, batch_size=8, log_every=10, eval_every=20),
        run=RunConfig(engine="native", threads=1, checkpoint_every=10, snapshots=(20,)),
        sweep=(("model.heads", (1, 2)), ("seed", (0, 1))),
    )


EAGER = RunConfig(engine="eager", threads=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, native_extension: None) -> Any:
    return compfast.train(config_of(), tmp_path_factory.mktemp("told") / "run")


def test_an_exam_of_sequences_gives_verdicts(run: Any) -> None:
    assert run.finished
    assert set(run.members.columns) >= {"verdict", "backwards", "forwards", "first"}
    assert run.members["verdict"].null_count() == 0
    exam = BackwardsTask(BackwardsConfig()).exam(EvaluationConfig())
    told = run.generate([0, 1, 2, 3], exam.prompts.tokens, 5, end=END)
    assert told.shape == (4, 40, 5)
    own = [list(t[:n]) for t, n in zip(exam.prompts.tokens, exam.prompts.lengths, strict=True)]
    scores = exam.score(run.generate([0, 1, 2, 3], own, 5, end=END))
    assert scores.measures["first"].tolist() == run.members["first"].to_list()
    assert scores.candidates["backwards"].tolist() == run.members["backwards"].to_list()


def test_a_run_that_was_stopped_goes_on_with_its_exams(run: Any, tmp_path: Path) -> None:
    interrupted_at(tmp_path / "stopped", config_of(), 20)
    assert_same_run(resumed(tmp_path / "stopped", threads=2), run)


def test_eager_examines_alike(tmp_path: Path) -> None:
    config = dataclasses.replace(config_of(steps=1), sweep=(("seed", (0,)),))
    run = compfast.train(dataclasses.replace(config, run=EAGER), tmp_path / "run")
    assert run.members["verdict"].null_count() == 0


@pytest.mark.slow
def test_words_are_learned(native_extension: None, tmp_path: Path) -> None:
    run = compfast.train(config_of(steps=4000), tmp_path / "run")
    assert max(run.members["backwards"].to_list()) > 0.9
    assert "backwards" in run.members["verdict"].to_list()


PROMPTS = [[0, 1, SEP], [3, SEP], [2, 2, 1, 0, SEP]]


def test_members_of_several_shapes_in_any_order(run: Any) -> None:
    told = run.generate([3, 0, 3, 2], PROMPTS, 5)
    assert told.dtype == np.int32
    assert told.shape == (4, 3, 5)
    for row, member in enumerate((3, 0, 3, 2)):
        np.testing.assert_array_equal(run.generate(member, PROMPTS, 5), told[row])
        spec = next(s for group in run.groups for s in group if s.member == member)
        tokens = np.array([[*p, *[0] * (5 - len(p))] for p in PROMPTS])
        prompts = Prompts(tokens, np.array([3, 2, 5]), 5)
        check_told(spec.model, run.params(member), prompts, told[row])
    np.testing.assert_array_equal(run.generate(0, PROMPTS[::-1], 5), told[1, ::-1])
    np.testing.assert_array_equal(run.generate(0, PROMPTS, 5, engine="eager"), told[1])
    np.testing.assert_array_equal(run.generate(np.int64(0), PROMPTS, 3), told[1, :, :3])


def test_a_snapshot_and_an_array_of_prompts(run: Any) -> None:
    tokens = np.array([[0, 1, SEP], [2, 3, SEP]])
    told = run.generate(1, tokens, 4, step=20, end=END)
    spec = run.groups[0][1]
    prompts = Prompts(tokens, np.array([3, 3]), 4, END)
    check_told(spec.model, run.params(1, 20), prompts, told)
    np.testing.assert_array_equal(told, run.generate(1, tokens.tolist(), 4, step=20, end=END))


WRONG: dict[str, tuple[tuple[Any, Any, Any], dict[str, Any], str]] = {
    "nobody": (([], PROMPTS, 2), {}, "members is empty; at least one is needed"),
    "stranger": ((4, PROMPTS, 2), {}, "member 4 is not in .*; it holds 0 to 3"),
    "no_number": ((1.5, PROMPTS, 2), {}, r"members is 1\.5; it must be a member or several"),
    "nothing": ((0, [], 2), {}, "there is no prompt; at least one is needed"),
    "empty": ((0, [[1], []], 2), {}, "prompt 1 is empty; a prompt has at least one token"),
    "flat": ((0, [1, 2], 2), {}, "prompt 0 is 1; it must be a list of tokens, whole numbers"),
    "text": ((0, ["walk"], 2), {}, "prompt 0 is 'walk'; it must be a list of tokens"),
    "ragged": ((0, [[[1], [1, 2]]], 2), {}, "it must be a list of tokens, whole numbers"),
    "no_list": ((0, 7, 2), {}, r"prompts is 7; they must be lists of tokens or an array \[N, P\]"),
    "flat_array": ((0, np.ones(3, int), 2), {}, r"prompts have shape \(3,\); \[N, P\] is needed"),
    "token": ((0, [[1, 16]], 2), {}, r"prompts reach from 1 to 16; they must be in 0\.\.15"),
    "end": ((0, PROMPTS, 2), {"end": -1}, "end is -1; it must be a token, or None"),
    "step": ((0, PROMPTS, 2), {"step": 7}, "no snapshot of step 7; it has 20"),
    "engine": ((0, PROMPTS, 2), {"engine": "fast"}, "engine is 'fast'; it must be one of"),
    "cuda": ((0, PROMPTS, 2), {"engine": "cuda"}, "cuda"),
    "long": ((0, PROMPTS, 7), {}, "take 11 positions; this model has 10"),
    "new": ((0, PROMPTS, 2.0), {}, r"max_new is 2\.0; it must be a whole number"),
}


@pytest.mark.edge(
    "`run.generate` with what is no member, prompt or token", "one sentence says which"
)
@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_told(run: Any, name: str) -> None:
    arguments, extra, sentence = WRONG[name]
    with pytest.raises(UsageError, match=sentence):
        run.generate(*arguments, **extra)


@pytest.mark.parametrize(
    ("engine", "words"), [("cuda", "does not go on from prompts"), ("triton", "")]
)
def test_a_run_of_an_engine_that_cannot_here(run: Any, engine: str, words: str) -> None:
    trained = compfast.load(run.path)
    trained.info["engine"] = engine
    with pytest.raises(UsageError, match=rf'{words}.*engine="native".*engine="eager"'):
        trained.generate(0, PROMPTS, 2)
    assert trained.generate(0, PROMPTS, 2, engine="native").shape == (3, 2)


@pytest.mark.edge(
    "an exam of sequences for a network that sees what follows", "refused before a folder is made"
)
def test_a_network_that_cannot_take_the_exam(native_extension: None, tmp_path: Path) -> None:
    config = config_of()
    model = dataclasses.replace(config.model, causal=False)
    with pytest.raises(UsageError, match=r"model\.causal is false"):
        compfast.train(dataclasses.replace(config, model=model), tmp_path / "run")
    assert not (tmp_path / "run").exists()
