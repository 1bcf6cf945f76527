"""Attention as a hypernetwork, arXiv 2406.05816: the paper's number beside ours.

    python experiments/hyla/reproduce.py STUDY [STUDY ...] [--size small|full] [--rows NAME ...]
        [--seeds N] [--steps N] [--out DIR] [--tables DIR] [--figure FILE.png]

Studies: fuzzy (table A1's rows but the mixtures of experts, and the one whose values alone are
nonlinear), held-out (the fraction of combinations held out), sraven (more instances, more width),
gamma (the scale of initial weights by kind of attention, which no paper has; it also draws
docs/hyla_gamma.png). A row of a study is one run in DIR/STUDY-SIZE-ROW, runs/hyla by default; a
stopped one goes on where it was, one with other settings is refused. Rows replace those of the
same study, size and name in DIR/STUDY.csv, by default beside this file; R2 and accuracies are
x 100, with their standard error over seeds; `seconds` is the time on the wall of all processes
that trained the run, beside whatever else the machine did.

`--size small` is another experiment than the paper's: fewer variables, narrower networks, shorter
trainings, so that a study takes minutes (sraven, whose networks begin to learn after some 2000
steps, about half an hour of one core). `--size full` has the paper's settings (learning rate
1e-3 and weight decay 0.1 of its grid; which point its table has, it does not say). One step of one
member at full size takes 34 (softmax) to 43 (HYLA) milliseconds of one core: 50,000 steps x 3
seeds, 1.5 to 2 hours a row and 4 hours for four rows on two cores; held-out five times as long a
row; SRAVEN has 156,250 steps. Exit codes: 0 done, 2 usage, 3 interrupted, 4 storage, 5 every member
diverged.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

import compfast
from compfast.config import settings
from compfast.errors import CompfastError
from compfast.report import plotting
from compfast.storage import durable
from compfast.tasks import preset

HERE = Path(__file__).parent
FIGURE = HERE.parents[1] / "docs" / "hyla_gamma.png"
COLOURS = {"softmax": "#0072b2", "linear": "#e69f00", "HYLA": "#009e73"}

Size = Literal["small", "full"]
Case = tuple[Any, ...]


@dataclass(frozen=True)
class Part:
    """One run: what it lays over a preset, and of each of its cases the paper's number, x 100."""

    name: str
    base: str
    overlay: dict[str, Any]
    measure: str  # column of the members table that the paper's numbers are of
    seen: str  # the same of trained combinations
    seeds: int
    cases: tuple[str, ...] = ()  # columns of the members table that tell its cases apart
    paper: dict[Case, float] = field(default_factory=dict)  # values of `cases` -> number


# Row of table A1 -> attention, value path, OOD R2 on fuzzy logic, OOD accuracy on SRAVEN.
KINDS: dict[str, tuple[str, str, float, float]] = {
    "softmax": ("softmax", "none", 63.28, 56.56),
    "linear": ("linear", "none", 59.89, 56.30),
    "HYLA": ("rms_head", "relu", 81.13, 69.13),
    "linear + rms_head": ("rms_head", "none", 68.93, 59.01),
    "HYLA - rms_head": ("linear", "relu", 81.27, 62.53),
    "HYLA - nonlinearity": ("rms_head", "linear", 84.54, 56.54),
    "HYLA - both": ("linear", "linear", 79.42, 56.33),
    "HYLA + softmax": ("softmax", "relu", 70.98, 38.21),
    "HYLA + deep": ("rms_head", "deep", 87.65, 66.59),
}
MAIN = ("softmax", "linear", "HYLA")
FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
GAMMAS = (0.25, 0.5, 0.75, 1.0, 1.25)

_EVALUATION = {"seen_items": 2048, "unseen_items": 2048}
# Three variables, of which every term may be trained: 28 pairs. Of four, as the paper has them, a
# network of this width learns too little in minutes for its kinds to differ.
_SMALL: dict[str, Any] = {
    "task": {"variables": 3, "frac_unknown": 0.0, "frac_test": 0.5, "samples": 16},
    "model": {"d_model": 32, "heads": 4, "d_k": 4, "d_v": 4, "d_ff": 64},
    "optimizer": {"lr": 3e-3, "warmup": 0.02},
    "evaluation": _EVALUATION,
}


def fuzzy(size: Size) -> Iterator[Part]:
    """Table A1's rows."""
    for name, (attention, path, paper, _) in KINDS.items():
        overlay = _laid(_fuzzy(size, 8000), {"model": _kind(attention, path)})
        base, seeds = ("fuzzy-paper", 3) if size == "full" else ("fuzzy", 4)
        yield Part(name, base, overlay, "ood_r2", "seen_r2", seeds, (), {(): paper})


