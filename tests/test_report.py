"""The report: numbers of the tables, panels that say what the table says, whole files."""

from __future__ import annotations

import dataclasses
import html.parser
import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_runs import MadeRun, WordConfig, made_run
from matplotlib.figure import Figure
from PIL import Image

from compfast.errors import StorageError
from compfast.report import page, panels, phase, phase_diagram, style, table, write_report
from compfast.storage import durable

GAMMAS = [0.1, 0.3, 0.5, 0.9, 1.3]


def test_summary_counts_every_member_once() -> None:
    run = made_run(GAMMAS, 6)
    found = table.summarise(run.members)
    assert found.gamma.tolist() == GAMMAS
    assert found.members.tolist() == [6] * 5
    assert np.sum(list(found.counts.values()), axis=0).tolist() == [6] * 5
    assert found.counts["underfit"].tolist() == [6, 0, 0, 0, 0]
    own = run.members.filter(pl.col("gamma") == 0.9)
    assert found.share("symmetric")[3] == (own["verdict"] == "symmetric").sum() / 6
    assert found.agreements["seen"].mean[3] == pytest.approx(own["seen"].mean())
    assert found.agreements["seen"].low[3] <= found.agreements["seen"].mean[3]
    assert found.share("nothing").tolist() == [0.0] * 5


def test_agreements_of_diverged_members_are_left_out() -> None:
    good, bad = made_run([0.5], 2), made_run([0.5], 2, diverged=True)
    found = table.summarise(pl.concat([good.members, bad.members]))
    assert found.agreements["seen"].mean[0] == pytest.approx(good.members["seen"].mean())
    assert np.isnan(table.summarise(bad.members).agreements["seen"].mean).all()


def test_candidates_come_from_the_table() -> None:
    run = made_run(GAMMAS, 2)
    assert table.candidates(run.members) == ("inferential", "symmetric")
    both_unseen = run.members.drop("symmetric").with_columns(verdict=pl.lit("inferential"))
    assert table.candidates(both_unseen) == ("inferential",)
    own = run.members.rename({"symmetric": "sum"})
    assert table.candidates(own) == ("inferential", "sum")
    assert style.colour("sum", ("inferential", "sum")) not in style.COLOURS.values()


def test_second_axes_put_depth_first_and_leave_single_values_out() -> None:
    config = dataclasses.replace(
        made_run([0.5], 1).config,
        sweep=(
            ("optimizer.lr", (2e-3, 1e-3)),
            ("model.heads", (1,)),
            ("model.layers", (3, 2)),
            ("init.gamma", (0.1, 0.2)),
            ("seed", (0, 1)),
        ),
    )
    found = table.second_axes(config)
    assert [(axis.column, axis.levels, axis.labels) for axis in found] == [
        ("layers", (2, 3), ["2", "3"]),
        ("lr", (1e-3, 2e-3), ["0.001", "0.002"]),
    ]


def test_band_sentence_compares_the_halves_of_the_range() -> None:
    run = made_run([0.2, 0.4, 0.6, 1.4, 1.5], 6)
    sentence = table.band_sentence(run.members)
    assert sentence is not None
    assert "inferential share: 100% at gamma 0.2 to 0.4, 0% at 1.4 to 1.5" in sentence
    assert "+100 points (95 % bootstrap over seeds +100 to +100)" in sentence


@pytest.mark.parametrize(("gammas", "seeds"), [([0.5], 6), ([0.5, 0.6], 1)])
def test_band_sentence_needs_gammas_and_seeds(gammas: list[float], seeds: int) -> None:
    assert table.band_sentence(made_run(gammas, seeds).members) is None


def test_band_sentence_is_left_out_when_seeds_are_missing() -> None:
    members = made_run([0.5, 0.6], 3).members
    assert table.band_sentence(members.filter(pl.col("member") != 0)) is None


def test_sentences_are_given_for_each_depth() -> None:
    run = made_run(GAMMAS, 4, depths=(2, 3))
    said = table.sentences(run.members, run.config)
    assert [line.split(":")[0] for line in said] == ["layers 2", "layers 3"]


def test_rows_by_gamma() -> None:
    run = made_run(GAMMAS, 4, depths=(2, 3))
    header, rows = table.rows_by_gamma(run.members, table.second_axes(run.config))
    assert header[:3] == ["layers", "gamma", "members"]
    assert "diverged" not in header
    assert len(rows) == 10
    assert rows[0][:4] == ["2", "0.1", "4", "4"]
    assert all(len(row) == len(header) for row in rows)
    header, rows = table.rows_by_gamma(made_run([0.5], 2, diverged=True).members)
    assert rows == [["0.5", "2", "2", "-", "-", "-"]]


def test_edges_lie_half_way() -> None:
    assert panels.edges(np.array([1.0, 2.0, 4.0])).tolist() == [0.5, 1.5, 3.0, 5.0]
    assert panels.edges(np.array([0.5])).tolist() == [0.0, 1.0]


