"""SCAN: its commands, its splits, what a sequence looks like, and what wrong answers are."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from compfast import _native
from compfast.config import EvaluationConfig, Ports, settings
from compfast.ensembles.grid import member_specs
from compfast.errors import UsageError
from compfast.models.families import resolve
from compfast.solutions import verdicts
from compfast.tasks import make_task, preset
from compfast.tasks.grammar import canonical
from compfast.tasks.phrases import Language
from compfast.tasks.scan import ScanConfig, ScanTask
from compfast.tasks.scan_exam import ScanExam
from compfast.tasks.scan_grammars import grammar_of

L, R, W, J = "I_TURN_LEFT", "I_TURN_RIGHT", "I_WALK", "I_JUMP"
LONG = EvaluationConfig(seen_items=10**5, unseen_items=10**5)


def scan(**fields: Any) -> ScanTask:
    task = make_task(ScanConfig(**fields))
    assert isinstance(task, ScanTask)
    return task


def names(task: ScanTask) -> list[str]:
    """What each token stands for."""
    return [*task.language.words, "SEP", "END", *task.language.actions]


def texts(task: ScanTask, rows: Any) -> list[str]:
    return [task.language.text("C", int(row)) for row in rows]


@pytest.mark.parametrize(
    ("command", "actions"),
    [
        ("walk", [W]),
        ("turn left", [L]),
        ("look right", [R, "I_LOOK"]),
        ("run twice", ["I_RUN"] * 2),
        ("turn right thrice", [R] * 3),
        ("jump opposite left", [L, L, J]),
        ("turn opposite right", [R, R]),
        ("walk around left", [L, W] * 4),
        ("turn around right", [R] * 4),
        ("walk left and jump twice", [L, W, J, J]),
        ("walk left after jump twice", [J, J, L, W]),
        ("jump around left twice after walk opposite right", [R, R, W, *[L, J] * 8]),
        ("look thrice and turn opposite left twice", ["I_LOOK"] * 3 + [L] * 4),
    ],
)
def test_meanings_by_hand(command: str, actions: list[str]) -> None:
    language = scan().language
    row = language.find("C", command)
    assert row is not None
    assert [language.actions[i] for i in language.meaning("C", row)] == actions


@pytest.mark.parametrize("command", ["left", "jump jump", "walk and", "walk " * 9, "hop", ""])
def test_what_is_no_command(command: str) -> None:
    assert scan().language.find("C", command) is None


def test_the_commands_are_all_of_them() -> None:
    language = scan().language
    assert language.grammar.size == (20_910, 9, 48)
    assert len({*texts(scan(), range(20_910))}) == 20_910
    assert {len(language.phrases[symbol].words) for symbol in "SVU"} == {102, 34, 4}
    small = Language(grammar_of("small"))
    assert small.grammar.size == (506, 7, 8)


@pytest.mark.parametrize(
    ("fields", "trained", "held_out", "drawn"),
    [
        ({"split": "simple"}, 16_728, 4_182, 16_728),
        ({"split": "length"}, 16_990, 3_920, 16_990),
        ({"held_out": "jump"}, 13_204, 7_706, 14_670),
        ({"held_out": "turn left"}, 19_702, 1_208, 21_890),
        ({"grammar": "small", "split": "length"}, 338, 168, 338),
        ({"grammar": "small", "held_out": "jump"}, 273, 233, 302),
        ({"grammar": "small", "held_out": "turn left"}, 421, 85, 467),
    ],
)
def test_counts_of_the_splits(
    fields: dict[str, Any], trained: int, held_out: int, drawn: int
) -> None:
    task = scan(**fields)
    assert (len(task.trained), len(task.held_out), task.table.rows) == (trained, held_out, drawn)
    assert len({*task.trained.tolist(), *task.held_out.tolist()}) == trained + held_out


def test_what_is_held_out() -> None:
    for phrase in ("jump", "turn left"):
        task = scan(held_out=phrase)
        held, trained = texts(task, task.held_out), texts(task, task.trained)
        assert all(f" {phrase} " in f" {text} " and text != phrase for text in held)
        assert [text for text in trained if f" {phrase} " in f" {text} "] == [phrase]
        order = task.table.order
        assert order is not None
        bare = trained.index(phrase)
        assert (order == bare).sum() * 10 == len(order)
        assert np.array_equal(np.unique(order), np.arange(len(trained)))
    task = scan(split="length")
    lengths = task.language.commands.meanings.lengths
    assert lengths[task.trained].max() == 22
    assert lengths[task.held_out].min() == 24


def test_the_simple_split_is_its_own_seeds() -> None:
    one, same, other = (
        ScanTask(ScanConfig(grammar="small", split="simple", split_seed=seed)).trained
        for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same)
    assert set(one) != set(other)
    assert len(scan(grammar="small", split="simple", train_share=0.5).trained) == 253


def test_a_sequence_says_the_actions_and_where_they_end() -> None:
    task = scan(grammar="small", held_out="jump")
    tokens, targets = task.batch(1, 2, 300)
    name = names(task)
    assert tokens.shape == targets.shape == (300, task.length) == (300, 16)
    assert tokens.dtype == targets.dtype == np.int32
    for row, asked in zip(tokens, targets, strict=True):
        places = np.flatnonzero(asked >= 0)
        said = [name[i] for i in row]
        sep = said.index("SEP")
        assert places.tolist() == list(range(sep, places[-1] + 1))
        told = [name[i] for i in asked[places]]
        assert told[-1] == "END"
        assert said[sep + 1 : places[-1] + 1] == told[:-1]
        assert set(said[places[-1] + 1 :]) <= {"END"}
        found = task.language.find("C", " ".join(said[:sep]))
        assert found is not None
        assert [task.language.actions[i] for i in task.language.meaning("C", found)] == told[:-1]


@pytest.mark.parametrize("shuffled", [True, False])
def test_batches_are_those_of_cpp(shuffled: bool, native_extension: None) -> None:
    for split in ({"held_out": "jump"}, {"split": "simple"}):
        task = scan(grammar="small", shuffled=shuffled, **split)
        last = task.table.rows // 32
        for seed, step in ((0, 0), (2**40 + 3, last - 1), (7, last), (7, 3 * last + 1)):
            found = _native.task_batch(task.stream(), seed, step, 32)
            for own, wanted in zip(found, task.batch(seed, step, 32), strict=True):
                assert own.dtype == np.int32
                assert np.array_equal(own, wanted)


def test_an_epoch_repeats_the_bare_phrase() -> None:
    task = scan(grammar="small", held_out="jump")
    _, targets = task.batch(5, 0, task.table.rows)
    asked = (targets >= 0).sum(axis=1)
    jump = names(task).index(J)
    alone = (asked == 2) & (targets.max(axis=1) == jump)
    assert alone.sum() == 30


def test_prompts_are_commands() -> None:
    task = scan(held_out="jump")
    exam = task.exam(EvaluationConfig(seen_items=50, unseen_items=30))
    prompts, name = exam.prompts, names(task)
    assert exam.reads == "sequences"
    assert exam.inputs is prompts.tokens
    assert (prompts.max_new, prompts.end) == (49, task.end)
    assert prompts.tokens.shape == (80, 10)
    assert exam.splits == {"seen": slice(0, 50), "unseen": slice(50, 80)}
    trained, held = (set(texts(task, rows)) for rows in (task.trained, task.held_out))
    for i, (row, length) in enumerate(zip(prompts.tokens, prompts.lengths, strict=True)):
        *command, sep = (name[token] for token in row[:length])
        assert sep == "SEP"
        assert " ".join(command) in (trained if i < 50 else held)
    other = task.exam(EvaluationConfig(seen_items=50, unseen_items=30, eval_seed=1))
    assert not np.array_equal(other.inputs, exam.inputs)


@functools.cache
def whole(task: ScanTask) -> tuple[ScanExam, list[str]]:
    """The exam of all commands, and which these are."""
    return task.exam(LONG), texts(task, [*task.trained, *task.held_out])


def exam_of(task: ScanTask, command: str) -> ScanExam:
    """The exam of one held-out command, after a trained one."""
    exam, asked = whole(task)
    row = asked.index(command)
    others = {name: own[:, [row - exam.seen]] for name, own in exam.others.items()}
    return ScanExam(exam.prompts, 1, exam.right[[0, row]], others, exam.cut)


def told(task: ScanTask, exam: ScanExam, actions: str) -> np.ndarray[Any, Any]:
    row = np.full(exam.prompts.max_new, -1, np.int32)
    ids = [names(task).index(name) for name in [*actions.split(), "END"]]
    row[: len(ids)] = ids
    return row


@pytest.mark.parametrize(
    ("phrase", "command", "bare", "substituted"),
    [
        ("jump", "jump around left", J, f"{L} I_LOOK " * 4),
        ("jump", "walk and jump opposite right thrice", f"{W} {J}", f"{W} " + f"{R} {R} {W} " * 3),
        ("jump", "jump twice after jump left", f"{J} {J}", f"{L} I_RUN I_RUN I_RUN"),
        ("jump", "jump and walk", f"{J} {W}", f"{W} {W}"),
        ("turn left", "turn left twice", L, f"{R} {R}"),
        ("turn left", "jump left after turn left thrice", f"{L} {L} {J}", f"{R} {R} {R} {L} {J}"),
        ("turn left", "turn left twice and walk", f"{L} {W}", f"{L} {J} {L} {J} {W}"),
    ],
)
def test_candidates_by_hand(phrase: str, command: str, bare: str, substituted: str) -> None:
    task = scan(held_out=phrase)
    exam = exam_of(task, command)
    assert exam.telling.all() == (command != "jump and walk")
    answers = {"bare": told(task, exam, bare), "substituted": told(task, exam, substituted)}
    for name, answer in answers.items():
        assert any(np.array_equal(answer, own[0]) for own in exam.others[name])
    if not exam.telling.all():
        assert np.array_equal(answers["bare"], exam.right[1])
        return
    answers["compositional"] = exam.right[1]
    answers["none"] = told(task, exam, f"{W} {W} {W} {W}")
    said = np.stack([np.stack([exam.right[0], answer]) for answer in answers.values()])
    scores = exam.score(said)
    for i, name in enumerate(answers):
        given = {candidate: own[i] for candidate, own in scores.candidates.items()}
        assert given == {candidate: float(candidate == name) for candidate in given}
        assert scores.other[i] == (name == "none")
        assert scores.measures["exact"][i] == (name == "compositional")


def test_substituted_phrases_are_trained_ones_of_the_same_kind() -> None:
    task = scan(held_out="turn left")
    exam = exam_of(task, "turn left thrice")
    own = exam.others["substituted"][:, 0]
    wanted = [f"{L} I_WALK ", f"{L} I_LOOK ", f"{L} I_RUN ", f"{L} {J} ", f"{R} "]
    assert {answer.tobytes() for answer in own} == {
        told(task, exam, 3 * actions).tobytes() for actions in wanted
    }
    assert len(whole(scan(held_out="jump"))[0].others["substituted"]) == 3


def test_a_phrase_without_its_like_is_never_substituted() -> None:
    phrases = ["<A> -> <1>", "<A> twice -> <1> <1>", "b b -> B"]
    alone = {"start": "C", "rules": {"C": phrases, "A": ["a -> A"]}}
    task = scan(grammar=canonical("task.grammar", alone), held_out="a")
    assert task.exam(LONG).candidates == ("compositional", "bare")


@pytest.mark.parametrize(
    ("fields", "answers", "verdict"),
    [
        ({"held_out": "turn left"}, "right", "compositional"),
        ({"held_out": "turn left"}, "bare", "bare"),
        ({"held_out": "jump"}, "bare", "bare"),
        ({"held_out": "jump"}, "substituted", "substituted"),
        ({"split": "length"}, "cut", "cut"),
        ({"split": "length"}, "right", "compositional"),
        ({"split": "simple"}, "wrong", "other"),
        ({"split": "simple"}, "right", "compositional"),
    ],
)
def test_verdicts(fields: dict[str, Any], answers: str, verdict: str) -> None:
    task = scan(grammar="small", **fields)
    exam = task.exam(LONG)
    said = exam.right.copy()
    held = said[exam.seen :]
    if answers in exam.others:
        held[:] = exam.others[answers][0]
    if answers == "cut":
        held[:, 5:] = -1
        held[:, 5] = task.end
    if answers == "wrong":
        held[:] = -1
    scores = exam.score(np.stack([said, np.full_like(said, -1)]))
    labels = verdicts(scores, EvaluationConfig(), np.zeros(2, np.bool_))
    assert labels.tolist() == [verdict, "underfit"]
    assert scores.seen.tolist() == [1.0, 0.0]
    assert set(exam.candidates) == {*scores.candidates} <= set(task.candidates)


def test_a_cut_answer_is_a_beginning_no_longer_than_what_was_trained() -> None:
    task = scan(split="length")
    exam = exam_of(task, "walk around left thrice")
    steps = [L, W] * 12
    for actions, cut in (
        (steps[:22], 1),
        (steps[:21], 1),
        (steps[:1], 1),
        ([], 0),
        (steps[:23], 0),  # no trained answer is as long
        ([R, *steps[1:22]], 0),
    ):
        said = np.full((1, *exam.right.shape), -1, np.int32)
        said[0, 1] = told(task, exam, " ".join(actions))
        assert exam.score(said).candidates["cut"][0] == cut
    said[0, 1] = exam.right[1, 1]  # and never an END
    said[0, 1, :22] = exam.right[1, :22]
    assert exam.score(said).candidates["cut"][0] == 0


def test_measures_and_the_most_frequent_other_answer() -> None:
    task = scan(held_out="jump")
    exam, _ = whole(task)
    held, actions = exam.right[exam.seen :], (exam.right[exam.seen :] != -1).sum(axis=1) - 1
    said = exam.right.copy()
    said[exam.seen :][actions > 16] = told(task, exam, R)  # wrong at once, or after a turn
    said[exam.seen :][actions == 16, 0] = task.end  # wrong at once, each otherwise
    scores = exam.score(said[None])
    assert scores.measures["exact"][0] == (actions < 16).mean()
    measures = {name: float(values[0]) for name, values in scores.measures.items()}
    assert measures["exact_to_8"] == 1
    inside = (actions >= 9) & (actions <= 16)
    assert measures["exact_to_16"] == pytest.approx(1 - (actions == 16).sum() / inside.sum())
    assert measures["exact_to_24"] == measures["exact_over_24"] == 0
    turned = (held[actions > 16, 0] == names(task).index(R)) / (actions[actions > 16] + 1)
    wrong = (actions >= 16).sum()
    assert measures["first_wrong"] == pytest.approx(turned.sum() / wrong)
    free = exam.telling & (actions > 16)
    assert scores.other[0] == free.sum() / exam.telling.sum()


def test_bands_without_an_answer_are_nan() -> None:
    exam, _ = whole(scan(split="length"))
    measures = exam.score(exam.right[None]).measures
    assert np.isnan(measures["exact_to_8"][0])
    assert measures["exact_over_24"][0] == measures["first_wrong"][0] == 1


def test_networks_must_not_see_what_is_asked() -> None:
    data = settings.apply(preset("scan-small"), {"model": {"causal": False}})
    with pytest.raises(UsageError, match=r"model\.causal is false; .* needs model\.causal = true"):
        member_specs(settings.from_dict(data))
    ports = scan().ports
    assert ports == Ports(58, 21, asked=58, masked=True, causal=True)
    model = settings.from_dict(preset("scan")).model
    assert resolve(model, ports).vocab_size == 32


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"held_out": "left"}, "task.held_out is 'left'; it must be a command of task.grammar"),
        ({"held_out": ""}, "task.held_out is ''"),
        ({"split": "length", "longest": 48}, "20910 commands are trained and 0 are not"),
        ({"split": "length", "longest": 0}, "0 commands are trained and 20910 are not"),
        ({"split": "simple", "train_share": 1e-6}, "0 commands are trained"),
        ({"train_share": 1.0}, "task.train_share is 1.0; it must be above 0 and below 1"),
        ({"bare_share": 0.0}, "task.bare_share is 0.0"),
        ({"bare_share": 0.99999999}, "repeats 'turn left' 1970099"),
        ({"longest": -1}, "task.longest is -1"),
        ({"split": "jump"}, "it must be one of simple, length, primitive"),
        ({"split_seed": -1}, "task.split_seed is -1"),
    ],
)
def test_fields_that_make_no_task(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        scan(**fields)


def test_captions() -> None:
    none: frozenset[str] = frozenset()
    assert ScanConfig().describe(none) == "scan, turn left held out"
    assert ScanConfig(split="length").describe(none) == "scan, at most 22 actions trained"
    small = ScanConfig(grammar="small", split="simple")
    assert small.describe(none) == "scan, small, 0.8 of the commands trained"
    assert small.describe(frozenset({"grammar", "split"})) == "scan"
