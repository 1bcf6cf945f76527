"""Does another way to compute change what members learn? The same members both ways, in pairs.

    pip install -e ".[bench]"
    python -m compfast.ensemble --models 512 --gamma-range 0.1:1.5 --out runs/main
    python experiments/paired_study.py runs/main isa=v3 [--out DIR] [--every 2]

The second argument is what changes: precision=bf16, isa=NAME or engine=NAME. Takes every second
gamma of a finished run with all its seeds (256 of the 512 members above), trains those members
once more that way (same seeds, so the same initial weights and data), and prints a row a verdict:
how many members have it in the first run and in the second, how many lost or gained it, and the
p-value of McNemar's exact test, a two-sided binomial test on the members that changed. The rows
replace those of the same change in experiments/paired_study.csv. A stopped study goes on where it
was.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

import polars as pl
from scipy.stats import binomtest

import compfast

HERE = Path(__file__).parent
TABLE = HERE / "paired_study.csv"
VERDICTS = ("underfit", "inferential", "symmetric", "mixed", "other", "diverged")


def trained_again(run: compfast.Run, change: str, every: int, out: Path) -> pl.DataFrame:
    """One row a member of the study, trained with the change."""
    kind, _, value = change.partition("=")
    if kind not in ("precision", "isa", "engine"):
        raise SystemExit(f"the change is {change!r}; it must be precision=, isa= or engine=")
    if kind == "isa":
        os.environ["COMPFAST_ISA"] = value
    if (out / "config.json").exists():
        return compfast.train(out=out, resume=True).members
    gammas = tuple(run.members["gamma"].unique().sort().to_list()[::every])
    sweep = tuple(
        (path, gammas if path == "init.gamma" else values) for path, values in run.config.sweep
    )
    config = dataclasses.replace(run.config, sweep=sweep)
    if kind == "precision":
        training = dataclasses.replace(config.training, precision=value)
        config = dataclasses.replace(config, training=training)
    elif kind == "engine":
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, engine=value))
    return compfast.train(config, out=out).members


def paired(first: pl.DataFrame, second: pl.DataFrame, change: str) -> tuple[pl.DataFrame, int]:
    """A row a verdict, and how many members have the same one both times."""
    keys = ["gamma", "seed"]
    both = second.select(*keys, "verdict").join(
        first.select(*keys, "verdict"), on=keys, suffix="_first", validate="1:1"
    )
    if len(both) != len(second):
        raise SystemExit("the first run does not hold every member of the study")
    rows = []
    for verdict in VERDICTS:
        left, right = both["verdict_first"] == verdict, both["verdict"] == verdict
        lost, gained = int((left & ~right).sum()), int((~left & right).sum())
        p = binomtest(gained, lost + gained).pvalue if lost + gained else 1.0
        counts = {"first": int(left.sum()), "second": int(right.sum())}
        changes = {"lost": lost, "gained": gained, "p": round(float(p), 4)}
        rows.append({"change": change, "verdict": verdict, **counts, **changes})
    return pl.DataFrame(rows), int((both["verdict"] == both["verdict_first"]).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("first", type=Path, help="folder of the finished run")
    parser.add_argument("change", help="precision=bf16, isa=NAME or engine=NAME")
    parser.add_argument("--out", type=Path, help="default: runs/paired-CHANGE")
    parser.add_argument("--every", type=int, default=2, help="take every so many gammas")
    given = parser.parse_args()
    known = compfast.load(given.first)
    out = given.out or Path("runs") / f"paired-{given.change}"
    members = trained_again(known, given.change, given.every, out)
    table, same = paired(known.members, members, given.change)
    kept = pl.read_csv(TABLE).filter(pl.col("change") != given.change)
    pl.concat([kept, table], how="vertical_relaxed").write_csv(TABLE)
    print(table)
    print(f"{same} of {len(members)} members have the same verdict both times")


if __name__ == "__main__":
    main()
