"""The figures of arXiv 2406.03072 on Markov chains, the paper's number beside ours.

    python experiments/markov/reproduce.py STUDY [STUDY ...] [--seeds 64] [--seq-len 256]
        [--steps N] [--out DIR]

Studies: losses (standard and guideline initial weights), tying, depth, flips (the table of
predicted flip probabilities), states (five of them). Each is one run a network in DIR/STUDY-NAME,
runs/markov by default; a stopped study goes on where it was. Prints a row a case: the paper's
number, and of ours the mean, the lowest and the highest over seeds, and how many members learned
which solution; the rows replace those of the same study in experiments/markov/reproduce.csv.
Sequences are 256 long where the paper's have 1024, unless --seq-len says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

import compfast
from compfast.config import settings
from compfast.tasks import preset

TABLE = Path(__file__).parent / "reproduce.csv"
GUIDELINE = [  # `--init good` of the paper's code
    ["embed.token.weight", -1.0],
    ["embed.position.weight", 0.5],
    ["ffn.up.weight", 2.0],
    ["ffn.down.weight", -2.0],
]
FLIPS = (0.2, 0.4, 0.5, 0.6, 0.8)
# Facts 4f, tied: rows the other parameter, columns the flip's own probability.
PAPER_FLIPS = {
    0.2: (0.201, 0.398, 0.500, 0.602, 0.797),
    0.4: (0.200, 0.400, 0.500, 0.598, 0.675),
    0.5: (0.199, 0.399, 0.499, 0.561, 0.615),
    0.6: (0.200, 0.400, 0.463, 0.581, 0.619),
    0.8: (0.201, 0.347, 0.408, 0.464, 0.726),
}


@dataclass(frozen=True)
class Part:
    """One run: what it lays over a preset, and of each of its cases the paper's number."""

    name: str
    base: str
    overlay: dict[str, Any]
    measure: str  # the column that the paper's numbers are of
    paper: dict[tuple[Any, ...], float]  # values of `cases` -> number
    cases: tuple[str, ...] = ()  # columns of the members table that tell its cases apart
    points: dict[str, list[Any]] = field(default_factory=dict)


def _chain(p: float, q: float) -> dict[str, float]:
    return {"p": p, "q": q}


def losses() -> Iterator[Part]:
    for name, (p, q), init, paper in (
        ("standard", (0.5, 0.8), {}, 0.6665),
        ("guideline", (0.5, 0.8), {"constants": GUIDELINE}, 0.626),
        ("standard-0.2-0.3", (0.2, 0.3), {}, 0.5446),
    ):
        overlay = {"task": _chain(p, q), "init": init}
        yield Part(name, "markov-simple", overlay, "exam_loss", {(): paper})


def tying() -> Iterator[Part]:
    for base, form in (("markov-simple", "single"), ("markov-paper", "gpt")):
        overlay = {
            "task": _chain(0.5, 0.8),
            "sweep": {"model.tied_head": [True, False]},
        }
        paper = {(True,): 0.6663, (False,): 0.6190}
        yield Part(form, base, overlay, "exam_loss", paper, ("tied_head",))


def depth() -> Iterator[Part]:
    for base, form in (("markov-simple", "single"), ("markov-paper", "gpt")):
        layers = [1, 2, 4, 8]
        overlay = {"task": _chain(0.5, 0.8), "sweep": {"model.layers": layers}}
        paper = {(n,): 0.6663 if n == 1 else 0.6190 for n in layers}
        yield Part(form, base, overlay, "exam_loss", paper, ("layers",))


def flips() -> Iterator[Part]:
    # p + q = 1 is no chain: its symbols do not depend on each other.
    cells = [(p, q) for q in FLIPS for p in FLIPS if abs(p + q - 1) > 1e-9]
    points = {"task.p": [p for p, _ in cells], "task.q": [q for _, q in cells]}
    for tied in (True, False):
        paper = {(p, q): PAPER_FLIPS[q][FLIPS.index(p)] if tied else p for p, q in cells}
        overlay = {"model": {"tied_head": tied}}
        name = "tied" if tied else "untied"
        yield Part(name, "markov-simple", overlay, "flip_0", paper, ("p", "q"), points)


def states() -> Iterator[Part]:
    for tied in (True, False):
        overlay = {
            "task": {"chain": "switching", "states": 5, "p": 0.9},
            "model": {"tied_head": tied, "vocab_size": 5},
        }
        name = "tied" if tied else "untied"
        yield Part(name, "markov-paper", overlay, "exam_loss", {(): 1.601 if tied else 1.573})


STUDIES = {"losses": losses, "tying": tying, "depth": depth, "flips": flips, "states": states}
STEPS = {"losses": 600, "tying": 600, "depth": 500, "flips": 600, "states": 600}


def trained(part: Part, steps: int, seq_len: int, seeds: int, out: Path) -> pl.DataFrame:
    """The members table of one part's run."""
    data = settings.apply(preset(part.base), part.overlay)
    data = settings.apply(data, {"task": {"seq_len": seq_len}, "sweep": {"seed": range(seeds)}})
    training = {"steps": steps, "log_every": 50, "eval_every": steps}
    data = settings.apply(data, {"training": training, "sample": part.points})
    config = settings.from_dict({name: value for name, value in data.items() if value})
    if (out / "config.json").exists():
        run = compfast.load(out)
        if settings.to_dict(run.config)["training"]["steps"] != steps:
            raise SystemExit(f"{out} holds another study; give another --out")
        return compfast.train(out=out, resume=True).members
    return compfast.train(config, out=out).members


def rows(study: str, part: Part, members: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """A row a case: the paper's number, and ours over the seeds."""
    for case, paper in part.paper.items():
        chosen = members
        for column, value in zip(part.cases, case, strict=True):
            chosen = chosen.filter(pl.col(column) == value)
        ours = chosen[part.measure]
        counts = {name: int((chosen["verdict"] == name).sum()) for name in ("global", "local")}
        yield {
            "study": study,
            "network": part.name,
            "case": ", ".join(f"{n} {v}" for n, v in zip(part.cases, case, strict=True)),
            "measure": part.measure,
            "paper": paper,
            "mean": round(float(ours.mean()), 4),  # type: ignore[arg-type]
            "lowest": round(float(ours.min()), 4),  # type: ignore[arg-type]
            "highest": round(float(ours.max()), 4),  # type: ignore[arg-type]
            "seeds": len(chosen),
            **counts,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", nargs="+", choices=tuple(STUDIES))
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--steps", type=int, help="default: the paper's, 500 or 600")
    parser.add_argument("--out", type=Path, default=Path("runs/markov"))
    given = parser.parse_args()
    for study in given.study:
        steps = given.steps or STEPS[study]
        found = []
        for part in STUDIES[study]():
            folder = given.out / f"{study}-{part.name}"
            members = trained(part, steps, given.seq_len, given.seeds, folder)
            found += list(rows(study, part, members))
        table = pl.DataFrame(found).with_columns(steps=pl.lit(steps), seq_len=pl.lit(given.seq_len))
        if TABLE.exists():
            old = pl.read_csv(TABLE).filter(pl.col("study") != study)
            table = pl.concat([old, table], how="vertical_relaxed")
        table.write_csv(TABLE)
        with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=160):
            print(table.filter(pl.col("study") == study), file=sys.stdout)


if __name__ == "__main__":
    main()
