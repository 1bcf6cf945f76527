"""Figures for papers: what they show, their files, and that nothing but them is left behind."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
import polars as pl
import pytest
from made_runs import MadeRun, made_run, sampled_run, swept_run
from PIL import Image

from compfast.__main__ import main
from compfast.errors import UsageError
from compfast.report import figure2, figures, plotting, style, write_figures
from compfast.report.figures import FIGURES
from compfast.solutions import paper_protocol

GAMMAS = [0.1, 0.3, 0.5, 0.9, 1.3]
FORMS = ("png", "svg", "pdf")
unknown_style = pytest.mark.edge(
    "compfast report --style of a name that there is not, or without --figures",
    "one sentence with the names, exit 2; nothing is written",
)
unwritable = pytest.mark.edge(
    "compfast report --figures DIR that cannot be made or written, or is a file",
    "one sentence, exit 4",
)
several = pytest.mark.edge(
    "compfast report --figures DIR of several runs", "one sentence, exit 2; nothing is written"
)


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, look in style.LOOKS.items():
        monkeypatch.setitem(style.LOOKS, name, dataclasses.replace(look, dpi=50))


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is taken for a run."""
    folder = tmp_path / "run"
    (folder / "report").mkdir(parents=True)
    (folder / "report" / "index.html").write_text("<html>")
    monkeypatch.setattr("compfast.runs.reading.load", lambda _: made_run([0.3, 0.7], 2))
    return folder


@pytest.fixture
def only_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """One quick figure in the place of all."""
    monkeypatch.setattr(figures, "FIGURES", {"agreement": figures.FIGURES["agreement"]})


def test_every_figure_in_every_form_and_what_to_write_under_it(tmp_path: Path) -> None:
    written = write_figures(made_run(GAMMAS, 6), tmp_path / "a" / "figures", "paper")
    assert written.left_out == []
    assert [path.name for path in written.paths] == [
        *(f"{name}.{form}" for name in FIGURES for form in FORMS),
        "captions.txt",
    ]
    assert {path.name for path in (tmp_path / "a" / "figures").iterdir()} == {
        path.name for path in written.paths
    }
    for path in written.paths:
        start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF", "txt": b"phase_diagram: "}
        assert path.read_bytes().startswith(start[path.suffix[1:]]), path
    captions = written.paths[-1].read_text().split("\n\n")
    assert [caption.split(":")[0] for caption in captions] == list(FIGURES)
    assert all("30 members" in caption for caption in captions)
    assert "Figure 2 of arXiv 2405.05409" in captions[2]


@pytest.mark.usefixtures("only_curves")
def test_the_same_run_gives_the_same_bytes_whatever_a_user_set(tmp_path: Path) -> None:
    run = made_run(GAMMAS, 2)
    first = write_figures(run, tmp_path / "1", "paper").paths
    with matplotlib.rc_context():
        matplotlib.style.use(["dark_background", "fivethirtyeight"])
        matplotlib.rcParams["svg.hashsalt"] = "mine"
        before = matplotlib.rcParams.copy()
        second = write_figures(run, tmp_path / "2", "paper").paths
        assert dict(matplotlib.rcParams.copy()) == dict(before)
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
    assert b"<dc:date>" not in (tmp_path / "1" / "agreement.svg").read_bytes()
    assert b"CreationDate" not in (tmp_path / "1" / "agreement.pdf").read_bytes()


