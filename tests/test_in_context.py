"""The study of experiments/in_context: a row a network and support, the paper's numbers beside."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from scripts import load_script

SHORT = ("--steps", "3", "--seeds", "2", "--samples", "5", "--items", "20")


def test_rows_replace_their_own_alone(
    tmp_path: Path, fast_disk: None, native_extension: None
) -> None:
    study = load_script("in_context/generalise.py")
    table = tmp_path / "table.csv"
    places = ("--out", str(tmp_path / "out"), "--table", str(table))
    study.main([*SHORT, *places, "--supports", "connected", "disconnected"])
    found = pl.read_csv(table)
    assert found.select("family", "support", "paper_ood_r2").rows() == [
        ("bottleneck", "connected", 0.9),
        ("bottleneck", "disconnected", 0.775),
        ("transformer", "connected", 0.86),
        ("transformer", "disconnected", 0.857),
    ]
    assert set(found.select("size", "steps", "seeds", "samples").rows()) == {("small", 3, 2, 5)}
    assert found["ood_r2"].is_finite().all()
    assert (found["ood_r2_std"] > 0).all()
    study.main([*SHORT, *places, "--families", "transformer", "--supports", "connected"])
    after = pl.read_csv(table)
    assert len(after) == len(found)
    assert after.sort(study.SAME).equals(found.sort(study.SAME))  # the same run, the same bits


def test_the_paper_s_size_is_its_presets() -> None:
    study = load_script("in_context/generalise.py")
    given = study.parser().parse_args(["--size", "paper"])
    bottleneck, vanilla = (study.config_of(family, given) for family in study.FAMILIES)
    assert (bottleneck.model.family, bottleneck.model.latent) == ("bottleneck", 6)
    assert (vanilla.model.family, vanilla.model.d_model) == ("transformer", 128)
    assert bottleneck.training.steps == vanilla.training.steps == study.PAPER_STEPS == 100_000
