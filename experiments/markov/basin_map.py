"""Where does the canonical model of a Markov chain end? Its basins, by rule and by flow.

    python experiments/markov/basin_map.py [--chains 0.2,0.3 0.5,0.8] [--points 20] [--extent 2]
        [--starts FILE] [--out DIR] [--table FILE.csv]

For every point of a grid over (e, w), arXiv 2406.03072's rule beside the gradient flow integrated
from there. Writes basin_map.png and basin_map.parquet (a row a point) into DIR, runs/basin_map by
default, prints a row a chain (how many points the rule sends where, how many of them the flow
agrees with, and its errors) and puts those rows in the table, experiments/markov/basin_map.csv.
FILE of --starts is a CSV or Parquet with columns p, q, e, w, verdict, a row a trained member: its
first weights are drawn as dots. Exit codes: 0 the flow agrees everywhere, 1 it does not, 2 usage,
4 storage.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from compfast.errors import CompfastError, StorageError, UsageError
from compfast.report.basins import Panel, Starts, basin_map
from compfast.storage import durable
from compfast.tasks import chain_flow, chain_theory

HERE = Path(__file__).parent
LEVEL = 1e-6  # nats within which a loss is the entropy rate, or the stationary law's entropy
COLUMNS = ("p", "q", "e", "w", "verdict")


def grid(p: float, q: float, points: int, extent: float) -> pl.DataFrame:
    """points^2 rows: a start (e, w), what the rule says of it, and where the flow from it ends."""
    side = np.linspace(-extent, extent, points)
    e, w = (x.ravel() for x in np.meshgrid(side, side))
    ends = chain_flow.ends(e, w, p, q)
    rate, entropy = chain_theory.entropy_rate(p, q), chain_theory.stationary_entropy(p, q)
    near = [np.abs(ends.loss - level) < LEVEL for level in (rate, entropy)]
    return pl.DataFrame(
        {
            "p": np.full(len(e), p),
            "q": np.full(len(e), q),
            "e": e,
            "w": w,
            "energy": chain_theory.energy(e, w),
            "start_loss": chain_theory.reduced_loss(e, w, p, q),
            "predicted": chain_theory.predicted_basin(e, w, p, q).tolist(),
            "found": np.select(near, ["global", "local"], "neither").tolist(),
            "settled": ends.settled,
            "end_e": ends.e,
            "end_w": ends.w,
            "end_energy": chain_theory.energy(ends.e, ends.w),
            "end_loss": ends.loss,
            "time": ends.time,
        }
    )


def summary(points: pl.DataFrame) -> pl.DataFrame:
    """A row a chain."""
    # Points at w = 0 have no energy.
    drift = (pl.col("end_energy") - pl.col("energy")).abs().fill_nan(None).max()
    counts = [(pl.col("predicted") == name).sum().alias(name) for name in ("global", "local")]
    return points.group_by("p", "q", maintain_order=True).agg(
        pl.len().alias("points"),
        *counts,
        (pl.col("predicted") == pl.col("found")).sum().alias("agree"),
        pl.col("settled").sum(),
        drift.round_sig_figs(2).alias("energy_error"),
    )


def read_starts(path: Path) -> pl.DataFrame:
    """Raises StorageError for what cannot be read, UsageError for a file without the columns."""
    try:
        found = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    missing = [name for name in COLUMNS if name not in found.columns]
    if missing:
        raise UsageError(f"{path} has no column {missing[0]}; it must have {', '.join(COLUMNS)}")
    return found.drop_nulls(COLUMNS)


def panels(chains: Sequence[tuple[float, float]], starts: pl.DataFrame | None) -> list[Panel]:
    """Raises UsageError where members of `starts` are of a chain that is not drawn."""
    if starts is None:
        return [Panel(p, q) for p, q in chains]
    own = [starts.filter((pl.col("p") == p) & (pl.col("q") == q)) for p, q in chains]
    if sum(map(len, own)) < len(starts):
        raise UsageError(
            f"{len(starts) - sum(map(len, own))} members of --starts are of chains that --chains"
            " does not name"
        )
    return [
        Panel(p, q, Starts(part["e"].to_numpy(), part["w"].to_numpy(), part["verdict"].to_list()))
        for (p, q), part in zip(chains, own, strict=True)
    ]


def chain(text: str) -> tuple[float, float]:
    """ "0.2,0.3" as numbers."""
    p, q = (float(part) for part in text.split(","))
    return p, q


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--chains", type=chain, nargs="+", metavar="P,Q", default=[(0.2, 0.3), (0.5, 0.8)]
    )
    parser.add_argument("--points", type=int, default=20, help="points a side of the grid")
    parser.add_argument("--extent", type=float, default=2.0, help="largest |e| and |w|")
    parser.add_argument("--starts", type=Path, help="trained members, CSV or Parquet")
    parser.add_argument("--out", type=Path, default=Path("runs") / "basin_map")
    parser.add_argument("--table", type=Path, default=HERE / "basin_map.csv")
    given = parser.parse_args(argv)
    if given.points < 2:
        parser.error(f"--points is {given.points}; it must be at least 2")
    try:
        starts = read_starts(given.starts) if given.starts else None
        picture = basin_map(panels(given.chains, starts), given.out / "basin_map.png", given.extent)
        points = pl.concat([grid(p, q, given.points, given.extent) for p, q in given.chains])
        rows = summary(points)
        content = io.BytesIO()
        points.write_parquet(content)
        durable.replace_file(given.out / "basin_map.parquet", [content.getvalue()])
        durable.replace_file(given.table, [rows.write_csv().encode()])
    except CompfastError as error:
        print(f"basin_map: {error}", file=sys.stderr)
        return error.exit_code
    with pl.Config(tbl_cols=-1, tbl_width_chars=120):
        print(rows)
    print(f"{picture}, {given.out / 'basin_map.parquet'}, {given.table}")
    return 0 if (rows["agree"] == rows["points"]).all() else 1


if __name__ == "__main__":
    sys.exit(main())
