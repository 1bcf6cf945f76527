"""A run's tables as xarray holds them: dimensions are the sweep's axes, and `step` of metrics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.config import Config
from compfast.config.extras import needed
from compfast.config.labels import labels
from compfast.ensembles.table import column_of
from compfast.errors import UsageError


@dataclass(frozen=True, slots=True)
class Labelled:
    """How members lie on the axes of their sweep."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    coordinates: dict[str, Any]

    def __contains__(self, column: str) -> bool:
        return column in self.coordinates


def dataset(members: pl.DataFrame, config: Config, path: Path) -> Any:
    """See `Run.to_xarray`."""
    xarray = needed("xarray", "to_xarray")
    grid = _grid(config, path, "to_xarray")
    names = [name for name in members.columns if name not in grid]
    variables = {n: (grid.dims, _values(members[n]).reshape(grid.shape)) for n in names}
    return xarray.Dataset(variables, coords=grid.coordinates, attrs={"run": str(path)})


def datatree(members: pl.DataFrame, metrics: pl.DataFrame, config: Config, path: Path) -> Any:
    """See `Run.to_datatree`."""
    xarray = needed("xarray", "to_datatree")
    if not hasattr(xarray, "DataTree"):
        raise UsageError(
            "to_datatree needs xarray 2024.10 or newer, which has DataTree:"
            " pip install --upgrade xarray"
        )
    grid = _grid(config, path, "to_datatree")
    steps = metrics["step"].unique().sort()
    places = (
        metrics["member"].to_numpy() - int(members["member"][0]),
        steps.search_sorted(metrics["step"]).to_numpy(),
    )
    variables = {}
    for name in metrics.columns:
        if name in ("member", "step"):
            continue
        values = _values(metrics[name])
        empty = np.nan if values.dtype.kind == "f" else None
        whole = np.full((len(members), len(steps)), empty, values.dtype)
        whole[places] = values
        variables[name] = ((*grid.dims, "step"), whole.reshape(*grid.shape, len(steps)))
    own = xarray.Dataset(variables, coords={**grid.coordinates, "step": steps.to_numpy()})
    root = _plain_texts(dataset(members, config, path))
    return xarray.DataTree.from_dict({"/": root, "/metrics": _plain_texts(own)})


def _grid(config: Config, path: Path, who: str) -> Labelled:
    if config.run.shard[1] > 1:
        raise UsageError(f"{path} is one shard of a sweep; {who} needs all of them")
    axes = {column_of(path): list(values) for path, values in config.sweep}
    drawn = {column_of(path): list(values) for path, values in config.sample}
    if drawn:
        axes = {"point": list(range(config.points)), **axes}
    coordinates: dict[str, Any] = {
        name: labels(values) if any(_odd(v) for v in values) else values
        for name, values in {**axes, **drawn}.items()
    }
    coordinates |= {name: ("point", coordinates[name]) for name in drawn}
    return Labelled(tuple(axes), tuple(len(values) for values in axes.values()), coordinates)


def _plain_texts(data: Any) -> Any:
    """Texts that files can hold: of any length (Zarr's `string`), and "" where there is none."""
    for name, variable in list(data.variables.items()):
        if variable.dtype.kind in "OU":
            # xarray has NaN, or None, where a text is missing.
            texts = [v if isinstance(v, str) else "" for v in variable.values.ravel().tolist()]
            plain = np.array(texts, object).reshape(variable.shape)
            kept = data.assign_coords if name in data.coords else data.assign
            data = kept({name: (variable.dims, plain)})
    return data


def _values(column: pl.Series) -> NDArray[Any]:
    """A column's values; texts as Python's own, which keep their length where they are selected."""
    array = column.to_numpy()
    return array.astype(object) if column.dtype == pl.String else array


def _odd(value: Any) -> bool:
    """Whether a value of an axis cannot be looked up in an index."""
    return value is None or isinstance(value, tuple)
