"""Does the bf16 mode change what members learn? The same members in both modes, pair by pair.

    python -m compfast.ensemble --models 512 --gamma-range 0.1:1.5 --out runs/main
    python experiments/precision_study.py runs/main [--out DIR] [--every 2]

Takes every second gamma of a finished fp32 run with all its seeds (256 of the 512 members above),
trains those members once more in bf16 (same seeds, so the same initial weights and data), prints a
row a verdict and writes experiments/precision_study.csv: how many members have it in each mode,
how many lost or gained it, and the p-value of McNemar's exact test, a two-sided binomial test on
the members that changed. A stopped study goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import polars as pl
from scipy.stats import binomtest

import compfast

HERE = Path(__file__).parent
VERDICTS = ("underfit", "inferential", "symmetric", "mixed", "other", "diverged")


def in_bf16(run: compfast.Run, every: int, out: Path) -> pl.DataFrame:
    """One row a member of the study, trained in bf16."""
    if (out / "config.json").exists():
        return compfast.train(out=out, resume=True).members
    gammas = tuple(run.members["gamma"].unique().sort().to_list()[::every])
    sweep = tuple(
        (path, gammas if path == "init.gamma" else values) for path, values in run.config.sweep
    )
    training = dataclasses.replace(run.config.training, precision="bf16")
    config = dataclasses.replace(run.config, training=training, sweep=sweep)
    return compfast.train(config, out=out).members


def paired(fp32: pl.DataFrame, bf16: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """A row a verdict, and how many members have the same one in both modes."""
    keys = ["gamma", "seed"]
    both = bf16.select(*keys, "verdict").join(
        fp32.select(*keys, "verdict"), on=keys, suffix="_fp32", validate="1:1"
    )
    if len(both) != len(bf16):
        raise SystemExit("the fp32 run does not hold every member of the study")
    rows = []
    for verdict in VERDICTS:
        left, right = both["verdict_fp32"] == verdict, both["verdict"] == verdict
        lost, gained = int((left & ~right).sum()), int((~left & right).sum())
        p = binomtest(gained, lost + gained).pvalue if lost + gained else 1.0
        counts = {"fp32": int(left.sum()), "bf16": int(right.sum()), "lost": lost}
        rows.append({"verdict": verdict, **counts, "gained": gained, "p": round(float(p), 4)})
    return pl.DataFrame(rows), int((both["verdict"] == both["verdict_fp32"]).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("fp32", type=Path, help="folder of the finished run")
    parser.add_argument("--out", type=Path, default=Path("runs/precision-study"))
    parser.add_argument("--every", type=int, default=2, help="take every so many gammas")
    arguments = parser.parse_args()
    known = compfast.load(arguments.fp32)
    trained = in_bf16(known, arguments.every, arguments.out)
    table, same = paired(known.members, trained)
    table.write_csv(HERE / "precision_study.csv")
    print(table)
    print(f"{same} of {len(trained)} members have the same verdict in both modes")


if __name__ == "__main__":
    main()
