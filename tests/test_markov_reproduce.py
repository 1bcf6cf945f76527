"""The paper's figures on Markov chains: the command, its table, and what the schedule decides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from scripts import EXPERIMENTS, load_script

TINY = ("--seq-len", "8", "--steps", "3", "--seeds", "2")


def _run(folder: Path, *given: str, how: Sequence[str] = TINY) -> int:
    places = ["--out", str(folder / "out"), "--table", str(folder / "table.csv")]
    code: int = load_script("markov/reproduce.py").main([*given, *how, *places])
    return code


def test_a_network_s_rows_replace_its_own_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fast_disk: None, native_extension: None
) -> None:
    assert _run(tmp_path, "tying", "--networks", "single") == 0
    table = pl.read_csv(tmp_path / "table.csv")
    assert table["case"].to_list() == ["tied_head True", "tied_head False"]
    assert table.select("seeds", "steps", "seq_len").rows() == [(2, 3, 8)] * 2
    assert _run(tmp_path, "losses", "--networks", "standard", "guideline") == 0
    assert _run(tmp_path, "tying", "--networks", "single") == 0  # as it stands
    after = pl.read_csv(tmp_path / "table.csv")
    networks = [("losses", "standard"), ("losses", "guideline"), *[("tying", "single")] * 2]
    assert after.select("study", "network").rows() == networks  # in the order of the studies
    assert after[2:].equals(table)
    capsys.readouterr()
    longer = ("--seq-len", "9", *TINY[2:])
    assert _run(tmp_path, "tying", "--networks", "single", how=longer) == 2
    assert "was started with another [task]: seq_len 8, not 9" in capsys.readouterr().err
    assert pl.read_csv(tmp_path / "table.csv").equals(after)


def test_an_unknown_network_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        _run(tmp_path, "depth", "--networks", "tied")
    assert left.value.code == 2
    assert "--networks names tied; these studies have single, gpt" in capsys.readouterr().err


def test_the_committed_table_has_every_network() -> None:
    script = load_script("markov/reproduce.py")
    table = pl.read_csv(EXPERIMENTS / "markov" / "reproduce.csv")
    found = table.select("study", "network").unique(maintain_order=True).rows()
    parts = [(study, part) for study in script.STUDIES for part in script.STUDIES[study]()]
    assert found == [(study, part.name) for study, part in parts]
    for study, part in parts:
        own = table.filter(study=study, network=part.name)
        assert own["paper"].to_list() == list(part.paper.values())
        assert own["steps"].to_list() == [part.steps or script.STEPS[study]] * len(own)
        assert (own["lowest"] <= own["mean"]).all()
        assert (own["mean"] <= own["highest"]).all()
        assert own["seeds"].min() >= 16  # type: ignore[operator]


@pytest.mark.slow  # half a minute
def test_the_guideline_s_weights_arrive_where_the_schedule_is_long(
    tmp_path: Path, fast_disk: None, native_extension: None
) -> None:
    how = ["--seq-len", "64", "--seeds", "2", "--steps"]
    for steps, verdict, low, high in ((600, "local", 0.65, 0.68), (4000, "global", 0.619, 0.622)):
        folder = tmp_path / str(steps)
        assert _run(folder, "losses", "--networks", "guideline", how=[*how, str(steps)]) == 0
        (row,) = pl.read_csv(folder / "table.csv").rows(named=True)
        assert low <= row["mean"] <= high
        assert row[verdict] == 2