@pytest.mark.usefixtures("only_curves")
def test_a_paper_has_its_own_letters_width_and_caption(tmp_path: Path) -> None:
    run = made_run(GAMMAS, 2, depths=(1, 2, 3, 4))
    widths: dict[str, list[float]] = {name: [] for name in style.LOOKS}
    captions: dict[str, list[str]] = {name: [] for name in style.LOOKS}
    for name, look in style.LOOKS.items():
        for draw in FIGURES.values():
            with plotting.settings(look):
                drawn = draw(run, look)
            assert drawn is not None
            widths[name].append(drawn.figure.get_size_inches()[0])
            captions[name].append(drawn.said)
        write_figures(made_run([0.5], 2), tmp_path / name, name)
    assert max(widths["paper"]) <= (style.LOOKS["paper"].width or 0) < max(widths["plain"])
    assert captions["paper"] == captions["plain"]
    assert b"STIXGeneral" in (tmp_path / "paper" / "agreement.pdf").read_bytes()
    assert b"STIXGeneral" not in (tmp_path / "plain" / "agreement.pdf").read_bytes()
    sizes = {}
    for name in style.LOOKS:
        with Image.open(tmp_path / name / "agreement.png") as image:
            sizes[name] = image.size[1]
    assert sizes["plain"] > 1.1 * sizes["paper"]  # the caption stands under it


@pytest.mark.parametrize(
    ("run", "left_out"),
    [
        (made_run([0.5], 3), 1),
        (made_run(GAMMAS, 2, diverged=True), 0),
        (sampled_run({"optimizer.lr": np.geomspace(1e-5, 1e-2, 64).tolist()}), 0),
        (sampled_run({"model.norm": ["pre", "post"] * 4}), 1),
        *(
            pytest.param(run, left_out, marks=pytest.mark.slow)
            for run, left_out in (
                (made_run(np.linspace(0.1, 1.5, 40).tolist(), 2), 0),
                (made_run(GAMMAS, 2, depths=(1, 2, 3, 4, 5)), 0),
                (swept_run({"model.layers": [1, 2, 4], "seed": [0, 1]}), 0),
                (swept_run({"model.norm": ["pre", "post"], "seed": [0, 1]}), 1),
                (sampled_run({"init.gamma": np.geomspace(0.1, 1.5, 64).tolist()}), 0),
            )
        ),
    ],
)
def test_every_kind_of_run_has_its_figures(run: MadeRun, left_out: int) -> None:
    for name in ("agreement", "figure2"):  # as to phase diagrams, see test_report.py
        with plotting.settings(style.LOOKS["paper"]):
            drawn = FIGURES[name](run, style.LOOKS["paper"])
            if drawn is None:
                assert (name, left_out) == ("figure2", 1)
                continue
            image = Image.open(io.BytesIO(plotting.rendered(drawn.figure, "png", 50)))
        assert min(image.size) > 80
        assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 5
    assert left_out == (figure2.cells(run.members, run.config) is None)


def scored(run: MadeRun, seed: int = 0) -> MadeRun:
    """The run with scores of its own for every member, all of a cell's first seed missing."""
    uniform = np.random.default_rng(seed).uniform
    names = ("seen", "inferential", "symmetric")
    columns = {n: uniform(size=len(run.members)).tolist() for n in names}
    first = (pl.col("gamma") == GAMMAS[0]) & (pl.col("seed") == 0)
    members = run.members.with_columns(
        pl.when(first).then(None).otherwise(pl.Series(values)).alias(name)
        for name, values in columns.items()
    )
    return dataclasses.replace(run, members=members)


def test_figure_2_is_the_paper_s_protocol() -> None:
    axes: dict[str, list[Any]] = {
        "optimizer.lr": [3e-4, 1e-4, 2e-4],
        "model.layers": [3, 2],
        "init.gamma": GAMMAS,
    }
    run = scored(swept_run({**axes, "seed": [0, 1, 2]}))
    depth = 3 - run.members["member"].to_numpy() // 15 % 2
    members = run.members.with_columns(layers=depth)
    expected = paper_protocol(members, ("inferential", "symmetric", "seen"))
    found = figure2.cells(run.members, run.config)
    assert found is not None
    assert found.row is not None
    assert found.row.labels == ["2", "3"]
    assert (found.best_of, found.repeats, found.averaged) == (3, [3, 3], ())
    for name, mean in found.mean.items():
        np.testing.assert_allclose(mean.T.ravel(), expected[name])
    assert found.line.x.tolist() == GAMMAS


