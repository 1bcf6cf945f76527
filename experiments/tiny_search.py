"""Which small setting shows every zone? Trains every setting of tiny_search.toml.

    python experiments/tiny_search.py [--grid FILE.toml] [--table FILE.csv]

Appends one row a (setting, gamma) to the table: mean exam scores and the count of each verdict.
Settings that the table holds already are skipped, so a stopped search goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import polars as pl

import compfast
from compfast.config.settings import from_dict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent
VERDICTS = ("underfit", "inferential", "symmetric", "mixed", "other", "diverged")
SEEDS = 8  # a gamma, where a grid does not say
AXES = ("name", "gammas", "seeds")


def settings(path: Path) -> list[dict[str, Any]]:
    """Every setting, {"name": ..., section: {...}}, with the gammas and seeds of its grid."""
    with path.open("rb") as file:
        grids = tomllib.load(file)["grid"]
    axes = ({"gammas": g["gammas"], "seeds": range(g.get("seeds", SEEDS))} for g in grids)
    pairs = zip(grids, axes, strict=True)
    return [{**setting, **own} for grid, own in pairs for setting in grid["setting"]]


def run(setting: dict[str, Any], folder: Path) -> pl.DataFrame:
    """Train one setting; a row a gamma."""
    sections = {key: value for key, value in setting.items() if key not in AXES}
    training = {"log_every": 500, "eval_every": 1000, **sections.pop("training", {})}
    sweep = {"init.gamma": setting["gammas"], "seed": setting["seeds"]}
    config = from_dict({**sections, "training": training, "sweep": sweep})
    members = compfast.train(config, out=folder).members
    scores = [pl.col(name).mean().round(3) for name in ("seen", "inferential", "symmetric")]
    counts = [(pl.col("verdict") == name).sum().alias(f"n_{name}") for name in VERDICTS]
    table = members.group_by("gamma", maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("members"), *scores, *(n.cast(pl.Int64) for n in counts)
    )
    return table.select(pl.lit(setting["name"]).alias("setting"), pl.all())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", type=Path, default=HERE / "tiny_search.toml")
    parser.add_argument("--table", type=Path, default=HERE / "tiny_search.csv")
    arguments = parser.parse_args()
    done = pl.read_csv(arguments.table) if arguments.table.exists() else None
    for setting in settings(arguments.grid):
        if done is not None and setting["name"] in done["setting"].to_list():
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows = run(setting, Path(folder) / "run")
        done = rows if done is None else pl.concat([done, rows])
        done.write_csv(arguments.table)
        print(rows)


if __name__ == "__main__":
    main()
