"""The study of a chain's networks over their training, by its command on a tiny run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import compfast
from compfast import analysis
from scripts import load_script


def test_the_command_trains_draws_and_tabulates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fast_disk: None, native_extension: None
) -> None:
    script, out, table = load_script("markov/metrics.py"), tmp_path / "out", tmp_path / "table.csv"
    places = ["--seq-len", "8", "--out", str(out), "--table", str(table)]
    assert script.main(["--steps", "30", "--seeds", "3", *places]) == 0
    run = compfast.load(out / "run")
    assert run.snapshots == [0, 10, 20, 30]
    rows = pl.read_parquet(out / "metrics.parquet")
    assert rows.select("member", "step").rows() == [
        (m, s) for m in range(3) for s in (0, 10, 20, 30)
    ]
    energy = analysis.rank_one_energy(run, ["value.weight"])
    assert rows["value"].equals(energy["energy"].rename("value"))
    wide = pl.read_csv(table)
    assert wide["step"].to_list() == [0, 10, 20, 30]
    middle = [np.median(rows.filter(step=step)["ratio"].to_numpy()) for step in (0, 10, 20, 30)]
    assert wide["ratio_median"].to_list() == pytest.approx(middle, rel=1e-3)
    losses = run.metrics.filter(step=30)["loss"]
    assert wide["loss_max"][3] == pytest.approx(losses.max(), rel=1e-3)
    assert (out / "metrics.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    said = capsys.readouterr().out
    assert "bigram 0.5446" in said
    assert "0.93 to 0.95, after some 9000 steps" in said

    assert script.main(["--steps", "30", "--seeds", "3", *places]) == 0  # as it stands
    assert pl.read_csv(table).equals(wide)
    capsys.readouterr()
    assert script.main(["--steps", "31", "--seeds", "3", *places]) == 2
    assert "was started with another [training]: steps 30, not 31" in capsys.readouterr().err
    assert script.main(["--chain", "0.3,0.7", "--out", str(tmp_path / "new")]) == 2
    assert "nothing to tell apart" in capsys.readouterr().err


def test_numbers_stand_beside_the_papers() -> None:
    script = load_script("markov/metrics.py")
    steps, members = [0, 75, 200, 4000], range(3)
    rows = pl.DataFrame(
        {
            "member": [m for m in members for _ in steps],
            "step": steps * 3,
            "value": [0.4, 0.9, 0.8, 0.9] * 3,
            "ffn_in": [0.2, 0.9, 0.97, 0.99] * 3,
            "ratio": [x + 0.1 * m * (x > 0.1) for m in members for x in (0.0, 0.3, 0.01, 0.02)],
            "loss": [None, 0.6, 0.55, 0.545] * 3,
        }
    )
    table = script.summary(rows)
    found = {(m, at): here for m, at, _, here in script.compared(table).rows()}
    assert set(found) == set(script.PAPER)
    assert found["ratio", "largest"] == "0.400 (0.300 to 0.500) at step 75"
    assert found["ffn_in", "step 200"] == "0.970 (0.970 to 0.970) at step 200"
    assert found["value", "end"] == "0.900 (0.900 to 0.900) at step 4000"
    short = script.compared(table.filter(step=0))
    assert short.filter(at="step 200")["here"].to_list() == ["-", "-"]
