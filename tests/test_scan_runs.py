"""Grammars of a user's own: trained on every engine, kept in the run, and never exchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ensembles import same_bits

import compfast
from compfast import ensemble
from compfast.config import Config, Kinds, settings
from compfast.engines import make_engine
from compfast.engines.base import Engine
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import make_tables
from compfast.errors import UsageError
from compfast.runs.description import describe
from compfast.runs.folder import RunFolder
from compfast.tasks import make_task, preset

OWN = """
start = "command"
[rules]
command = ["<deed> -> <1>", "<deed> and <deed> -> <1> <2>"]
deed = ["<verb> -> <1>", "<verb> twice -> <1> * 2"]
verb = ["blink -> BLINK", "nod -> NOD", "wave -> WAVE LOWER", "wink -> WINK"]
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.toml"
    file.write_text(OWN)
    return file


def config_of(grammar: str | list[str], **changes: dict[str, Any]) -> Config:
    listed = isinstance(grammar, list)
    overlay: dict[str, Any] = {
        "task": {"held_out": "nod"} | ({} if listed else {"grammar": grammar}),
        "model": {"layers": 1, "d_model": 16, "heads": 2},
        "training": {"steps": 6, "batch_size": 16},
        "sweep": {"seed": [3, 4]} | ({"task.grammar": grammar} if listed else {}),
    }
    return settings.from_dict(
        settings.apply(settings.apply(preset("scan-small"), overlay), changes)
    )


def started(name: str, config: Config) -> Engine:
    specs = member_specs(config)
    engine = make_engine(name, specs, make_tables(specs), threads=1)
    engine.initialise()
    return engine


def test_a_grammar_of_ones_own_trains(own: Path, native_extension: None) -> None:
    config = config_of(str(own))
    task: Any = make_task(config.task)
    assert task.language.grammar.size == (72, 5, 8)
    native, eager = (started(name, config).advance(6).loss for name in ("native", "eager"))
    np.testing.assert_allclose(native, eager, rtol=2e-5)
    assert (native[:, -1] < native[:, 0]).all()


def test_the_host_s_batches_train_the_same_bits(
    own: Path, native_extension: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(str(own))
    drawn = started("native", config)
    drawn.advance(6)
    monkeypatch.setattr(type(make_task(config.task)), "stream", lambda self: None)
    fed = started("native", config)
    fed.advance(6)
    same_bits(drawn.state(), fed.state(), [0, 1], [0, 1])


def test_the_run_holds_the_grammar_not_its_file(own: Path, tmp_path: Path) -> None:
    config = config_of(str(own))
    RunFolder.create(tmp_path / "run", describe(config, "native", "v3")).close()
    own.unlink()
    stored: Any = compfast.load(tmp_path / "run").config.task
    assert json.loads(stored.grammar)["start"] == "command"
    assert stored == config.task
    assert settings.from_dict(settings.to_dict(config)) == config


@pytest.mark.edge(
    "a run resumed with a grammar's file that has changed",
    "refused with both digests; the run holds the grammar itself",
)
def test_a_changed_file_is_refused(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    config = config_of(str(own))
    RunFolder.create(run, describe(config, "native", "v3")).close()
    digest = json.loads(config.task.grammar)["sha256"]  # type: ignore[attr-defined]
    own.write_text(OWN.replace("WAVE LOWER", "WAVE"))
    changed = config_of(str(own))
    other = json.loads(changed.task.grammar)["sha256"]  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=f"another .task.: grammar .*{digest}.* not .*{other}"):
        compfast.train(changed, run, resume=True)
    for flags in (["--set", f"task.grammar={own}"], ["--config", str(tmp_path / "a.toml")]):
        (tmp_path / "a.toml").write_text(f'task = {{name = "scan", grammar = "{own}"}}')
        assert ensemble.main(["--resume", str(run), *flags]) == 2
        said = capsys.readouterr().err
        assert digest in said
        assert str(own) in said or other in said
        assert said.count("\n") == 1


def test_the_same_content_goes_on_wherever_it_lies(own: Path, tmp_path: Path) -> None:
    config = config_of(str(own))
    elsewhere = tmp_path / "elsewhere.toml"
    elsewhere.write_text(f"# moved\n{OWN}")
    assert config_of(str(elsewhere)) == config
    kinds = Kinds(task="scan")
    held = settings.convert("task.grammar", str(elsewhere), kinds)
    assert held == config.task.grammar  # type: ignore[attr-defined]


def test_grammars_can_be_swept(own: Path) -> None:
    config = config_of([str(own), "small"], task={"split": "simple"})
    own.unlink()
    assert settings.from_dict(settings.to_dict(config)) == config
    assert len({spec.task for spec in member_specs(config)}) == 2
    with pytest.raises(UsageError, match="has equal values"):
        config_of(["small", "small"], task={"split": "simple"})


def test_an_own_grammar_is_named_by_its_digest(own: Path) -> None:
    config = config_of(str(own))
    digest = json.loads(config.task.grammar)["sha256"]  # type: ignore[attr-defined]
    wanted = f"scan, grammar {digest[:8]}, nod held out"
    assert config.task.describe(frozenset()) == wanted


def test_a_grammar_is_refused_before_anything_is_trained(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--task",
        "scan",
        "--preset",
        "scan-small",
        "--models",
        "4",
        "--gamma-range",
        "0.3:0.9",
    ]
    for content, sentence in (
        (OWN.replace("<verb> twice", "<verb>"), "task.grammar is ambiguous: 'blink' can be"),
        (OWN.replace("<verb> twice", "<word> twice"), "the symbol <word>, which has no rule"),
    ):
        own.write_text(content)
        out = tmp_path / "out"
        command = [*flags, "--set", f"task.grammar={own}", "--out", str(out)]
        assert ensemble.main(command) == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert said.count("\n") == 1
        assert not out.exists()
