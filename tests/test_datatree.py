"""Members and metrics as an xarray.DataTree: the sweep's axes and `step`, to Zarr and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fault_tools
import numpy as np
import polars as pl
import pytest
from small_runs import small_config

import compfast
from compfast.errors import UsageError
from compfast.runs.reading import Run

xarray = pytest.importorskip("xarray", minversion="2024.10")

SWEEP: Any = (
    ("optimizer.decay_windows", ((), ((0.25, 0.5),))),
    ("init.gamma", (0.4, 0.8)),
    ("seed", (5, 6, 7)),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, native_extension: None) -> Run:
    with fault_tools.fast_disk():
        return compfast.train(small_config(sweep=SWEEP), tmp_path_factory.mktemp("tree") / "run")


def test_the_tree_has_every_number_at_its_place(run: Run) -> None:
    tree = run.to_datatree()
    metrics = tree["metrics"]
    steps = run.metrics["step"].unique().sort().to_list()
    assert dict(tree.sizes) == {"decay_windows": 2, "gamma": 2, "seed": 3}
    assert metrics["loss"].dims == ("decay_windows", "gamma", "seed", "step")
    assert metrics["step"].values.tolist() == steps
    flat = {n: metrics[n].values.reshape(12, len(steps)) for n in metrics.data_vars}
    assert flat.keys() == set(run.metrics.columns) - {"member", "step"}
    found = 0
    for row in run.metrics.iter_rows(named=True):
        for name, values in flat.items():
            value = values[row["member"], steps.index(row["step"])]
            told = row[name]
            assert value == told or (told is None and (value == "" or np.isnan(value))), name
            found += told is not None
    assert found > 12 * len(steps)
    assert np.isfinite(metrics["loss"].sel(gamma=0.8, seed=6, step=10)).all()
    for name in ("member", "verdict", "seen"):
        assert tree[name].values.ravel().tolist() == run.members[name].to_list()


def test_who_has_no_row_at_a_step_has_nothing_there(run: Run) -> None:
    gone = run.metrics.filter((pl.col("member") != 7) | (pl.col("step") < 30))
    run = compfast.load(run.path)
    run.__dict__["metrics"] = gone
    metrics = run.to_datatree()["metrics"]
    flat = metrics["loss"].values.reshape(12, -1)
    assert np.isnan(flat[7, metrics["step"].values >= 30]).all()
    assert np.isfinite(flat[8, metrics["step"].values % 10 == 0][1:]).all()
    assert (metrics["verdict"].values.reshape(12, -1)[7, -1]) == ""


def test_the_tree_is_written_to_zarr_and_read_back(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    tree = run.to_datatree()
    tree.to_zarr(tmp_path / "run.zarr", consolidated=False)  # part of no specification
    with xarray.open_datatree(tmp_path / "run.zarr", engine="zarr", consolidated=False) as back:
        assert back.identical(tree)
        cell = back["metrics"].sel(gamma=0.4, seed=7, step=30)
        assert (
            cell["verdict"].values.ravel().tolist()
            == run.metrics.filter((pl.col("step") == 30) & pl.col("member").is_in([2, 8]))[
                "verdict"
            ].to_list()
        )


@pytest.mark.edge("a shard as a grid", "refused: xarray needs all shards")
def test_a_shard_has_no_tree(tmp_path: Path, fast_disk: None) -> None:
    part = compfast.train(small_config(steps=2, run={"shard": (0, 2)}), tmp_path / "part")
    with pytest.raises(UsageError, match="to_datatree needs all of them"):
        part.to_datatree()
