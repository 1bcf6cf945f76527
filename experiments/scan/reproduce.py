"""SCAN at two scales of initial weights and three weight decays: the paper's direction beside ours.

    python experiments/scan/reproduce.py STUDY [STUDY ...] [--size small|full] [--seeds N]
        [--steps N] [--out DIR] [--tables DIR]

Studies are the splits turn-left, jump, length and simple. Each is one run in DIR/STUDY-SIZE,
runs/scan by default: gamma .5 (large initial weights) and .8 (small ones) x weight decay .01, .1
and 1, 8 seeds. A stopped one goes on where it was, one with other settings is refused. Rows replace
those of the same study and size in DIR/STUDY.csv, by default beside this file: exact answers to all
held-out commands x 100 over the seeds, and how often each verdict came.

arXiv 2405.05409 shows turn left in a figure alone: small initial weights with a large weight decay
generalise better, at every size of data. `paper` says so in the two corners that this compares
(gamma .8 with decay 1 is higher, gamma .5 with .01 lower), and `ours` which of them was higher
here; the other studies have no such figure.

`--size small` is another experiment than the paper's: the small grammar of 506 commands and a
network of width 48, so that a study takes minutes. `--size full` is SCAN itself with 20,910
commands and the network of preset scan, of width 64, which is ours as well (the paper's network
for SCAN is not known here); it takes hours. Exit codes: 0 done, 2 usage, 3 interrupted, 4 storage,
5 every member diverged.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

import compfast
from compfast.config import Config, settings
from compfast.errors import CompfastError
from compfast.storage import durable
from compfast.tasks import preset
from compfast.tasks.scan import ScanTask

HERE = Path(__file__).parent

Size = Literal["small", "full"]
STUDIES = ("turn-left", "jump", "length", "simple")  # variants of task scan
PRESETS: dict[Size, str] = {"small": "scan-small", "full": "scan"}
GAMMAS = (0.5, 0.8)
DECAYS = (0.01, 0.1, 1.0)
PAPER = {(0.5, 0.01): "lower", (0.8, 1.0): "higher"}  # corners: gamma, weight decay
VERDICTS = (*ScanTask.candidates, "mixed", "other", "underfit", "diverged")


def config_of(study: str, size: Size, seeds: int, steps: int | None) -> Config:
    """What a study trains."""
    task = dict(ScanTask.variants[study])
    sweep = {"init.gamma": GAMMAS, "optimizer.weight_decay": DECAYS, "seed": range(seeds)}
    data = settings.apply(preset(PRESETS[size]), {"task": task, "sweep": sweep})
    length = steps or data["training"]["steps"]
    training = {"steps": length, "log_every": min(100, length), "eval_every": length}
    everything = {"seen_items": 512, "unseen_items": 8192}  # every held-out command
    overlay = {"training": training, "evaluation": everything}
    return settings.from_dict(settings.apply(data, overlay))


def rows(study: str, size: Size, members: pl.DataFrame) -> list[dict[str, Any]]:
    """A row a gamma and weight decay: ours over the seeds, beside the paper's direction."""
    found = []
    for gamma in GAMMAS:
        for decay in DECAYS:
            chosen = members.filter(gamma=gamma, weight_decay=decay)
            finite = chosen.filter(pl.col("verdict") != "diverged")
            exact, seen = (100 * finite[name].to_numpy() for name in ("exact", "seen"))
            found.append(
                {
                    "study": study,
                    "size": size,
                    "gamma": gamma,
                    "weight_decay": decay,
                    "paper": PAPER.get((gamma, decay)) if study == "turn-left" else None,
                    "ours": None,
                    **_over_seeds(exact),
                    "seen": _rounded(seen.mean()) if len(seen) else None,
                    "seeds": len(chosen),
                    **{name: int((chosen["verdict"] == name).sum()) for name in VERDICTS},
                    "steps": int(chosen["steps"].max()),  # type: ignore[arg-type]
                }
            )
    _compare([row for row in found if (row["gamma"], row["weight_decay"]) in PAPER])
    return found


def _compare(corners: list[dict[str, Any]]) -> None:
    """Which of the two corners is higher here; neither where one of them has no number."""
    low, high = (row["mean"] for row in corners)
    if low is None or high is None:
        return
    words = ("same", "same") if low == high else ("lower", "higher")
    for row, word in zip(corners, words if low <= high else words[::-1], strict=True):
        row["ours"] = word


def _over_seeds(values: np.ndarray[Any, Any]) -> dict[str, float | None]:
    names = ("mean", "error", "median", "lowest", "highest")
    if not len(values):
        return dict.fromkeys(names)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    found = (values.mean(), error, np.median(values), values.min(), values.max())
    return {name: _rounded(value) for name, value in zip(names, found, strict=True)}


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 2)


def write(table: Path, found: list[dict[str, Any]]) -> None:
    """One size's rows into the study's table, in place of those that stood there of it."""
    old = pl.read_csv(table).rows(named=True) if table.exists() else []
    kept = [row for row in old if row["size"] != found[0]["size"]]
    whole = sorted([*kept, *found], key=lambda row: tuple(PRESETS).index(row["size"]))
    content = pl.DataFrame(whole, infer_schema_length=None).write_csv()
    durable.replace_file(table, [content.encode()])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", nargs="+", choices=STUDIES)
    parser.add_argument("--size", choices=tuple(PRESETS), default="small")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, help="default: the preset's")
    parser.add_argument("--out", type=Path, default=Path("runs/scan"))
    parser.add_argument("--tables", type=Path, default=HERE)
    given = parser.parse_args(argv)
    for name in ("seeds", "steps"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            parser.error(f"--{name} is {getattr(given, name)}; it must be at least 1")
    for study in given.study:
        folder = given.out / f"{study}-{given.size}"
        try:
            durable.make_folder(given.tables)  # now: hours of training lie before a table
            config = config_of(study, given.size, given.seeds, given.steps)
            begun = (folder / "config.json").exists()
            members = compfast.train(config, folder, resume=begun).members
            found = rows(study, given.size, members)
            write(given.tables / f"{study.replace('-', '_')}.csv", found)
        except CompfastError as error:
            print(f"reproduce: {error}", file=sys.stderr)
            return error.exit_code
        with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=180):
            print(pl.DataFrame(found, infer_schema_length=None))
    return 0


if __name__ == "__main__":
    sys.exit(main())
