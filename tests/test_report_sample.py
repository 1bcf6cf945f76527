"""The report of a sample: dots instead of lines, bins instead of levels, and what they say."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_runs import MadeRun, made_run, sampled_run, swept_run
from matplotlib.figure import Figure
from PIL import Image

from compfast.config import Config
from compfast.ensembles.sampling import draw
from compfast.report import page, phase, scatter, style, table
from compfast.report.bins import binned, bins_of, remarks, rows, values
from compfast.solutions import wilson

NAMES = ("inferential", "symmetric")
CHOICES: dict[str, Any] = {"optimizer.lr": "log:1e-4:1e-2", "init.gamma": "0.1:1.5"}
MANY = {**CHOICES, "model.d_k": [None, 8], "model.layers": [1, 2], "optimizer.clip": "1:2"}
edge = pytest.mark.edge(
    "a report of members that were drawn at random, so that no two have one gamma",
    "a scatter of members, shares in bins that are said to be bins",
)


def _two() -> MadeRun:
    """64 points in 4 bins."""
    return sampled_run({**draw(64, 1, CHOICES), "seed": range(64)})


@edge
def test_bins_hold_every_member_once() -> None:
    run = _two()
    bins = bins_of(run.config)
    assert bins is not None
    assert (bins.column, bins.log, bins.further) == ("gamma", False, ("optimizer.lr",))
    gammas = run.members["gamma"].to_numpy()
    assert np.allclose(bins.edges, np.linspace(gammas.min(), gammas.max(), 5))
    header, found = rows(run.members, run.config)
    assert header[:2] == ["gamma (bin)", "members"]
    counts = np.histogram(gammas, bins.edges)[0]
    assert [int(row[1]) for row in found] == counts.tolist()
    labels = bins.labels
    assert [row[0] for row in found] == labels
    hits = run.members.filter(run.members["verdict"] == "inferential")["gamma"].to_numpy()
    column = header.index("inferential")
    assert [int(row[column]) for row in found] == np.histogram(hits, bins.edges)[0].tolist()
    assert bins.index(np.array([-1.0, bins.edges[1], 9.0])).tolist() == [0, 1, 3]


def test_bins_hang_on_the_points_alone() -> None:
    run = _two()
    part = MadeRun(run.members[10:20], run.config, run.info)  # a shard
    assert [row[0] for row in rows(part.members, part.config)[1]] == [
        label
        for label in bins_of(run.config).labels  # type: ignore[union-attr]
        if label in {row[0] for row in rows(part.members, part.config)[1]}
    ]
    own = values(part.members, part.config, "init.gamma")
    assert own == part.members["gamma"].to_list()
    many, few = (
        bins_of(sampled_run(draw(n, 1, CHOICES)).config).labels  # type: ignore[union-attr]
        for n in (500, 5)
    )
    assert (len(many), len(few)) == (10, 1)


@pytest.mark.parametrize(
    ("sample", "sweep", "column"),
    [
        ({"optimizer.lr": (1e-4, 1e-3, 1e-2)}, {}, "lr"),
        ({"init.gamma": (0.5, 0.5), "optimizer.lr": (1e-4, 1e-3)}, {}, "lr"),
        ({"optimizer.lr": (1e-4, 1e-3)}, {"init.gamma": (0.1, 0.5)}, None),
        ({"optimizer.lr": (1e-4, 1e-3)}, {"init.gamma": (0.1,)}, "lr"),
        ({"model.norm": ("pre", "post")}, {}, None),
        ({"seed": (1, 2)}, {}, None),
        ({}, {"init.gamma": (0.1, 0.5)}, None),
    ],
)
def test_what_is_binned(sample: Any, sweep: Any, column: str | None) -> None:
    bins = bins_of(Config(sample=sample, sweep=sweep))
    assert (None if bins is None else bins.column) == column


def test_seeds_of_a_point_are_all_in_its_bin() -> None:
    run = sampled_run(draw(32, 1, CHOICES), seeds=3)
    assert values(run.members, run.config, "init.gamma") == run.members["gamma"].to_list()
    _, found = rows(run.members, run.config)
    assert sum(int(row[1]) for row in found) == 96
    assert all(int(row[1]) % 3 == 0 for row in found)


@edge
def test_the_page_says_what_the_rows_are() -> None:
    run = _two()
    text = page.page(run, b"")
    assert ">By gamma, in bins</h2>" in text
    assert (
        "64 points have no levels of gamma: a row is one of 4 bins of equal width;"
        " members of a bin also differ in lr" in text
    )
    grid = swept_run({"init.gamma": [0.1, 0.9], "seed": [0, 1]})
    assert ">By gamma</h2>" in page.page(grid, b"")
    assert rows(grid.members, grid.config) == table.rows_by_gamma(grid.members)
    assert remarks(grid.members, grid.config) == table.sentences(grid.members, grid.config)


def test_a_grid_of_gammas_over_points_keeps_its_lines_and_says_what_is_pooled() -> None:
    made = made_run([0.1, 0.9], 2)
    sample: Any = {"optimizer.lr": (1e-4, 1e-3), "seed": (0, 1)}
    run = MadeRun(made.members, Config(sample=sample, sweep=GAMMAS), made.info)
    assert rows(run.members, run.config)[0][0] == "gamma"
    assert remarks(run.members, run.config)[-1] == "the rows pool the 2 points (lr, seed differ)"


GAMMAS: Any = {"init.gamma": (0.1, 0.9)}


@edge
def test_every_member_is_a_dot_of_its_verdict_s_shape() -> None:
    run = _two()
    bins = bins_of(run.config)
    assert bins is not None
    figure = scatter.draw(run.members, run.config, bins, "native").figure
    first, last = figure.axes
    assert (first.get_ylabel(), first.get_yscale()) == ("learning rate", "log")
    assert last.get_xlabel() == "gamma"
    for label in ("underfit", *NAMES):
        own = run.members.filter(run.members["verdict"] == label)
        (dots,) = [d for d in first.lines if d.get_marker() == scatter.marker(label, NAMES)]
        assert np.array_equal(np.asarray(dots.get_xdata()), own["gamma"].to_numpy()), label
        drawn = values(own, run.config, "optimizer.lr")
        assert np.asarray(dots.get_ydata()).tolist() == drawn, label


def test_an_agreement_is_an_axis_also_where_members_diverged() -> None:
    run = sampled_run(draw(20, 1, {"init.gamma": "0.1:1.5"}), seeds=2)
    gone = pl.when(pl.col("member") < 2)
    members = run.members.with_columns(
        gone.then(None).otherwise(pl.col("inferential")).alias("inferential"),
        gone.then(pl.lit("diverged")).otherwise(pl.col("verdict")).alias("verdict"),
    )
    bins = bins_of(run.config)
    assert bins is not None
    first = scatter.draw(members, run.config, bins, "native").figure.axes[0]
    assert first.get_ylabel() == "inferential agreement"
    heights = np.concatenate([np.asarray(dots.get_ydata()) for dots in first.lines])
    assert np.isnan(heights).sum() == 2
    assert sorted(heights[np.isfinite(heights)]) == sorted(members["inferential"].drop_nulls())
    across = np.concatenate([np.asarray(dots.get_xdata()) for dots in first.lines])
    assert len(set(across.tolist())) == 40  # the seeds of a point stand side by side


def test_no_two_verdicts_share_a_shape() -> None:
    labels = table.verdict_order(_two().members)
    assert len({scatter.marker(label, NAMES) for label in labels}) == len(labels)


def test_shares_stand_in_their_wilson_intervals() -> None:
    run = _two()
    bins = bins_of(run.config)
    assert bins is not None
    axes = Figure().add_subplot()
    summary = table.summarise(binned(run.members, run.config, bins), NAMES)
    scatter.shares(axes, summary, bins, NAMES)
    low, high = wilson(summary.counts["symmetric"], summary.members)
    there = summary.counts["symmetric"] > 0
    bars: Any = axes.patches
    boxes = [(bar.get_x(), bar.get_y(), bar.get_y() + bar.get_height()) for bar in bars]
    wanted = list(zip(bins.edges[:-1][there], low[there], high[there], strict=True))
    assert np.allclose(boxes[-len(wanted) :], wanted)


@pytest.mark.parametrize(
    ("choices", "seeds"),
    [
        ({"init.gamma": "0.1:1.5"}, 3),
        ({"optimizer.lr": "log:1e-4:1e-2", "model.norm": ["pre", "post"]}, 0),
        (
            {"model.d_k": [None, 8], "model.layers": [1, 2, 3], **CHOICES, "optimizer.clip": "1:2"},
            0,
        ),
        ({"model.norm": ["pre", "post"]}, 2),
    ],
    ids=["agreement", "no gamma", "more fields than panels", "no numbers"],
)
def test_every_kind_of_sample_gives_a_picture(
    choices: dict[str, Any], seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phase, "_DPI", 50)
    image = Image.open(io.BytesIO(phase.phase_png(sampled_run(draw(20, 1, choices), seeds))))
    assert min(image.size) >= 200
    assert len(image.convert("RGB").getcolors(1 << 24)) > 10  # type: ignore[arg-type]


def test_the_caption_states_what_was_drawn() -> None:
    run = _two()
    said = style.caption(run.config, run.members, "native")
    assert "64 members; 64 points of a sample; " in said
    lows = (min(values(run.members, run.config, path)) for path in CHOICES)
    for text in (f"{low:.6g} to " for low in lows):
        assert text in said
    twice = sampled_run(draw(8, 1, CHOICES), seeds=2)
    assert "8 points of a sample, 2 seeds each" in style.caption(twice.config, twice.members, "x")
