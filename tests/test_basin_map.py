"""The basin map: drawn small, with trained members, and by its command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure

from compfast.errors import UsageError
from compfast.report import basins, plotting, style
from compfast.report.basins import Panel, Starts
from compfast.tasks import chain_theory
from scripts import load_script

PNG = b"\x89PNG\r\n\x1a\n"
STARTS = Starts(
    np.array([0.1, -1.0, 1.5, 9.0]), np.array([0.2, -1.0, -1.0, 0.0]),
    ["local", "global", "other", "diverged"],
)  # fmt: skip


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basins, "_PIXELS", 40)
    monkeypatch.setattr(basins, "_DPI", 40)
    monkeypatch.setattr(basins, "_TIMES", np.geomspace(1e-3, 5, 9))
    monkeypatch.setattr(basins, "_UP", np.array([-0.6, 0.35]))
    monkeypatch.setattr(basins, "_ACROSS", np.array([0.5]))


def _drawn(*panels: Panel, extent: float = 2.0) -> Figure:
    with plotting.settings():
        return basins._draw(panels, extent)


def _lines(figure: Figure, panel: int, name: str) -> list[Any]:
    """Lines of a panel that look as the legend's entry of that name."""
    legend = figure.legends[0]
    entry = dict(zip(_said(figure), legend.legend_handles, strict=True))[name]
    assert isinstance(entry, matplotlib.lines.Line2D)
    look = (entry.get_color(), entry.get_linestyle(), entry.get_marker(), entry.get_linewidth())
    return [
        np.asarray(line.get_xydata())
        for line in figure.axes[panel].lines
        if (line.get_color(), line.get_linestyle(), line.get_marker(), line.get_linewidth()) == look
    ]


def _said(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_picture_is_written_and_leaves_no_trace(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams.copy())
    path = basins.basin_map([Panel(0.2, 0.3), Panel(0.5, 0.8, STARTS)], tmp_path / "new" / "a.png")
    assert path.read_bytes().startswith(PNG)
    assert dict(matplotlib.rcParams.copy()) == before
    with matplotlib.rc_context({"font.size": 23, "image.origin": "upper"}):
        again = basins.basin_png([Panel(0.2, 0.3), Panel(0.5, 0.8, STARTS)])
    assert again == path.read_bytes()


def test_panels_stand_side_by_side_and_say_their_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basins, "_flow_lines", lambda *panel: None)
    figure = _drawn(Panel(0.2, 0.3), Panel(0.5, 0.8))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["p = 0.2, q = 0.3  (p + q < 1)", "p = 0.5, q = 0.8  (p + q > 1)"]
    places = [axes.get_subplotspec() for axes in figure.axes]
    assert [(place.rowspan.start, place.colspan.start) for place in places if place] == [
        (0, 0), (0, 1),
    ]  # fmt: skip
    assert figure.axes[0].get_ylabel() == "w"
    assert [axes.get_xlabel() for axes in figure.axes] == ["e", "e"]
    assert not any(said.startswith("trained") for said in _said(figure))
    many = _drawn(*[Panel(0.2, 0.1 + 0.1 * i) for i in range(5)])
    labelled = [axes.get_xlabel() for axes in many.axes[:5]]
    assert labelled == ["", "e", "e", "e", "e"]


@pytest.mark.parametrize(("p", "q"), [(0.2, 0.3), (0.5, 0.8)])
def test_areas_and_curves_are_the_theorys(p: float, q: float) -> None:
    figure = _drawn(Panel(p, q))
    (image,) = figure.axes[0].images
    area = np.asarray(image.get_array())
    middle = 2.0 * ((np.arange(40) + 0.5) / 20 - 1)
    rule = chain_theory.predicted_basin(middle, middle[:, None], p, q) == "local"
    assert np.array_equal(area, rule)
    assert image.origin == "lower"
    colours = [image.cmap(0)[:3], image.cmap(1)[:3]]
    assert colours == [basins._tint("global"), basins._tint("local")]

    e, w = np.concatenate(_lines(figure, 0, "global minima")).T
    found = np.isfinite(e)
    assert found.any()
    loss = chain_theory.reduced_loss(e[found], w[found], p, q)
    np.testing.assert_allclose(loss, chain_theory.entropy_rate(p, q), atol=1e-12)
    for name in ("minimum", "maximum"):
        (line,) = _lines(figure, 0, f"local {name[:-2]}a")
        assert len(line)
        assert (line[:, 0] == 0).all()
        assert set(chain_theory.critical_kind(line[:, 1], p, q)) == {name}
    for edge in _lines(figure, 0, "edge of a basin"):
        assert len(edge) > 100
        np.testing.assert_allclose(
            chain_theory.energy(edge[:, 0], edge[:, 1]), chain_theory.SADDLE_LEVEL, atol=1e-9
        )
    (saddle,) = _lines(figure, 0, "saddle")
    assert saddle.tolist() == [[0, chain_theory.SADDLE_W]]
    flows = _lines(figure, 0, "gradient flow")
    assert len(flows) >= 6
    for flow in flows:
        energy = chain_theory.energy(flow[:, 0], flow[:, 1])
        np.testing.assert_allclose(energy, energy[0], atol=1e-8)
        loss = chain_theory.reduced_loss(flow[:, 0], flow[:, 1], p, q)
        assert (np.diff(loss) <= 1e-12).all()
    sides = {float(np.sign(flow[0, 0])) for flow in flows}
    assert sides == {-1.0, 1.0}


