"""Does the trained canonical model end where its theory says? A grid of starts, in pairs.

    python experiments/markov/canonical.py [--chains 0.2,0.3 0.5,0.8] [--points 12] [--extent 1.5]
        [--steps 5000] [--out DIR]

Trains the canonical model (e, w, b) of arXiv 2406.03072 from every point of a grid over (e, w),
b = 0, with the settings of its code: SGD at 0.01 with momentum 0.9, batches of 16 sequences of 512
symbols. Writes a row a member (start, the basin that the rule predicts, the verdict, the loss on
the exam) to DIR/starts.parquet, which `basin_map.py --starts` draws, and prints a row a chain,
which goes into experiments/markov/canonical.csv. The rule is that of the flow whose b is always
the best one; b starts at 0 here and steps are finite, so points near an edge may part.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

import compfast
from compfast.tasks import chain_theory

TABLE = Path(__file__).parent / "canonical.csv"


def trained(p: float, q: float, points: int, extent: float, steps: int, out: Path) -> pl.DataFrame:
    """A row a member: where it began, where theory sends it, what it learned."""
    side = np.linspace(-extent, extent, points)
    e, w = (x.ravel() for x in np.meshgrid(side, side))
    starts = [(("e", float(x)), ("w", float(y))) for x, y in zip(e, w, strict=True)]
    if (out / "config.json").exists():
        run = compfast.train(out=out, resume=True)
    else:
        config = compfast.Config(
            task={"name": "markov", "p": p, "q": q, "seq_len": 512},  # type: ignore[arg-type]
            model={"family": "canonical"},
            optimizer={  # type: ignore[arg-type]
                "kind": "sgd",
                "lr": 0.01,
                "momentum": 0.9,
                "schedule": "constant",
                "warmup": 0.0,
                "weight_decay": 0.0,
                "clip": 0.0,
            },
            training={  # type: ignore[arg-type]
                "steps": steps,
                "batch_size": 16,
                "log_every": 100,
                "eval_every": steps,
            },
            sample={"init.constants": starts},  # type: ignore[arg-type]
        )
        run = compfast.train(config, out=out)
    return run.members.select("verdict", "exam_loss").with_columns(
        p=pl.lit(p),
        q=pl.lit(q),
        e=pl.Series(e),
        w=pl.Series(w),
        predicted=pl.Series(chain_theory.predicted_basin(e, w, p, q).tolist()),
    )


def summary(members: pl.DataFrame) -> dict[str, object]:
    """How often the verdict is the predicted basin."""
    agree = members.filter(pl.col("verdict") == pl.col("predicted"))
    counts = {name: int((members["predicted"] == name).sum()) for name in ("global", "local")}
    chain = {name: members[name][0] for name in ("p", "q")}
    return {**chain, "starts": len(members), **counts, "agree": len(agree)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chains", nargs="+", default=["0.2,0.3", "0.5,0.8"], metavar="P,Q")
    parser.add_argument("--points", type=int, default=12, help="of the grid, along each side")
    parser.add_argument("--extent", type=float, default=1.5, help="the grid is [-X, X]^2")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path("runs/canonical"))
    given = parser.parse_args()
    found = []
    for chain in given.chains:
        p, q = (float(part) for part in chain.split(","))
        folder = given.out / f"{p}-{q}"
        found.append(trained(p, q, given.points, given.extent, given.steps, folder))
    members = pl.concat(found)
    members.write_parquet(given.out / "starts.parquet")
    table = pl.DataFrame([summary(each) for each in found])
    table.write_csv(TABLE)
    print(table)


if __name__ == "__main__":
    main()
