"""Does the bf16 mode change what members learn? The same members in both modes, pair by pair.

    python experiments/precision_study.py [--out DIR] [--gammas 32] [--seeds 8]

Trains the tiny preset over gamma 0.1 to 1.5 in fp32 and in bf16 (same seeds, so the same initial
weights and data), then prints and writes experiments/precision_study.csv: a row a verdict with its
share in each mode, how many members changed to and from it, and the p-value of the exact McNemar
test (two-sided binomial on the members that changed). A stopped study goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl
from scipy.stats import binomtest

import compfast
from compfast.config import Config, TrainingConfig

HERE = Path(__file__).parent
VERDICTS = ("underfit", "inferential", "symmetric", "mixed", "other", "diverged")


def trained(out: Path, precision: str, gammas: int, seeds: int) -> pl.DataFrame:
    """One row a member of the study in one mode."""
    if (out / "config.json").exists():
        return compfast.train(out=out, resume=True).members
    values = tuple(round(float(gamma), 12) for gamma in np.linspace(0.1, 1.5, gammas))
    config = Config(
        training=TrainingConfig(precision=precision),  # type: ignore[arg-type]
        sweep=(("init.gamma", values), ("seed", tuple(range(seeds)))),
    )
    return compfast.train(config, out=out).members


def paired(a: pl.DataFrame, b: pl.DataFrame) -> pl.DataFrame:
    """Shares of each verdict in two trainings of the same members, and McNemar's exact test."""
    if not a.select("member", "gamma", "seed").equals(b.select("member", "gamma", "seed")):
        raise SystemExit("the two runs do not hold the same members")
    rows = []
    for verdict in VERDICTS:
        left, right = (run["verdict"].to_numpy() == verdict for run in (a, b))
        lost, gained = int((left & ~right).sum()), int((~left & right).sum())
        changed = lost + gained
        rows.append(
            {
                "verdict": verdict,
                "fp32": int(left.sum()),
                "bf16": int(right.sum()),
                "lost": lost,
                "gained": gained,
                "p": binomtest(gained, changed).pvalue if changed else 1.0,
            }
        )
    return pl.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/precision-study"))
    parser.add_argument("--gammas", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=8)
    arguments = parser.parse_args()
    runs = [
        trained(arguments.out / precision, precision, arguments.gammas, arguments.seeds)
        for precision in ("fp32", "bf16")
    ]
    table = paired(*runs).with_columns(pl.col("p").round(4))
    table.write_csv(HERE / "precision_study.csv")
    same = int((runs[0]["verdict"] == runs[1]["verdict"]).sum())
    print(table)
    print(f"{same} of {len(runs[0])} members have the same verdict in both modes")


if __name__ == "__main__":
    main()