def held_out(size: Size) -> Iterator[Part]:
    """The fraction of combinations held out; the paper has a figure alone, of .1 to .9."""
    for name in MAIN:
        fractions = {"sweep": {"task.frac_test": list(FRACTIONS)}}
        overlay = _laid(_fuzzy(size, 4000), {"model": _kind(*KINDS[name][:2])}, fractions)
        base, seeds = ("fuzzy-paper", 3) if size == "full" else ("fuzzy", 4)
        yield Part(name, base, overlay, "ood_r2", "seen_r2", seeds, ("frac_test",))


def gamma(size: Size) -> Iterator[Part]:
    """The scale of initial weights, std = fan_in^-gamma, across kinds: in no paper."""
    for name in MAIN:
        gammas = {"sweep": {"init.gamma": list(GAMMAS)}}
        kind = {"model": _kind(*KINDS[name][:2])}
        overlay = _laid(_fuzzy(size, 2000, 16), kind, gammas)
        base = "fuzzy-paper" if size == "full" else "fuzzy"
        yield Part(name, base, overlay, "ood_r2", "seen_r2", 16, ("gamma",))


def sraven(size: Size) -> Iterator[Part]:
    """Instances (steps x batch) and width; at full size the paper's network and instances."""
    measure, seen = "ood_accuracy", "seen_accuracy"
    for name in MAIN:
        attention, path, _, paper = KINDS[name]
        kind = {"model": _kind(attention, path)}
        if size == "full":
            yield Part(name, "sraven-paper", kind, measure, seen, 3, (), {(): paper})
            continue
        for scale, steps, width in (
            ("base", 4000, 1),
            ("4x steps", 16_000, 1),
            ("2x width", 4000, 2),
        ):
            overlay = _laid(
                {
                    "task": {"features": 2, "symbols": 5},
                    "model": {"d_model": 32 * width, "heads": 8 * width, "d_ff": 64 * width},
                    "optimizer": {"lr": 3e-3},
                    "training": {"steps": steps, "batch_size": 64},
                    "evaluation": _EVALUATION,
                },
                kind,
            )
            yield Part(f"{name}, {scale}", "sraven", overlay, measure, seen, 3)


def _fuzzy(size: Size, steps: int, batch: int = 32) -> dict[str, Any]:
    training = {"steps": steps, "batch_size": batch}
    return {} if size == "full" else _laid(_SMALL, {"training": training})


def _kind(attention: str, path: str) -> dict[str, Any]:
    return {"attention": attention, "value_path": path}


def _laid(*layers: dict[str, Any]) -> dict[str, Any]:
    """Settings, each over those before."""
    result: dict[str, Any] = {}
    for layer in layers:
        for section, fields in layer.items():
            result[section] = {**result.get(section, {}), **fields}
    return result


STUDIES = {"fuzzy": fuzzy, "held-out": held_out, "sraven": sraven, "gamma": gamma}


def trained(part: Part, seeds: int, steps: int | None, folder: Path) -> tuple[pl.DataFrame, float]:
    """The members table of one part's run, and the seconds that its trainings took."""
    data = settings.apply(preset(part.base), part.overlay)
    length = steps or data["training"]["steps"]
    training = {"steps": length, "log_every": min(100, length), "eval_every": length}
    data = settings.apply(data, {"sweep": {"seed": range(seeds)}, "training": training})
    config = settings.from_dict(data)
    begun, clock = (folder / "config.json").exists(), folder.with_suffix(".seconds")
    before = float(clock.read_text()) if begun and clock.exists() else 0.0
    start = time.monotonic()
    try:
        run = compfast.train(config, folder, resume=begun)
    finally:
        total = before + time.monotonic() - start
        if folder.exists():
            durable.replace_file(clock, [f"{total:.1f}".encode()])
    return run.members, total


