"""`compfast table RUN`: the full table as text and CSV, clean in a pipe."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_lines import SMALL
from made_runs import MadeRun, made_run, sampled_run, swept_run

from compfast.__main__ import main
from compfast.cli import table as command
from compfast.cli.output import aligned, deliver
from compfast.ensemble import main as train
from compfast.report.bins import bins_of, remarks, rows
from compfast.report.listing import csv_text
from compfast.report.table import summarise

GAMMAS = [0.1, 0.145161290323, 0.5]
no_run = pytest.mark.edge(
    "compfast report or table of a folder that is no run, or has no verdict yet",
    "one sentence that says which, exit 2; nothing is written",
)
closed = pytest.mark.edge(
    "the reader of compfast table RUN or --help leaves early, as head does",
    "no error: exit 0 and nothing on standard error",
)
full = pytest.mark.edge(
    "compfast table or completion into a full disk",
    "one sentence, exit 4",
)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> MadeRun:
    """A run that the command finds at any path."""
    run = made_run(GAMMAS, 4, depths=(2, 3))
    found: Any = SimpleNamespace(path=Path("/a/run"), members=run.members, config=run.config)
    monkeypatch.setattr(command, "load", lambda _: found)
    return run


def test_the_text_is_a_row_a_gamma_and_what_it_says(
    made: MadeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table", "/a/run"]) == 0
    expected = aligned(*rows(made.members, made.config)) + remarks(made.members, made.config)
    assert capsys.readouterr() == ("\n".join(expected) + "\n", "")
    assert len(expected) == 1 + 2 * len(GAMMAS) + 2


def test_the_csv_has_every_level_and_numbers_in_full(
    made: MadeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table", "/a/run", "--csv"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    found = read(printed.out)
    assert [(row["layers"], float(row["gamma"])) for row in found] == [
        (depth, gamma) for depth in ("2", "3") for gamma in GAMMAS
    ]
    for depth in (2, 3):
        own = summarise(made.members.filter(layers=depth))
        ours = [row for row in found if row["layers"] == str(depth)]
        for verdict, counts in own.counts.items():
            assert [int(row[verdict]) for row in ours] == counts.tolist()
        means = np.array([float(row["mean_symmetric"]) for row in ours])
        np.testing.assert_allclose(means, own.agreements["symmetric"].mean, rtol=1e-14)
        assert [int(row["members"]) for row in ours] == own.members.tolist()


def test_csv_of_lists_none_words_and_missing_means() -> None:
    run = swept_run(
        {"task.unseen": [[[4, 3]], []], "model.d_k": ["none", 8], "model.final_norm": [True, False]}
    )
    found = read(csv_text(run.members, run.config))
    assert len(found) == 8
    assert [row["unseen"] for row in found] == ["[]"] * 4 + ["[[4,3]]"] * 4
    assert [row["d_k"] for row in found][:4] == ["none", "none", "8", "8"]
    assert {row["final_norm"] for row in found} == {"true", "false"}
    run = made_run([0.5], 2, diverged=True)
    assert csv_text(run.members, run.config) == (
        "gamma,members,underfit,inferential,symmetric,mixed,other,diverged,"
        "mean_seen,mean_inferential,mean_symmetric\n0.5,2,0,0,0,0,0,2,,,\n"
    )


def test_csv_of_a_level_with_what_csv_and_terminals_obey() -> None:
    run = swept_run({"model.norm": ["pre", "post"]})
    strange = 'a,"b"\n\x1b[31m'
    sweep = tuple((path, ("pre", strange)) for path, _ in run.config.sweep)
    object.__setattr__(run.config, "sweep", sweep)
    text = csv_text(run.members, run.config)
    assert text.count("\n") == 3
    assert "\x1b" not in text
    assert read(text)[0]["norm"] == 'a,"b"\\n\\x1b[31m'


def test_csv_of_a_sample_has_its_bins() -> None:
    gammas = np.random.default_rng(0).uniform(0.1, 1.5, 64).tolist()
    run = sampled_run({"init.gamma": gammas})
    bins = bins_of(run.config)
    assert bins is not None
    found = read(csv_text(run.members, run.config))
    assert [float(row["gamma_low"]) for row in found] == bins.edges[:-1].tolist()
    assert [float(row["gamma_high"]) for row in found] == bins.edges[1:].tolist()
    assert sum(int(row["members"]) for row in found) == 64


@no_run
@pytest.mark.parametrize("verb", [["table"], ["table", "--csv"], ["report"]])
def test_what_is_no_run_is_refused(
    verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*verb, str(tmp_path / "none")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"compfast: {tmp_path / 'none'} is not a run folder: it has no config.json\n"
    )
    assert list(tmp_path.iterdir()) == []


@no_run
def test_a_run_without_a_verdict_is_refused(
    made: MadeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    members = made.members.with_columns(verdict=pl.lit(None, pl.String))
    found: Any = SimpleNamespace(path=Path("/a/run"), members=members, config=made.config)
    monkeypatch.setattr(command, "load", lambda _: found)
    assert main(["table", "/a/run"]) == 2
    assert "/a/run: no member has a verdict yet" in capsys.readouterr().err


@closed
def test_a_reader_that_leaves_is_no_error(
    made: MadeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv in (["table", "/a/run"], ["table", "/a/run", "--csv"], ["train", "--help"]):
        reader, writer = os.pipe()
        os.close(reader)
        ends = pytest.raises(SystemExit, match="0") if "--help" in argv else nullcontext()
        with monkeypatch.context() as patch, open(writer, "w") as stream, ends:
            patch.setattr(sys, "stdout", stream)
            assert main(argv) == 0
    assert capsys.readouterr().err == ""


@closed
@pytest.mark.slow
def test_head_of_a_real_run(tmp_path: Path) -> None:
    out = tmp_path / "a run"
    assert train([*SMALL, "--quiet", "--out", str(out)]) == 0
    python = f"PYTHONPATH={Path(__file__).parents[1]} {sys.executable} -m compfast"
    command = f"{python} table '{out}' --csv | head -n 1; echo ${{PIPESTATUS[*]}}"
    told = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert told.stderr == ""
    header, codes = told.stdout.splitlines()
    assert header.startswith("gamma,members,underfit,")
    assert codes == "0 0"


@full
@pytest.mark.parametrize("argv", [["table", "/a/run"], ["table", "/a/run", "--csv"]])
def test_a_full_disk_is_said(
    argv: list[str],
    made: MadeRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch, open("/dev/full", "w") as stream:
        patch.setattr(sys, "stdout", stream)
        assert main(argv) == 4
    error = capsys.readouterr().err
    assert error == ("compfast: standard output cannot be written (No space left on device)\n")


def test_letters_that_an_encoding_lacks_are_spelt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    deliver("\u03b3 = 1\n")
    assert raw.getvalue() == b"\\u03b3 = 1\n"
    monkeypatch.setattr(sys, "stdout", None)
    deliver("nobody hears\n")
