"""The figures of arXiv 2406.03072 on Markov chains, the paper's number beside ours.

    python experiments/markov/reproduce.py STUDY [STUDY ...] [--networks NAME ...] [--seeds 64]
        [--seq-len 256] [--steps N] [--out DIR]

Studies: losses (standard and guideline initial weights), tying, depth, flips (the table of
predicted flip probabilities), states (five of them). Each is one run a network in DIR/STUDY-NAME,
runs/markov by default; a stopped study goes on where it was. Prints a row a case: the paper's
number, and of ours the mean, the lowest and the highest over seeds, and how many members learned
which solution; the rows replace those of the same networks in experiments/markov/reproduce.csv. A
run with other settings is refused. Exit codes: 0 done, 2 usage, 3 interrupted, 4 storage, 5 every
member diverged. Sequences are 256 long where the paper's have 1024, unless --seq-len says so.

The guideline's weights begin far from anything sensible. The paper's figure shows 600 steps and
does not say of how long a schedule. Where the learning rate falls to a fifth within those 600 they
do not arrive (network guideline); in the first 600 of 8000, its code's longest, the loss crosses
the unigram's near step 510 as in the figure, and it arrives by step 1500 (guideline-8000).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

import compfast
from compfast.config import settings
from compfast.errors import CompfastError
from compfast.storage import durable
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
    steps: int | None = None  # None: those of its study


def _chain(p: float, q: float) -> dict[str, float]:
    return {"p": p, "q": q}


def losses() -> Iterator[Part]:
    guideline = {"constants": GUIDELINE}
    for name, (p, q), init, paper, steps in (
        ("standard", (0.5, 0.8), {}, 0.6665, None),
        ("guideline", (0.5, 0.8), guideline, 0.626, None),
        ("guideline-8000", (0.5, 0.8), guideline, 0.626, 8000),
        ("standard-0.2-0.3", (0.2, 0.3), {}, 0.5446, None),
    ):
        overlay = {"task": _chain(p, q), "init": init}
        yield Part(name, "markov-simple", overlay, "exam_loss", {(): paper}, steps=steps)


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
    return compfast.train(config, out, resume=(out / "config.json").exists()).members


def rows(
    study: str, part: Part, members: pl.DataFrame, steps: int, seq_len: int
) -> Iterator[dict[str, Any]]:
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
            "steps": steps,
            "seq_len": seq_len,
        }


def write(table: Path, found: list[dict[str, Any]]) -> None:
    """One network's rows into the table, in place of those that stood there of it."""
    order = [(study, part.name) for study in STUDIES for part in STUDIES[study]()]
    old = pl.read_csv(table).rows(named=True) if table.exists() else []
    kept = [row for row in old if _network(row) != _network(found[0])]
    whole = sorted([*kept, *found], key=lambda row: order.index(_network(row)))
    content = pl.DataFrame(whole, infer_schema_length=None).write_csv()
    durable.replace_file(table, [content.encode()])


def _network(row: dict[str, Any]) -> tuple[str, str]:
    return row["study"], row["network"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", nargs="+", choices=tuple(STUDIES))
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="of the studies; all")
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--steps", type=int, help="default: the paper's, 500, 600 or 8000")
    parser.add_argument("--out", type=Path, default=Path("runs/markov"))
    parser.add_argument("--table", type=Path, default=TABLE)
    given = parser.parse_args(argv)
    chosen = [(study, part) for study in given.study for part in STUDIES[study]()]
    names = list(dict.fromkeys(part.name for _, part in chosen))
    for name in given.networks or ():
        if name not in names:
            parser.error(f"--networks names {name}; these studies have {', '.join(names)}")
    for study, part in chosen:
        if given.networks and part.name not in given.networks:
            continue
        steps = given.steps or part.steps or STEPS[study]
        folder = given.out / f"{study}-{part.name}"
        try:
            durable.make_folder(given.table.parent)  # now: trainings lie before a table
            members = trained(part, steps, given.seq_len, given.seeds, folder)
            found = list(rows(study, part, members, steps, given.seq_len))
            write(given.table, found)
        except CompfastError as error:
            print(f"reproduce: {error}", file=sys.stderr)
            return error.exit_code
        with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=160):
            print(pl.DataFrame(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
