"""Families of networks: found by name, and one of a user's own trains on the engines."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from examples import example

import compfast
from compfast import ensemble
from compfast.config import Config, ModelConfig, plugins, settings
from compfast.config.plugins import family_class, known_families
from compfast.ensembles.grid import member_specs
from compfast.errors import UsageError


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The family of docs/networks.md, in a module of the user's own."""
    (tmp_path / "bigram.py").write_text(example("networks.md", "class BigramFamily"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bigram", raising=False)
    return "bigram:BigramFamily"


def test_a_family_of_ones_own_trains_on_both_engines(own: str, tmp_path: Path) -> None:
    flags = ["--set", f"model.family={own}", "--set", "model.d_model=8,12", "--models", "8"]
    flags += ["--gamma-range", "0.3:0.9", "--steps", "12", "--batch-size", "8"]
    for engine in ("native", "eager"):
        assert ensemble.main([*flags, "--engine", engine, "--out", str(tmp_path / engine)]) == 0
    first, second = (compfast.load(tmp_path / engine) for engine in ("native", "eager"))
    assert first.members["d_model"].to_list() == [8] * 4 + [12] * 4
    for member in range(8):
        ours, oracles = first.params(member), second.params(member)
        assert sorted(ours) == ["head.bias", "head.weight", "position.weight", "token.weight"]
        for name, value in ours.items():
            np.testing.assert_allclose(value, oracles[name], atol=2e-5)
    assert tuple(first.model(0).token.weight.shape) == (48, 8)


def test_unknown_families_and_fields_are_refused(own: str) -> None:
    with pytest.raises(
        UsageError, match=r"model\.family is 'lstm'; it must be one of bottleneck, canonical"
    ):
        Config(model={"family": "lstm"})
    with pytest.raises(UsageError, match="fields of family canonical"):
        settings.from_dict({"model": {"family": "canonical", "layers": 2}})
    with pytest.raises(UsageError, match=r"sweep\.model\.family is not allowed"):
        Config(sweep=(("model.family", ("canonical", "transformer")),))
    with pytest.raises(UsageError, match="another family's"):
        Config(model=ModelConfig(family="canonical"))
    config = settings.from_dict({"model": {"family": own, "d_model": 4}})
    assert settings.from_dict(settings.to_dict(config)) == config
    assert member_specs(config)[0].model.max_positions == 9


def test_installed_packages_bring_families(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, group = plugins.FAMILIES
    entries = [metadata.EntryPoint("last", own, group)]
    monkeypatch.setattr(metadata, "entry_points", lambda group: entries)
    assert "last" in known_families()
    assert family_class("last").__name__ == "BigramFamily"
    entries.append(metadata.EntryPoint("canonical", own, group))
    monkeypatch.setattr(metadata, "entry_points", lambda group: entries)
    with pytest.raises(UsageError, match="canonical' is claimed by"):
        family_class("canonical")


def test_a_preset_gives_way_to_another_family() -> None:
    """--set model.family leaves out what the preset says of its own network."""
    assert ensemble.main(["--preset", "markov-paper", "--seeds", "2", "--dry-run"]) == 0
    flags = ["--task", "markov", "--set", "model.family=canonical", "--seeds", "2", "--dry-run"]
    assert ensemble.main(flags) == 0
