"""Every axis of a sweep is an axis of the report, or the report says that it is pooled."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import swept_run
from matplotlib.figure import Figure
from PIL import Image
from small_runs import small_config

import compfast
from compfast.report import page, panels, phase, style, table
from compfast.tasks.anchor import AnchorConfig

GAMMAS = [0.1, 0.5, 0.9]
TWO_SEEDS: dict[str, list[Any]] = {"init.gamma": GAMMAS, "seed": [0, 1]}
UNSEEN: list[Any] = [[[4, 3]], [[3, 4], [4, 3]], []]
edge = pytest.mark.edge(
    "a sweep over a field with None among its values, or over lists",
    "an axis of table, sentences, map and page like any other",
)


@edge
@pytest.mark.parametrize(
    ("path", "values", "texts"),
    [
        ("init.gamma_qk", [0.5, "none"], ["none", "0.5"]),
        ("model.d_k", ["none", 32, 16], ["none", "16", "32"]),
        ("model.final_norm", [True, "none", False], ["none", "false", "true"]),
        ("model.causal", [True, False], ["false", "true"]),
        ("model.norm", ["pre", "post"], ["post", "pre"]),
        ("task.unseen", UNSEEN[:2], ["[[3,4],[4,3]]", "[[4,3]]"]),
    ],
)
def test_levels_are_told_apart(path: str, values: list[Any], texts: list[str]) -> None:
    """Verdicts differ by level, so that a level that got another's members would show."""
    run = swept_run({path: values, **TWO_SEEDS})
    (axis,) = table.second_axes(run.config)
    assert axis.labels == texts
    header, rows = table.rows_by_gamma(run.members, [axis])
    assert header[:3] == [axis.column, "gamma", "members"]
    assert [row[:3] for row in rows] == [[t, g, "2"] for t in texts for g in ("0.1", "0.5", "0.9")]
    order = [dict(run.config.sweep)[path].index(level) for level in axis.levels]
    mean = header.index("mean seen")
    assert [float(row[mean]) for row in rows] == [i / 10 for i in order for _ in GAMMAS]
    said = table.sentences(run.members, run.config)
    assert [line.split(": ")[0] for line in said] == [f"{axis.column} {t}" for t in texts]
    assert f"<td>{texts[0]}</td>" in page.page(run, b"")
    mesh = panels.share_map(Figure().add_subplot(), run.members, [axis], "inferential")
    shown: Any = mesh.get_array()
    assert shown.shape == (len(texts), 3)


@edge
def test_a_derived_value_that_is_another_level_s_is_a_level_of_its_own() -> None:
    """d_k none is 32 here, which is in the members table for both levels."""
    run = swept_run({"model.d_k": ["none", 32], **TWO_SEEDS}, d_k=32)
    (axis,) = table.second_axes(run.config)
    first, second = (table.level(run.members, axis, i)["member"].to_list() for i in (0, 1))
    assert (first, second) == (list(range(6)), list(range(6, 12)))


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_levels_are_found_wherever_the_axis_stands(order: tuple[str, str]) -> None:
    axes: dict[str, tuple[str, list[Any]]] = {
        "a": ("init.gamma_qk", ["none", 0.2, 0.4]),
        "b": ("seed", [5, 6]),
    }
    run = swept_run(dict(axes[name] for name in order))
    (axis,) = table.second_axes(run.config)
    for i, value in enumerate((None, 0.2, 0.4)):
        own = table.level(run.members, axis, i)
        assert own["seen"].to_list() == [i / 10] * 2, value


def test_a_shard_s_levels_are_those_of_the_sweep() -> None:
    whole = swept_run({"task.unseen": UNSEEN, **TWO_SEEDS})
    (axis,) = table.second_axes(whole.config)
    shard = whole.members[10:]
    assert [len(table.level(shard, axis, i)) for i in range(3)] == [6, 2, 0]
    _, rows = table.rows_by_gamma(shard, [axis])
    assert [row[:3] for row in rows] == [
        ["[]", "0.1", "2"],
        ["[]", "0.5", "2"],
        ["[]", "0.9", "2"],
        ["[[3,4],[4,3]]", "0.9", "2"],
    ]


@edge
def test_several_axes_are_all_told_apart_while_they_are_few() -> None:
    run = swept_run({"optimizer.lr": [0.001, 0.002], "model.d_k": ["none", 8], **TWO_SEEDS})
    header, rows = table.rows_by_gamma(run.members, table.split(run.config).shown)
    assert header[:4] == ["lr", "d_k", "gamma", "members"]
    cells = [[lr, d] for lr in ("0.001", "0.002") for d in ("none", "8")]
    assert [row[:2] for row in rows] == [cell for cell in cells for _ in GAMMAS]
    said = table.sentences(run.members, run.config)
    assert [line.split(": ")[0] for line in said] == [f"lr {a}, d_k {b}" for a, b in cells]


