"""The map of the tiny preset, as experiments/tiny_search.csv has it: every zone, and its width."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import polars as pl

from compfast.config import Config
from compfast.config.settings import from_dict, load_toml
from compfast.ensembles.grid import gamma_axis
from compfast.solutions import wilson

FOLDER = Path(__file__).parent.parent / "experiments"
LEAST = 3  # gammas a zone is wide


def grid() -> dict[str, Any]:
    last: dict[str, Any] = load_toml(FOLDER / "tiny_search.toml")["grid"][-1]
    return last


def leader(row: dict[str, Any]) -> str | None:
    """The verdict whose interval lies above that of every other one, if there is one."""
    counts = {name[2:]: n for name, n in row.items() if name.startswith("n_")}
    low, high = wilson(list(counts.values()), row["members"])
    best = max(range(len(counts)), key=lambda i: low[i])
    clear = all(low[best] > h for i, h in enumerate(high) if i != best)
    return list(counts)[best] if clear else None


def zones(rows: pl.DataFrame) -> list[str]:
    """Verdicts that lead on at least LEAST gammas next to each other, by gamma."""
    leaders = [leader(row) for row in rows.sort("gamma").to_dicts()]
    runs = [(name, len(list(same))) for name, same in itertools.groupby(leaders)]
    wide = [name for name, length in runs if name is not None and length >= LEAST]
    return [name for name, _ in itertools.groupby(wide)]


def test_the_default_map_shows_every_zone() -> None:
    setting = grid()["setting"][-1]
    rows = pl.read_csv(FOLDER / "tiny_search.csv").filter(pl.col("setting") == setting["name"])
    assert rows["members"].sum() == 512
    assert zones(rows) == ["underfit", "symmetric", "inferential", "symmetric"]


def test_the_table_is_of_the_default() -> None:
    last = grid()
    sections = {k: v for k, v in last["setting"][-1].items() if k != "name"}
    default, tried = Config(), from_dict(sections)
    assert (tried.task, tried.model, tried.optimizer) == (
        default.task,
        default.model,
        default.optimizer,
    )
    for name in ("steps", "batch_size"):
        assert getattr(tried.training, name) == getattr(default.training, name)
    assert tuple(last["gammas"]) == gamma_axis(0.1, 1.5, 512 // last["seeds"])