def test_members_are_dots_in_the_colour_of_their_verdict() -> None:
    figure = _drawn(Panel(0.5, 0.8, STARTS))
    assert _said(figure)[-4:] == [f"trained: {n}" for n in ("global", "local", "other", "diverged")]
    for at, name in enumerate(STARTS.verdict):
        (dots,) = _lines(figure, 0, f"trained: {name}")
        assert dots.tolist() == [[STARTS.e[at], STARTS.w[at]]]
    assert figure.axes[0].get_xlim() == (-2, 2)
    paint = style.colour("local", ("global", "local"))
    assert any(line.get_color() == paint for line in figure.axes[0].lines)
    assert any("4 trained members" in " ".join(t.get_text().split()) for t in figure.texts)


def test_a_certain_transition_is_drawn_without_a_curve_of_minima() -> None:
    figure = _drawn(Panel(1.0, 0.8), extent=0.5)
    assert _lines(figure, 0, "global minima") == []
    assert any("at infinity" in " ".join(text.get_text().split()) for text in figure.texts)


@pytest.mark.parametrize(
    ("panels", "extent", "words"),
    [
        ([], 2.0, "1 to 12 panels; 0 were given"),
        ([Panel(0.2, 0.3)], 0.0, "the extent of a basin map is 0.0"),
        ([Panel(0.3, 0.7)], 2.0, "p + q = 1"),
        ([Panel(0.0, 0.7)], 2.0, "p is 0.0"),
        ([Panel(0.2, 0.3, Starts(np.zeros(2), np.zeros(2), ["local"]))], 2.0, "1 verdicts"),
        ([Panel(0.2, 0.3, Starts(np.zeros(1), np.zeros(1), ["symmetric"]))], 2.0, "'symmetric'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(panels: Any, extent: float, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        basins.basin_png(panels, extent)


def test_the_command_draws_and_tabulates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    starts = tmp_path / "starts.csv"
    pl.DataFrame(
        {"p": [0.5, 0.2], "q": [0.8, 0.3], "e": [0.1, 0.1], "w": [0.2, 0.2],
         "verdict": ["local", "global"]}
    ).write_csv(starts)  # fmt: skip
    out, table = tmp_path / "out", tmp_path / "table.csv"
    rest = ["--out", str(out), "--table", str(table), "--starts", str(starts)]
    script = load_script("markov/basin_map.py")
    assert script.main(["--points", "5", "--extent", "1.9", *rest]) == 0
    points = pl.read_parquet(out / "basin_map.parquet")
    assert len(points) == 50
    assert (points["predicted"] == points["found"]).all()
    assert (out / "basin_map.png").read_bytes().startswith(PNG)
    rows = pl.read_csv(table)
    assert rows["agree"].to_list() == rows["points"].to_list() == [25, 25]
    assert (rows["global"] + rows["local"] == 25).all()
    assert rows["energy_error"].max() < 1e-9  # type: ignore[operator]
    assert "basin_map.png" in capsys.readouterr().out

    assert script.main(["--chains", "0.2,0.3", *rest]) == 2
    assert "1 members of --starts are of chains" in capsys.readouterr().err
    assert script.main(["--chains", "0.3,0.7", "--out", str(out)]) == 2
    assert "nothing to tell apart" in capsys.readouterr().err
    assert script.main(["--starts", str(tmp_path / "none.csv"), "--out", str(out)]) == 4
    assert "none.csv cannot be read" in capsys.readouterr().err


def test_a_rule_that_is_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_theory, "predicted_basin", lambda e, w, p, q: np.full(
        np.broadcast_shapes(np.shape(e), np.shape(w)), "local"
    ))  # fmt: skip
    arguments = ["--chains", "0.2,0.3", "--points", "3", "--extent", "1.9"]
    places = ["--out", str(tmp_path), "--table", str(tmp_path / "table.csv")]
    assert load_script("markov/basin_map.py").main([*arguments, *places]) == 1
    assert pl.read_csv(tmp_path / "table.csv")["agree"][0] < 9