def test_what_is_no_learning_rate_is_averaged_and_said() -> None:
    axes: dict[str, list[Any]] = {
        "model.layers": [2, 3],
        "optimizer.weight_decay": [0.1, 0.2],
        "init.gamma": GAMMAS,
    }
    run = scored(swept_run({**axes, "seed": [0, 1]}))
    found = figure2.cells(run.members, run.config)
    assert found is not None
    assert (found.best_of, found.repeats, found.averaged) == (1, [4, 4], ("weight decay",))
    own = run.members.filter((pl.col("gamma") == 0.5) & (pl.col("member") < 20))["symmetric"]
    assert found.mean["symmetric"][0, 2] == pytest.approx(own.mean())
    assert found.sd["symmetric"][0, 2] == pytest.approx(own.std())
    with plotting.settings():
        drawn = figure2.picture(run, style.LOOKS["plain"])
    assert drawn is not None
    assert "the mean over seeds, weight decay (4 values a point)" in drawn.said


@pytest.mark.parametrize("depths", [(2,), (2, 3)])
def test_figure_2_shades_what_is_underfit_and_nothing_else(depths: tuple[int, ...]) -> None:
    run = made_run(GAMMAS, 4, depths=depths)
    with plotting.settings():
        drawn = figure2.picture(run, style.LOOKS["plain"])
        assert drawn is not None
        panels = drawn.figure.axes[: len(depths)]
        for axes in panels:
            shaded = [patch for patch in axes.patches if patch.get_hatch()]
            assert [patch.get_x() for patch in shaded] == [0.0] * len(depths)  # type: ignore[attr-defined]
    assert "Hatched: underfit, the mean of seen is below 90%." in drawn.said


@unknown_style
@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--figures", "figures", "--style", "papers"], "'papers'; it must be one of plain, paper"),
        (["--style", "paper"], "give --figures DIR"),
    ],
)
def test_a_style_that_cannot_be_used_is_refused(
    argv: list[str],
    words: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(["report", str(finished), *argv]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert list(elsewhere.iterdir()) == []


@unwritable
@pytest.mark.usefixtures("only_curves")
def test_a_folder_that_cannot_be_written_is_said(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for folder in ("/proc/figures", str(file)):
        assert main(["report", str(finished), "--figures", folder]) == 4
        printed = capsys.readouterr()
        assert f"cannot create {folder}" in printed.err
        assert printed.err.count("\n") == 1
        assert printed.out == ""
    assert file.read_text() == "mine"
    (tmp_path / "full" / "agreement.png").mkdir(parents=True)
    assert main(["report", str(finished), "--figures", str(tmp_path / "full")]) == 4
    assert "agreement.png" in capsys.readouterr().err


@several
def test_figures_are_of_one_run(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "figures"
    assert main(["report", str(finished), str(finished), "--figures", str(folder)]) == 2
    assert "--figures takes one RUN" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.usefixtures("only_curves")
def test_the_command_leaves_the_report_and_says_what_there_is_not(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    folder = tmp_path / "figures"
    assert main(["report", str(finished), "--figures", str(folder), "--style", "paper"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        *(str(folder / f"agreement.{form}") for form in FORMS),
        str(folder / "captions.txt"),
    ]
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


def test_a_figure_that_there_is_not_is_said(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(figures, "FIGURES", {"figure2": lambda run, look: None})
    assert main(["report", str(finished), "--figures", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(tmp_path / "captions.txt"),
        "no figure2: one gamma, and no other axis of numbers, has no agreement against gamma",
    ]


def test_from_python_a_bad_look_or_no_verdict_is_a_usage_error(tmp_path: Path) -> None:
    run = made_run(GAMMAS, 2)
    with pytest.raises(UsageError, match="'x'; it must be one of plain, paper"):
        write_figures(run, tmp_path / "figures", "x")
    none = dataclasses.replace(run, members=run.members.with_columns(verdict=None))
    with pytest.raises(UsageError, match="no member has a verdict yet"):
        write_figures(none, tmp_path / "figures")
    assert list(tmp_path.iterdir()) == []