def test_stacked_columns_add_up_to_all_members() -> None:
    axes = Figure().add_subplot()
    panels.stacked(axes, table.summarise(made_run(GAMMAS, 6).members), ("inferential", "symmetric"))
    bars: Any = axes.patches
    height = np.array([bar.get_height() for bar in bars]).reshape(-1, 5)
    bottom = np.array([bar.get_y() for bar in bars]).reshape(-1, 5)
    np.testing.assert_allclose(bottom, np.cumsum(height, axis=0) - height)
    np.testing.assert_allclose(height.sum(axis=0), 1.0)


@pytest.mark.parametrize("gammas", [GAMMAS, np.linspace(0.1, 1.5, 40).tolist()])
def test_share_lines_carry_the_shares(gammas: list[float]) -> None:
    axes = Figure().add_subplot()
    found = table.summarise(made_run(gammas, 5).members)
    panels.shares(axes, found, ("inferential", "symmetric"))
    curves = [line.get_ydata() for line in axes.lines if len(np.asarray(line.get_xdata()))]
    for label in ("underfit", "inferential", "symmetric"):
        assert any(np.array_equal(np.asarray(c), found.share(label)) for c in curves), label


def test_map_hatches_what_is_underfit_and_nothing_else() -> None:
    axes = Figure().add_subplot()
    run = made_run(GAMMAS, 4, depths=(2, 3))
    second = table.second_axes(run.config)
    mesh = panels.share_map(axes, run.members, second, "inferential")
    assert [patch.get_x() for patch in axes.patches] == [0.0, 0.0]  # type: ignore[attr-defined]
    assert all(patch.get_hatch() for patch in axes.patches)
    shown: Any = mesh.get_array()
    assert np.ma.getmaskarray(shown)[:, 0].all()
    assert not np.ma.getmaskarray(shown)[:, 1:].any()
    expected = table.summarise(table.level(run.members, second[0], 1))
    np.testing.assert_array_equal(shown[1, 1:], expected.share("inferential")[1:])


@pytest.mark.parametrize(
    "run",
    [
        made_run(np.linspace(0.1, 1.5, 30).tolist(), 2),
        made_run(GAMMAS, 3, depths=(1, 2, 3, 4, 5)),
        made_run([0.5], 4),
        made_run([0.5], 2, depths=(2, 3)),
        made_run(GAMMAS, 2, diverged=True),
        made_run([0.5], 2, diverged=True),
    ],
    ids=["many gammas", "depths", "one gamma", "one gamma, depths", "diverged", "one, diverged"],
)
def test_every_kind_of_run_gives_a_picture(run: MadeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phase, "_DPI", 50)
    image = Image.open(io.BytesIO(phase.phase_png(run)))
    assert image.width >= 350
    assert image.height >= 200
    assert len(image.convert("RGB").getcolors(1 << 24)) > 10  # type: ignore[arg-type]


def test_caption_states_what_was_trained() -> None:
    run = made_run(GAMMAS, 4, depths=(2, 3))
    said = style.caption(run.config, run.members, "native")
    for words in (
        "40 members", "4 seeds a gamma", "(3,4) trained as x-6, (4,3) unseen", "norm pre",
        "width 48", "depth 2, 3", "heads 2", "weight decay 0.12", "learning rate 0.002", "batch 32",
        f"{run.config.training.steps} steps", "native engine",
    ):  # fmt: skip
        assert words in said


def test_phase_diagram_replaces_the_file_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report" / "phase_diagram.png"
    assert phase_diagram(made_run([0.5], 2), path) == path
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")

    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "write", full)
    with pytest.raises(StorageError, match=r"phase_diagram.*No space left"):
        phase_diagram(made_run([0.7], 2), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


class _Page(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    run = made_run(GAMMAS, 3, task=WordConfig(word="<script>alert('x')</script>&"))
    members = run.members.with_columns(pl.col("verdict").replace("symmetric", "<b>sum</b>")).rename(
        {"symmetric": "<b>sum</b>"}
    )
    sweep = (("task.word", ("<i>pre</i>", "post")), *run.config.sweep)
    config = dataclasses.replace(run.config, sweep=sweep)
    text = page.page(dataclasses.replace(run, members=members, config=config), b"png")
    found = _Page(text)
    tags = [tag for tag, _ in found.tags]
    assert tags.count("script") == len(page.LIBRARIES) + len(page.SCRIPTS) + 3  # and the data
    assert not {"b", "i"} & set(tags)
    assert "<i>pre</i>" in found.text
    assert "<script>alert('x')</script>&" in found.text
    links = [v for _, attributes in found.tags for k, v in attributes.items() if k == "src"]
    assert links == ["data:image/png;base64,cG5n"]
    assert {a["href"] for _, a in found.tags if "href" in a} == {"#members", "data:,"}


def test_write_report_writes_both_files(tmp_path: Path) -> None:
    paths = write_report(made_run([0.5], 2), tmp_path / "report")
    assert [path.name for path in paths] == ["phase_diagram.png", "index.html"]
    assert all(path.stat().st_size > 1000 for path in paths)
