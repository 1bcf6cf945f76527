"""What every shipped task promises, and how a task of a user's own is found."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compfast
from compfast import ensemble
from compfast.config import Config, EvaluationConfig, ModelConfig, plugins, settings
from compfast.config.plugins import known_tasks, task_class
from compfast.ensembles.grid import member_specs
from compfast.errors import UsageError
from compfast.tasks import Task, make_task, preset, start_of

OWN = """
    from __future__ import annotations

    from dataclasses import dataclass

    import numpy as np

    from compfast.config import TaskSection
    from compfast.streams import philox
    from compfast.tasks.base import Task
    from compfast.tasks.scoring import AnswerExam


    @dataclass(frozen=True, slots=True)
    class LastConfig(TaskSection):
        name: str = "own_last:LastTask"
        items: int = 8


    class LastTask(Task[LastConfig]):
        \"\"\"The target is the last token.\"\"\"

        Config = LastConfig
        candidates = ("last",)
        length = 4

        def __init__(self, config):
            self.config = config
            self.vocabulary = config.items

        def batch(self, seed, step, size):
            words = philox.words(seed, philox.TRAIN, step, 0, 0, size * 4)
            tokens = philox.integers(words, self.config.items).astype(np.int32).reshape(size, 4)
            return tokens, tokens[:, -1].copy()

        def exam(self, evaluation):
            tokens, targets = self.batch(2**40 + evaluation.eval_seed, 0, 20)
            return AnswerExam(
                tokens, slice(0, 10), slice(10, 20), targets[:10], {"last": targets[10:]}
            )
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A task in a module of the user's own."""
    (tmp_path / "own_last.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_last", raising=False)
    return "own_last:LastTask"


def _task(name: str) -> Task[Any]:
    return make_task(Config(task={"name": name}).task)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", known_tasks())
def test_batches_are_functions_of_seed_and_step(name: str) -> None:
    task = _task(name)
    tokens, targets = task.batch(3, 5, 16)
    again = task.batch(3, 5, 16)
    assert tokens.shape == (16, task.length)
    assert targets.shape == (16,)
    assert tokens.dtype == targets.dtype == np.int32
    assert (tokens == again[0]).all()
    assert (targets == again[1]).all()
    assert (task.batch(4, 5, 16)[0] != tokens).any()
    assert (task.batch(3, 6, 16)[0] != tokens).any()
    for array in (tokens, targets):
        assert array.min() >= 0
        assert array.max() < task.vocabulary


@pytest.mark.parametrize("name", known_tasks())
def test_the_exam_scores_members_apart(name: str) -> None:
    task = _task(name)
    exam = task.exam(EvaluationConfig(seen_items=60, unseen_items=40))
    assert set(exam.candidates) <= set(task.candidates)
    assert exam.tokens.shape[1] == task.length
    assert all(len(range(*rows.indices(len(exam.tokens)))) for rows in exam.splits.values())
    rng = np.random.default_rng(0)
    answers = rng.integers(0, task.vocabulary, (5, len(exam.tokens)))
    together = exam.score(answers)
    for member in range(5):
        alone = exam.score(answers[member : member + 1])
        assert alone.seen[0] == together.seen[member]
        assert alone.other[0] == together.other[member]
        for candidate, values in together.candidates.items():
            assert 0 <= values[member] <= 1
            assert alone.candidates[candidate][0] == values[member]


@pytest.mark.parametrize("name", known_tasks())
def test_no_held_out_item_is_trained(name: str) -> None:
    task = _task(name)
    exam = task.exam(EvaluationConfig(seen_items=60, unseen_items=200))
    held_out = {row.tobytes() for row in exam.tokens[exam.splits["unseen"]]}
    for step in range(20):
        tokens, _ = task.batch(1, step, 400)
        assert not held_out & {row.tobytes() for row in tokens}


@pytest.mark.parametrize("name", known_tasks())
def test_every_preset_makes_members(name: str) -> None:
    for given in (start_of(name), *map(preset, task_class(name).presets)):
        config = settings.from_dict(given)
        assert config.task.name == name
        assert member_specs(config)
        assert settings.from_dict(settings.to_dict(config)) == config
        assert config.task.describe(frozenset()).startswith(name)


def test_a_task_of_ones_own_trains_and_loads(own: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ["--task", own, "--models", "4", "--gamma-range", "0.3:0.9", "--steps", "30"]
    flags += ["--layers", "1", "--d-model", "8", "--heads", "1", "--batch-size", "8"]
    flags += ["--set", "task.items=6", "--engine", "eager", "--eval-every", "10", "--quiet"]
    assert ensemble.main([*flags, "--out", str(run)]) == 0
    loaded = compfast.load(run)
    assert loaded.config.task.name == own
    assert loaded.members["items"].to_list() == [6] * 4
    assert loaded.members["last"].null_count() == 0
    assert (run / "report" / "index.html").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--task", "modulr"], ["task.name is 'modulr'", "modular", "package.module:Class"]),
        (["--task", "nowhere.at:All"], ["nowhere.at:All", "cannot be imported"]),
        (["--task", "math:sin"], ["math:sin", "no class with a Config"]),
        (["--task", "modular", "--seq-len", "5"], ["seq_len", "task modular"]),
        (["--task", "modular", "--preset", "replica"], ["--preset replica", "task anchor"]),
        (["--task", "modular", "--variant", "standard"], ["--variant", "modular", "none"]),
        (["--set", "task.name=modular", "--set", "task.anchors=[1,2]"], ["anchors", "modular"]),
        (["--task", "modular", "--set", "task.train_share=1"], ["train_share is 1.0"]),
        (["--task", "affine", "--set", "task.modulus=30"], ["modulus is 30", "prime"]),
    ],
)
def test_what_no_task_takes_is_one_sentence(
    flags: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--models", "4", "--gamma-range", "0.3:0.9", "--dry-run", *flags]
    assert ensemble.main(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for word in words:
        assert word in said


def test_installed_packages_bring_tasks(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    group = plugins.TASKS
    entries = [metadata.EntryPoint("last", own, group)]
    monkeypatch.setattr(metadata, "entry_points", lambda group: entries)
    assert "last" in known_tasks()
    assert task_class("last").__name__ == "LastTask"

    entries.append(metadata.EntryPoint("anchor", own, group))
    with pytest.raises(UsageError, match=r"anchor' is claimed by compfast\.tasks\.anchor and by"):
        task_class("anchor")


def test_a_section_of_another_task_is_refused() -> None:
    modular = task_class("modular").Config
    with pytest.raises(UsageError, match="another task's"):
        Config(task=modular(name="anchor"))
    with pytest.raises(UsageError, match=r"sweep\.task\.name"):
        Config(sweep=(("task.name", ("anchor", "modular")),))


def test_every_field_of_a_task_can_be_swept() -> None:
    config = Config(
        task=task_class("modular").Config(),
        model=ModelConfig(d_model=8),
        sweep=(("task.operation", ("add", "squares")), ("task.train_share", (0.3, 0.6))),
    )
    specs = member_specs(config)
    found = {(s.task.operation, s.task.train_share) for s in specs}  # type: ignore[attr-defined]
    assert found == {("add", 0.3), ("add", 0.6), ("squares", 0.3), ("squares", 0.6)}
    assert all(dataclasses.is_dataclass(s.task) for s in specs)
