"""Do the bottleneck and the transformer generalise to mixes of modules that they never saw?

    python experiments/in_context/generalise.py [--size small|paper] [--steps N] [--seeds 2]
        [--families bottleneck transformer] [--supports connected_plus connected disconnected]
        [--samples N] [--out DIR]

Trains the two networks of arXiv 2407.12275 on tasks whose trained pairs of modules are connected+
(12 of 15), connected or disconnected (6 each), and measures R2 on the pairs held out (`ood_r2`), on
trained ones and on teachers of their own. A row a network and support goes into
experiments/in_context/generalise.csv, the paper's numbers (read from its figures 2 and 3, at
100,000 steps and full size) beside ours; a row of the same size, steps, seeds and samples is
replaced, others stay.

`--size paper` has the paper's widths and 100,000 steps; small ones x of 4, teachers of 4 units and
networks of width 32. The cosine ends with the steps, so that few steps are a short training, not
the beginning of a long one. The number of examples N is not in the paper; by default it is the
preset's. A run of these settings that is in DIR already is taken up where it stands.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

import compfast
from compfast.config import settings
from compfast.tasks import preset

TABLE = Path(__file__).parent / "generalise.csv"
FAMILIES, SUPPORTS = ("bottleneck", "transformer"), ("connected_plus", "connected", "disconnected")
SAME = ("family", "support", "size", "steps", "seeds", "samples")  # one row each
PAPER_STEPS = 100_000
# arXiv 2407.12275, figures 2 and 3: (family, support) -> R2 on held-out pairs; of connected+ also
# on trained pairs and on unstructured teachers.
PAPER: dict[tuple[str, str], tuple[float, float | None, float | None]] = {
    ("bottleneck", "connected_plus"): (0.985, 0.999, -0.28),
    ("transformer", "connected_plus"): (0.87, 0.998, 0.16),
    ("bottleneck", "connected"): (0.90, None, None),
    ("transformer", "connected"): (0.86, None, None),
    ("bottleneck", "disconnected"): (0.775, None, None),
    ("transformer", "disconnected"): (0.857, None, None),
}


def config_of(family: str, given: argparse.Namespace) -> compfast.Config:
    """A run of one family: every support and seed."""
    name = "hyperteacher" + "-bottleneck" * (family == "bottleneck")
    name += "-paper" * (given.size == "paper")
    training: dict[str, Any] = {"steps": given.steps} if given.steps else {}
    task: dict[str, Any] = {"samples": given.samples} if given.samples else {}
    supports, seeds = list(given.supports), list(range(given.seeds))
    overlay = {"task": task, "training": training, "evaluation": {"unseen_items": given.items}}
    overlay["evaluation"]["seen_items"] = given.items
    overlay["sweep"] = {"task.support": supports, "seed": seeds}
    return settings.from_dict(settings.apply(preset(name), overlay))


def trained(family: str, given: argparse.Namespace) -> pl.DataFrame:
    """A row a support."""
    config = config_of(family, given)
    steps, samples = config.training.steps, config.task.samples  # type: ignore[attr-defined]
    sizes = f"{given.size}-{steps}-{given.seeds}-{samples}-{given.items}"
    out = given.out / f"{family}-{sizes}-{'-'.join(given.supports)}"
    if (out / "config.json").exists():
        run = compfast.train(out=out, resume=True)
    else:
        run = compfast.train(config, out=out)
    measured = run.members.group_by("support", maintain_order=True).agg(
        pl.len().alias("seeds"),
        pl.col("ood_r2").mean(),
        pl.col("ood_r2").std().alias("ood_r2_std"),
        pl.col("seen_r2").mean(),
        pl.col("unstructured_r2").mean(),
    )
    papers = [PAPER.get((family, support), (None,) * 3) for support in measured["support"]]
    columns = ("paper_ood_r2", "paper_seen_r2", "paper_unstructured_r2")
    named = [
        pl.Series(c, v, pl.Float64) for c, v in zip(columns, zip(*papers, strict=True), strict=True)
    ]
    ours = measured.with_columns(pl.selectors.float().round(3))
    return ours.with_columns(
        *named,
        family=pl.lit(family),
        size=pl.lit(given.size),
        steps=pl.lit(steps),
        samples=pl.lit(samples),
        paper_steps=pl.lit(PAPER_STEPS),
    ).select(*SAME, "ood_r2", "ood_r2_std", "seen_r2", "unstructured_r2", *columns, "paper_steps")


def merged(found: pl.DataFrame, table: Path) -> pl.DataFrame:
    """The rows of `table` that `found` has no newer ones of, and `found`."""
    if not table.exists():
        return found
    kept = pl.read_csv(table, schema=found.schema).join(found, on=SAME, how="anti")
    return pl.concat([kept, found])


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--size", choices=("small", "paper"), default="small")
    made.add_argument("--steps", type=int, help="of training; by default the preset's")
    made.add_argument("--seeds", type=int, default=2)
    made.add_argument("--samples", type=int, help="N, by default the preset's")
    made.add_argument("--items", type=int, default=2000, help="sequences of a split")
    made.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    made.add_argument("--supports", nargs="+", choices=SUPPORTS, default=SUPPORTS)
    made.add_argument("--out", type=Path, default=Path("runs/in_context"))
    made.add_argument("--table", type=Path, default=TABLE)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    found = pl.concat([trained(family, given) for family in given.families])
    merged(found, given.table).write_csv(given.table)
    print(found.write_csv(), end="")


if __name__ == "__main__":
    main()