def rows(
    study: str, size: str, part: Part, members: pl.DataFrame, seconds: float
) -> Iterator[dict[str, Any]]:
    """A row a case: the paper's number, and ours over the seeds; members that diverged apart."""
    cases = members.select(part.cases).unique(maintain_order=True).rows() if part.cases else [()]
    for case in cases:
        chosen = members
        for column, value in zip(part.cases, case, strict=True):
            chosen = chosen.filter(pl.col(column) == value)
        finite = chosen.filter(pl.col("verdict") != "diverged")
        ours, seen = (100 * finite[name].to_numpy() for name in (part.measure, part.seen))
        yield {
            "study": study,
            "size": size,
            "row": part.name,
            "case": ", ".join(f"{n} {v}" for n, v in zip(part.cases, case, strict=True)),
            "measure": part.measure,
            "paper": part.paper.get(case),
            **_over_seeds(ours),
            "seen": _rounded(seen.mean()) if len(seen) else None,
            "seeds": len(chosen),
            "diverged": len(chosen) - len(finite),
            "steps": int(chosen["steps"].max()),  # type: ignore[arg-type]
            "seconds": round(seconds),
        }


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
    """One run's rows into the table, in place of those that stood there of it."""
    old = pl.read_csv(table).rows(named=True) if table.exists() else []
    kept = [row for row in old if _run_of(row) != _run_of(found[0])]
    study = found[0]["study"]
    names: dict[tuple[str, str], int] = {}
    for size in ("small", "full"):
        names |= {(size, part.name): len(names) + i for i, part in enumerate(STUDIES[study](size))}
    whole = sorted([*kept, *found], key=lambda row: names[_run_of(row)])
    content = pl.DataFrame(whole, infer_schema_length=None).write_csv()
    durable.replace_file(table, [content.encode()])


def _run_of(row: dict[str, Any]) -> tuple[str, str]:
    return row["size"], row["row"]


def picture(table: pl.DataFrame) -> bytes:
    """Median and range over seeds of the R2 by gamma, a panel for seen and one for unseen."""
    from matplotlib.figure import Figure

    with plotting.settings():
        figure = Figure(figsize=(9.6, 3.5), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for name in MAIN:
            own = table.filter(row=name)
            if own.is_empty():
                continue
            gammas = [float(text.removeprefix("gamma ")) for text in own["case"]]
            left.plot(gammas, own["seen"], color=COLOURS[name], marker="o", ms=3, label=name)
            low, middle, high = (own[n].to_numpy() for n in ("lowest", "median", "highest"))
            right.fill_between(gammas, low, high, color=COLOURS[name], alpha=0.12, lw=0)
            right.plot(gammas, middle, color=COLOURS[name], marker="o", ms=3, label=name)
        left.set(title="Trained combinations: mean", ylabel="R2 x 100")
        right.set(title="Held-out combinations: median, range")
        for axes in (left, right):
            axes.set(xlabel="gamma (initial std = fan_in^-gamma)")
            axes.set_ylim(bottom=-30)
            axes.axvline(0.5, color="#404040", lw=0.8, ls=":")
        left.legend(loc="lower right")
        first = table.row(0, named=True)
        figure.suptitle(
            f"Fuzzy logic, {first['size']} size: {first['seeds']} seeds a point,"
            f" {first['steps']} steps; dotted: LeCun's",
            fontsize=9,
        )
        return plotting.png(figure, 160)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", nargs="+", choices=tuple(STUDIES))
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="of the studies; all")
    parser.add_argument("--seeds", type=int, help="default: 3 at full size, 3 to 16 at small size")
    parser.add_argument("--steps", type=int, help="default: the study's")
    parser.add_argument("--out", type=Path, default=Path("runs/hyla"))
    parser.add_argument("--tables", type=Path, default=HERE)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    given = parser.parse_args(argv)
    for name in ("seeds", "steps"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            parser.error(f"--{name} is {getattr(given, name)}; it must be at least 1")
    chosen = [(study, part) for study in given.study for part in STUDIES[study](given.size)]
    names = list(dict.fromkeys(part.name for _, part in chosen))
    for name in given.rows or ():
        if name not in names:
            parser.error(f"--rows names {name}; these studies have {'; '.join(names)}")
    for study, part in chosen:
        if given.rows and part.name not in given.rows:
            continue
        place = f"{study}-{given.size}-{part.name}".replace(" ", "_").replace(",", "")
        table = given.tables / f"{study.replace('-', '_')}.csv"
        try:
            durable.make_folder(given.tables)  # now: hours of training lie before a table
            folder = given.out / place
            members, seconds = trained(part, given.seeds or part.seeds, given.steps, folder)
            found = list(rows(study, given.size, part, members, seconds))
            write(table, found)
            if study == "gamma":
                drawn = picture(pl.read_csv(table).filter(size=given.size))
                durable.replace_file(given.figure, [drawn])
        except CompfastError as error:
            print(f"reproduce: {error}", file=sys.stderr)
            return error.exit_code
        with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=180):
            print(pl.DataFrame(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