@edge
def test_axes_that_are_pooled_are_named() -> None:
    many = [0.01 * i for i in range(1, 10)]
    axes: dict[str, list[Any]] = {"optimizer.weight_decay": [0.1, 0.2], "model.d_k": ["none", 8]}
    run = swept_run({"optimizer.lr": many, **axes, "init.gamma": [0.1, 0.5], "seed": [0]})
    split = table.split(run.config)
    assert [axis.column for axis in split.shown] == ["lr"]
    assert [axis.column for axis in split.pooled] == ["weight_decay", "d_k"]
    words = "pool the members of every weight_decay (0.1, 0.2), d_k (none, 8)"
    assert words in table.sentences(run.members, run.config)[-1]
    assert words in page.page(run, b"")


def test_an_axis_of_one_value_is_none_but_its_value_counts() -> None:
    run = swept_run({"task.unseen": [[[3, 4]]], "task.overridden": [[]], **TWO_SEEDS})
    assert table.second_axes(run.config) == ()
    assert "task anchor, (3,4) unseen;" in style.caption(run.config, run.members, "native")


def test_the_caption_names_what_members_differ_in() -> None:
    run = swept_run({"task.unseen": UNSEEN, "init.gamma_qk": ["none", 0.5], **TWO_SEEDS})
    said = style.caption(run.config, run.members, "native")
    assert "unseen [], [[3,4],[4,3]], [[4,3]]; gamma_qk none, 0.5; native engine" in said
    assert "(4,3) unseen" not in said


@pytest.mark.parametrize(
    "sweep",
    [
        {"init.gamma_qk": ["none", 0.2], **TWO_SEEDS},
        {"init.gamma_qk": ["none", 0.1, 0.2, 0.3, 0.4, 0.5], "seed": [0, 1]},
        {"task.unseen": UNSEEN, "model.d_k": ["none", 8], **TWO_SEEDS},
        {"model.final_norm": ["none", True]},
    ],
    ids=["None", "no gamma", "two lists", "no gamma, no seed"],
)
def test_every_kind_of_axis_gives_a_picture(
    sweep: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phase, "_DPI", 50)
    image = Image.open(io.BytesIO(phase.phase_png(swept_run(sweep))))
    assert min(image.size) > 150


def test_the_picture_says_what_its_parts_pool() -> None:
    run = swept_run({"optimizer.lr": [0.1, 0.2], "model.d_k": ["none", 8], **TWO_SEEDS})
    said = phase._reading(table.second_axes(run.config), table.split(run.config).shown, 2, False)
    assert "Columns pool all values of d_k." in said
    assert "map" not in said
    said = phase._reading(table.second_axes(run.config), (), 2, True)
    assert "Columns pool all values of d_k." in said


def test_a_map_of_very_many_levels_keeps_its_size() -> None:
    run = swept_run({"optimizer.lr": np.linspace(0.1, 0.9, 300).tolist(), "init.gamma": [0.1, 0.2]})
    axes = Figure().add_subplot()
    mesh: Any = panels.share_map(axes, run.members, table.second_axes(run.config), "inferential")
    assert mesh.get_array().shape == (300, 2)
    assert len(axes.get_yticks()) == 60


@edge
def test_a_trained_sweep_over_None_and_lists(tmp_path: Path) -> None:
    """The members table of a real run: derived values and JSON text stand in its columns."""
    sweep = (
        ("model.d_k", (None, 8)),
        ("task.unseen", (((4, 3),), ((3, 4), (4, 3)))),
        ("seed", (0, 1)),
    )
    config = small_config(sweep=sweep, steps=4, eval_every=4, log_every=4)
    task = AnchorConfig(overridden=())
    run = compfast.train(dataclasses.replace(config, task=task), tmp_path / "run")
    assert set(run.members["d_k"]) == {8}
    header, rows = table.rows_by_gamma(run.members, table.split(run.config).shown)
    assert header[:4] == ["d_k", "unseen", "gamma", "members"]
    assert [row[:4] for row in rows] == [
        [d, unseen, "0.5", "2"] for d in ("none", "8") for unseen in ("[[3,4],[4,3]]", "[[4,3]]")
    ]
    assert set(table.level(run.members, table.second_axes(run.config)[1], 1)["unseen"]) == {
        "[[4, 3]]"
    }
    pytest.importorskip("xarray")
    data = run.to_xarray()
    assert data["d_k"].values.tolist() == ["none", "8"]
    assert data["unseen"].values.tolist() == ["[[4,3]]", "[[3,4],[4,3]]"]
    assert data.sel(d_k="8", unseen="[[3,4],[4,3]]", seed=1)["member"].item() == 7
