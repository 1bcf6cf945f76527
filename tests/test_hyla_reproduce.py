"""The hypernetwork paper's studies: the command, its tables, and what of them is committed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from compfast.config import settings
from compfast.tasks import preset
from scripts import EXPERIMENTS, load_script

TINY = ("--steps", "2", "--seeds", "2")


def _run(folder: Path, *given: str, how: Sequence[str] = TINY) -> int:
    places = ["--out", str(folder / "out"), "--tables", str(folder)]
    drawn = ["--figure", str(folder / "gamma.png")]
    code: int = load_script("hyla/reproduce.py").main([*given, *how, *places, *drawn])
    return code


def test_a_row_s_run_replaces_its_own_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fast_disk: None, native_extension: None
) -> None:
    assert _run(tmp_path, "fuzzy", "--rows", "HYLA", "softmax") == 0
    table = pl.read_csv(tmp_path / "fuzzy.csv")
    assert table.select("row", "paper", "seeds", "steps").rows() == [
        ("softmax", 63.28, 2, 2),  # in the paper's order
        ("HYLA", 81.13, 2, 2),
    ]
    assert _run(tmp_path, "fuzzy", "--rows", "softmax") == 0  # as it stands
    assert pl.read_csv(tmp_path / "fuzzy.csv").drop("seconds").equals(table.drop("seconds"))
    capsys.readouterr()
    assert _run(tmp_path, "fuzzy", "--rows", "softmax", how=("--steps", "3", "--seeds", "2")) == 2
    assert "reproduce:" in capsys.readouterr().err
    assert _run(tmp_path, "gamma", "--rows", "linear") == 0
    gammas = pl.read_csv(tmp_path / "gamma.csv")
    assert gammas["case"].to_list() == [
        f"gamma {g}" for g in load_script("hyla/reproduce.py").GAMMAS
    ]
    assert (tmp_path / "gamma.png").read_bytes()[1:4] == b"PNG"


def test_a_folder_of_tables_is_made_before_anything_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fast_disk: None, native_extension: None
) -> None:
    main = load_script("hyla/reproduce.py").main
    row = ["fuzzy", "--rows", "softmax", *TINY, "--out", str(tmp_path / "out"), "--tables"]
    (tmp_path / "taken").write_text("")
    assert main([*row, str(tmp_path / "taken" / "in")]) == 4
    assert capsys.readouterr().err == (
        f"reproduce: cannot create {tmp_path}/taken/in: Not a directory\n"
    )
    assert not (tmp_path / "out").exists()
    assert main([*row, str(tmp_path / "new" / "in")]) == 0
    assert (tmp_path / "new" / "in" / "fuzzy.csv").exists()


def test_an_unknown_row_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        _run(tmp_path, "sraven", "--rows", "HYLA")
    assert left.value.code == 2
    assert "--rows names HYLA; these studies have softmax, base" in capsys.readouterr().err


def test_every_part_makes_a_run() -> None:
    script = load_script("hyla/reproduce.py")
    for study in script.STUDIES.values():
        for size in ("small", "full"):
            parts = list(study(size))
            assert len({part.name for part in parts}) == len(parts)
            for part in parts:
                config = settings.from_dict(settings.apply(preset(part.base), part.overlay))
                attention, path, *_ = script.KINDS[part.name.partition(",")[0]]
                assert (config.model.attention, config.model.value_path) == (attention, path)
                if size == "full":
                    assert config.model.d_model == 128
                    assert config.training.steps in (50_000, 156_250)


def test_the_committed_tables_are_of_these_parts() -> None:
    script = load_script("hyla/reproduce.py")
    for path in sorted((EXPERIMENTS / "hyla").glob("*.csv")):
        table = pl.read_csv(path)
        study = script.STUDIES[path.stem.replace("_", "-")]
        parts = {(size, part.name): part for size in ("small", "full") for part in study(size)}
        for row in table.rows(named=True):
            part = parts[row["size"], row["row"]]
            whole = settings.apply(preset(part.base), part.overlay)
            assert row["steps"] == whole["training"]["steps"]
            assert row["seeds"] == part.seeds
            assert row["lowest"] <= row["mean"] <= row["highest"]
