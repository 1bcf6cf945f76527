"""SCAN's studies: what they train, their rows, and the paper's direction beside ours."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from compfast.ensembles.grid import member_specs
from scripts import load_script

SCRIPT = "scan/reproduce.py"


def _members(exact: dict[tuple[float, float], float | None]) -> pl.DataFrame:
    """A table of two seeds a cell; None: both diverged."""
    rows = [
        {
            "gamma": gamma,
            "weight_decay": decay,
            "exact": exact.get((gamma, decay), 0.25),
            "seen": 1.0,
            "verdict": "bare" if exact.get((gamma, decay), 0.25) is not None else "diverged",
            "steps": 7,
        }
        for gamma, decay, _ in itertools.product((0.5, 0.8), (0.01, 0.1, 1.0), range(2))
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


@pytest.mark.parametrize("size", ["small", "full"])
def test_every_study_makes_members(size: Any) -> None:
    script = load_script(SCRIPT)
    for study in script.STUDIES:
        config = script.config_of(study, size, 8, None)
        specs = member_specs(config)
        assert len(specs) == 2 * 3 * 8
        assert config.task.grammar == ("small" if size == "small" else "scan")
        split = {"jump": "primitive", "turn-left": "primitive"}.get(study, study)
        assert config.task.split == split


@pytest.mark.parametrize(
    ("large", "small", "ours"),
    [
        (0.1, 0.9, ["lower", "higher"]),
        (0.9, 0.1, ["higher", "lower"]),
        (0.5, 0.5, ["same", "same"]),
        (None, 0.5, [None, None]),
    ],
)
def test_the_corners_are_compared(
    large: float | None, small: float, ours: list[str | None]
) -> None:
    script = load_script(SCRIPT)
    members = _members({(0.5, 0.01): large, (0.8, 1.0): small})
    found = script.rows("turn-left", "small", members)
    assert [row["ours"] for row in found if row["paper"]] == ours
    assert [row["paper"] for row in found if row["paper"]] == ["lower", "higher"]
    assert found[1]["mean"] == 25
    assert found[1]["bare"] == found[1]["seeds"] == 2
    assert found[0]["diverged"] == (0 if large else 2)
    assert not any(row["paper"] for row in script.rows("jump", "small", members))


def test_rows_replace_those_of_their_size(tmp_path: Path) -> None:
    script, table = load_script(SCRIPT), tmp_path / "turn_left.csv"
    for size, exact in (("full", 0.5), ("small", 0.5), ("full", 0.75)):
        members = _members({(0.5, 0.1): exact})
        script.write(table, script.rows("turn-left", size, members))
    found = pl.read_csv(table)
    assert found["size"].to_list() == ["small"] * 6 + ["full"] * 6
    assert found.filter(gamma=0.5, weight_decay=0.1)["mean"].to_list() == [50, 75]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["turnleft"], "invalid choice"),
        (["jump", "--seeds", "0"], "--seeds is 0; it must be at least 1"),
        (["jump", "--steps", "-1"], "--steps is -1; it must be at least 1"),
        (["jump", "--size", "tiny"], "invalid choice"),
    ],
)
def test_what_the_command_refuses(
    flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        load_script(SCRIPT).main(flags)
    assert left.value.code == 2
    assert sentence in capsys.readouterr().err
