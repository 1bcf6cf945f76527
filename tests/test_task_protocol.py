"""What every shipped task promises, and how a task of a user's own is found."""

from __future__ import annotations

import dataclasses
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import example

import compfast
from compfast import ensemble
from compfast.config import Config, EvaluationConfig, ModelConfig, plugins, settings
from compfast.config.plugins import known_tasks, task_class
from compfast.ensembles.grid import member_specs
from compfast.errors import UsageError
from compfast.tasks import Task, make_task, measures_of, preset, start_of


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The task of docs/tasks.md, in a module of the user's own."""
    found = example("tasks.md", "class SumsTask")
    assert found.count("\n") <= 45
    (tmp_path / "sums.py").write_text(found)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sums", raising=False)
    return "sums:SumsTask"


def _task(name: str) -> Task[Any]:
    return make_task(Config(task={"name": name}).task)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", known_tasks())
def test_batches_are_functions_of_seed_and_step(name: str) -> None:
    task = _task(name)
    inputs, targets = task.batch(3, 5, 16)
    again = task.batch(3, 5, 16)
    ports = task.ports
    vectors, numbers = ports.width > 0, ports.loss == "squared_error"
    assert inputs.shape == ((16, ports.length, ports.width) if vectors else (16, ports.length))
    wanted = (16, ports.asked, ports.vocabulary) if numbers else (16, ports.asked)
    assert targets.shape == (wanted if ports.several else (16,))
    assert inputs.dtype == (np.float32 if vectors else np.int32)
    assert targets.dtype == (np.float32 if numbers else np.int32)
    assert (inputs == again[0]).all()
    assert (targets == again[1]).all()
    assert (task.batch(4, 5, 16)[0] != inputs).any()
    assert (task.batch(3, 6, 16)[0] != inputs).any()
    for array in (inputs, targets):
        assert np.isfinite(array).all()
        if array.dtype == np.int32:
            assert array.min() >= (-1 if ports.masked and array is targets else 0)
            assert array.max() < ports.vocabulary


@pytest.mark.parametrize("name", known_tasks())
def test_the_exam_scores_members_apart(name: str) -> None:
    task = _task(name)
    exam = task.exam(EvaluationConfig(seen_items=60, unseen_items=40))
    assert set(exam.candidates) <= set(task.candidates)
    told = getattr(exam, "prompts", None)
    assert (exam.reads == "sequences") == (told is not None)
    assert told is not None or exam.inputs.shape[1] == task.length
    assert all(len(range(*rows.indices(len(exam.inputs)))) for rows in exam.splits.values())
    rng = np.random.default_rng(0)
    ports = task.ports
    asked = (5, len(exam.inputs), *([ports.asked] if ports.width else []))
    if told is not None:
        assert told.tokens.shape[1] + told.max_new - 1 <= task.length
        asked = (*asked, told.max_new)
    answers: Any = rng.integers(0, ports.vocabulary, asked)
    if exam.reads == "outputs":
        answers = rng.normal(size=(*asked, ports.vocabulary))
    together = exam.score(answers)
    for member in range(5):
        alone = exam.score(answers[member : member + 1])
        assert alone.seen[0] == together.seen[member]
        assert alone.other[0] == together.other[member]
        for candidate, values in together.candidates.items():
            assert 0 <= values[member] <= 1
            assert alone.candidates[candidate][0] == values[member]
        for name in measures_of(exam):
            pair = alone.measures[name][0], together.measures[name][member]
            assert pair[0] == pair[1] or np.isnan(pair).all()


@pytest.mark.parametrize("name", known_tasks())
def test_no_held_out_item_is_trained(name: str) -> None:
    task = _task(name)
    exam = task.exam(EvaluationConfig(seen_items=60, unseen_items=200))
    told = getattr(exam, "prompts", None)
    ends = [exam.inputs.shape[1]] * len(exam.inputs) if told is None else told.lengths
    rows = range(*exam.splits["unseen"].indices(len(exam.inputs)))
    held_out = {exam.inputs[row, : ends[row]].tobytes() for row in rows}
    for step in range(20):
        tokens, targets = task.batch(1, step, 400)
        shown = [task.length] * 400 if told is None else (targets >= 0).argmax(axis=1) + 1
        trained = {row[:end].tobytes() for row, end in zip(tokens, shown, strict=True)}
        assert not held_out & trained


@pytest.mark.parametrize("name", known_tasks())
def test_every_preset_makes_members(name: str) -> None:
    for given in (start_of(name), *map(preset, task_class(name).presets)):
        config = settings.from_dict(given)
        assert config.task.name == name
        assert member_specs(config)
        assert settings.from_dict(settings.to_dict(config)) == config
        assert config.task.describe(frozenset()).startswith(name)


@pytest.mark.parametrize("engine", ["native", "eager"])
def test_a_task_of_ones_own_trains_and_loads(
    own: str,
    engine: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--task", own, "--models", "4", "--gamma-range", "0.3:0.9", "--steps", "20"]
    flags += ["--layers", "1", "--d-model", "8", "--heads", "1", "--batch-size", "8"]
    flags += ["--set", "task.modulus=7", "--engine", engine, "--eval-every", "10"]
    assert ensemble.main([*flags, "--out", str(tmp_path / "drawn")]) == 0
    assert "batches from the host" not in capsys.readouterr().out

    monkeypatch.setattr(task_class(own), "stream", lambda self: None)
    make_task.cache_clear()
    assert ensemble.main([*flags, "--out", str(tmp_path / "host")]) == 0
    assert "batches from the host" in capsys.readouterr().out

    drawn, host = (compfast.load(tmp_path / name) for name in ("drawn", "host"))
    assert drawn.config.task.name == own
    assert drawn.members["modulus"].to_list() == [7] * 4
    assert drawn.members["difference"].null_count() == 0
    assert (tmp_path / "host" / "report" / "index.html").exists()
    assert drawn.metrics.equals(host.metrics)
    for member in range(4):
        one, other = drawn.params(member), host.params(member)
        assert all(np.array_equal(one[name], other[name]) for name in one)


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
    _, _, group = plugins.TASKS
    entries = [metadata.EntryPoint("last", own, group)]
    monkeypatch.setattr(metadata, "entry_points", lambda group: entries)
    assert "last" in known_tasks()
    assert task_class("last").__name__ == "SumsTask"

    entries.append(metadata.EntryPoint("anchor", own, group))
    monkeypatch.setattr(metadata, "entry_points", lambda group: entries)
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
