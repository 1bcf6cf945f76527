"""The screen after a run: bands of gamma by the leading verdict, in 20 lines whatever was swept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_runs import MadeRun, made_run, sampled_run, swept_run

from compfast.cli import results
from compfast.cli.output import Output
from compfast.report.bands import Banded, bands
from compfast.solutions import wilson

GAMMAS = [0.1, 0.15, 0.25, 0.3, 1.4, 1.5]
RANDOM = np.random.default_rng(0)


def of(run: MadeRun, most: int = 10) -> Banded:
    return bands(run.members, run.config, most)


def stated(found: Banded) -> int:
    """Members that the rows account for."""
    place = found.header.index("members")
    led = sum(int(row[place].split(" of ")[0]) for row in found.rows)
    others = sum(int(word.rsplit(" ", 1)[1]) for words in found.others for word in words)
    assert led + others == sum(int(row[place].split(" of ")[1]) for row in found.rows)
    return led + others


def with_verdicts(run: MadeRun, verdicts: list[str]) -> MadeRun:
    members = run.members.with_columns(verdict=pl.Series(verdicts))
    return dataclasses.replace(run, members=members)


def test_a_row_a_band_with_counts_share_and_interval() -> None:
    found = of(made_run(GAMMAS, 4))
    assert found.header == ["gamma", "leading", "members", "share (95 %)"]
    assert [row[:3] for row in found.rows] == [
        ["0.1 to 0.15", "underfit", "8 of 8"],
        ["0.25 to 0.3", "inferential", "8 of 8"],
        ["1.4 to 1.5", "symmetric", "8 of 8"],
    ]
    low, high = wilson(8, 8)
    assert found.rows[0][3] == f"100 % ({100 * low:.0f} to {100 * high:.0f})"
    assert stated(found) == 24
    mixed = with_verdicts(made_run([0.5], 4), ["inferential", "other", "other", "mixed"])
    assert of(mixed).rows == [["0.5", "other", "2 of 4", "50 % (15 to 85)"]]
    assert of(mixed).others == [["inferential 1", "mixed 1"]]
    assert of(mixed).remarks == []


def test_where_several_lead_the_band_before_goes_on() -> None:
    verdicts = ["inferential", "symmetric"] * 3  # of two seeds a gamma, so that both lead
    assert [row[:2] for row in of(with_verdicts(made_run(GAMMAS[:3], 2), verdicts)).rows] == [
        ["0.1 to 0.25", "inferential"]
    ]
    verdicts[:2] = ["symmetric"] * 2
    assert [row[:2] for row in of(with_verdicts(made_run(GAMMAS[:3], 2), verdicts)).rows] == [
        ["0.1 to 0.25", "symmetric"]
    ]


def test_second_axes_are_told_apart_and_short_bands_joined_for_want_of_rows() -> None:
    run = made_run(GAMMAS, 4, depths=(2, 3, 4))
    assert [row[0] for row in of(run).rows] == ["2"] * 3 + ["3"] * 3 + ["4"] * 3
    found = of(run, most=4)
    assert len(found.rows) == 4
    assert {row[0] for row in found.rows} == {"2", "3", "4"}
    assert stated(found) == len(run.members)
    assert "bands of up to 8 members were joined" in found.remarks[-1]


def test_the_smallest_band_joins_its_larger_neighbour() -> None:
    gammas, verdicts = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], ["underfit"] * 2 + ["mixed"] + ["other"] * 3
    run = with_verdicts(made_run(gammas, 1), verdicts)
    assert [row[:3] for row in of(run, most=2).rows] == [
        ["0.1 to 0.2", "underfit", "2 of 2"],
        ["0.3 to 0.6", "other", "3 of 4"],
    ]
    assert [row[:3] for row in of(run, most=1).rows] == [["0.1 to 0.6", "other", "3 of 6"]]


def test_axes_of_too_many_levels_are_pooled_and_named() -> None:
    widths = list(range(8, 8 * 13, 8))
    run = swept_run({"model.d_ff": widths, "init.gamma": [0.5, 0.7], "seed": [0, 1]})
    found = of(run)
    assert [row[:3] for row in found.rows] == [
        ["0.5", "inferential", "24 of 24"],
        ["0.7", "symmetric", "24 of 24"],
    ]
    assert found.remarks[-1] == "rows pool the members of every d_ff"


def test_without_gammas_bands_are_of_the_axis_that_was_swept() -> None:
    run = swept_run({"model.layers": [8, 1, 4, 2], "seed": [0, 1]})
    verdicts = ["symmetric"] * 2 + ["inferential"] * 6
    found = of(with_verdicts(run, verdicts))
    assert found.header[0] == "layers"
    assert [row[:3] for row in found.rows] == [
        ["1 to 4", "inferential", "6 of 6"],
        ["8", "symmetric", "2 of 2"],
    ]
    words = swept_run({"model.norm": ["pre", "post"], "seed": [0, 1]})
    assert [row[:2] for row in of(words).rows] == [["post", "0.5"], ["pre", "0.5"]]


def test_samples_are_in_bands_of_bins() -> None:
    gammas = RANDOM.uniform(0.1, 1.5, 100).tolist()
    found = of(sampled_run({"init.gamma": gammas, "optimizer.lr": [1e-3, 2e-3] * 50}))
    assert found.header[0] == "gamma (bin)"
    assert [row[1] for row in found.rows] == ["inferential", "symmetric"]
    assert found.rows[0][0].split(" to ")[1] == found.rows[1][0].split(" to ")[0]
    assert stated(found) == 100
    assert found.remarks[-1] == "rows pool the members of every lr"
    words = of(sampled_run({"model.norm": ["pre", "post"] * 8}))
    assert [row[:3] for row in words.rows] == [["0.5", "inferential", "16 of 16"]]
    assert words.remarks == ["rows pool the members of every norm"]


def test_all_diverged_other_candidates_and_members_without_a_verdict() -> None:
    diverged = of(made_run(GAMMAS, 2, diverged=True))
    assert [row[:3] for row in diverged.rows] == [["0.1 to 1.5", "diverged", "12 of 12"]]
    run = made_run(GAMMAS, 2)
    members = run.members.rename({"symmetric": "sum"}).with_columns(
        pl.col("verdict").replace("symmetric", "sum")
    )
    assert of(dataclasses.replace(run, members=members)).rows[-1][1] == "sum"
    some = run.members.with_columns(
        verdict=pl.when(pl.col("gamma") > 0.4).then(None).otherwise(pl.col("verdict"))
    )
    found = of(dataclasses.replace(run, members=some))
    assert [row[0] for row in found.rows] == ["0.1 to 0.15", "0.25 to 0.3"]
    none = run.members.with_columns(verdict=pl.lit(None, pl.String))
    assert of(dataclasses.replace(run, members=none)).rows == []


def noise(run: MadeRun) -> MadeRun:
    """Verdicts by the toss of a coin, so that bands are as many as can be."""
    labels = ["underfit", "inferential", "symmetric", "mixed", "other", "diverged"]
    return with_verdicts(run, RANDOM.choice(labels, len(run.members)).tolist())


RUNS = {
    "many gammas": lambda: made_run(np.linspace(0.1, 1.5, 400).tolist(), 1),
    "depths": lambda: made_run(GAMMAS, 2, depths=tuple(range(1, 10))),
    "16 cells": lambda: swept_run(
        {
            "optimizer.lr": [1e-3, 2e-3, 3e-3, 4e-3],
            "model.d_k": ["none", 8, 16, 32],
            "init.gamma": GAMMAS,
        }
    ),
    "many axes": lambda: swept_run(
        {
            **{f"optimizer.weight_decay_{g}": [0.1, 0.2] for g in ("qk", "vo", "ffn", "head")},
            **{f"init.gamma_{g}": [0.1, 0.2] for g in ("qk", "vo", "ffn", "head")},
        }
    ),
    "sample": lambda: sampled_run({"init.gamma": RANDOM.uniform(0, 2, 300).tolist()}),
    "one": lambda: made_run([0.5], 6),
}


@pytest.mark.parametrize("wide", [None, 20, 80])
@pytest.mark.parametrize("name", RUNS)
def test_at_most_20_lines_of_a_terminal_whatever_was_swept(
    name: str, wide: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = noise(RUNS[name]())
    found = of(made)
    assert 1 <= len(found.rows) <= 10
    assert stated(found) == len(made.members)
    said: list[str] = []
    path = Path("/runs/one")
    output: Any = SimpleNamespace(terminal=wide is not None, say=said.append)
    monkeypatch.setenv("COLUMNS", str(wide))
    report = [path / "report" / f"{i}.png" for i in range(9)]
    report.insert(4, path / "report" / "index.html")
    monkeypatch.setattr("compfast.report.write_report", lambda *_: report)
    run: Any = SimpleNamespace(members=made.members, config=made.config, path=path)
    results.show(run, output)
    assert len(said) <= results.LINES
    pages = next(i for i, line in enumerate(said) if line == f"page: {report[4]}")
    assert said[pages + 1 :] == [
        "pictures and data: 9 more files in /runs/one/report",
        "members: /runs/one/members.parquet",
        "full table: compfast table /runs/one",
    ]
    if wide == 80 and name != "many axes":  # the names of two fields alone take half of it
        assert max(map(len, said)) < wide


def test_others_give_way_to_a_narrow_terminal() -> None:
    words = ["symmetric 12", "mixed 6", "other 1"]
    assert results._listed(words, None) == results._listed(words, 30) == ", ".join(words)
    assert results._listed(words, 29) == "symmetric 12, mixed 6, ..."
    assert results._listed(words, 5) == "..."
    assert results._listed([], 5) == ""


def test_a_run_without_a_verdict_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    made = made_run(GAMMAS, 2)
    members = made.members.with_columns(verdict=pl.lit(None, pl.String))
    run: Any = SimpleNamespace(members=members, config=made.config, path=Path("/no/run"), info={})
    results.show(run, Output())
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == "no member has a verdict yet"
    assert "no report was drawn" in printed.err
