"""What goes on inside networks of one layer while they learn a chain, beside arXiv 2406.03072.

    python experiments/markov/metrics.py [--chain P,Q] [--steps N] [--seeds N] [--seq-len T]
                                         [--out DIR] [--table FILE.csv]

Trains the single-logit network of that paper's code (no norm, no bias but the logit's, tied, relu,
width 8, FFN 32; initial std 0.02, over sqrt(2) on residual projections; AdamW at 2e-3, one cycle)
with several seeds on one chain. Writes DIR/metrics.png (rank-one energy of the value and of the
FFN-in matrix and the attention-to-skip ratio over steps: every seed, their range and median),
DIR/metrics.parquet (a row a member and snapshot) and FILE.csv (a row a snapshot; by default
experiments/markov/metrics.csv), and prints the paper's numbers beside these. The run is kept in
DIR/run: one that was stopped is gone on with, one with other settings is refused. Two minutes on
two cores. Exit codes: 0 done, 2 usage, 3 interrupted, 4 storage, 5 every member diverged.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

import compfast
from compfast import analysis
from compfast.errors import CompfastError
from compfast.report import plotting
from compfast.runs.layouts import exams_of
from compfast.storage import durable
from compfast.tasks import chain_counts
from compfast.tasks.markov import MarkovConfig, MarkovTask

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HERE = Path(__file__).parent
VALUE, FFN_IN = "attention.value.weight", "ffn.up.weight"
LOOKS = {
    "value": ("#0072b2", "value matrix"),
    "ffn_in": ("#e69f00", "FFN-in matrix"),
    "ratio": ("#009e73", "ratio"),
}
MEASURES = tuple(LOOKS)
READ = 32  # sequences of the exam over which the ratio is a mean
DENSE, FINE, COARSE = 200, 10, 100  # snapshots: every 10 steps up to 200, then every 100
TICKS = (0, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)

# arXiv 2406.03072, figures of rank-one energy and of the ratio: the least and the largest number
# at a place of the training, and what is known of it.
PAPER = {
    ("value", "start"): (0.40, 0.40, ""),
    ("value", "end"): (0.93, 0.95, "after some 9000 steps"),
    ("ffn_in", "start"): (0.26, 0.26, ""),
    ("ffn_in", "step 200"): (0.97, 0.97, "within some 200 steps"),
    ("ffn_in", "end"): (0.99, 0.99, ""),
    ("ratio", "largest"): (0.36, 0.36, "mean of 5 runs at (0.2, 0.3), every 100 passes"),
    ("ratio", "step 200"): (0.01, 0.01, "mean of 5 runs at (0.2, 0.3)"),
}


def config(chain: tuple[float, float], steps: int, seeds: int, length: int) -> dict[str, Any]:
    """The run, as settings over the task's preset."""
    snapshots = {*range(0, DENSE, FINE), *range(DENSE, steps, COARSE), steps}
    form = MarkovTask.presets["markov"]
    return {
        "task": {"name": "markov", "p": chain[0], "q": chain[1], "seq_len": length},
        "model": {**form["model"], "logits": "single", "norm": "none", "activation": "relu"},
        "init": {"std": 0.02, "residual_scale": True},
        "optimizer": form["optimizer"],
        "training": {
            "steps": steps,
            "batch_size": 16,
            "log_every": min(FINE, steps),
            "eval_every": steps,
        },
        "run": {"snapshots": sorted(step for step in snapshots if step <= steps)},
        "sweep": {"seed": list(range(seeds))},
    }


def measured(run: compfast.Run) -> pl.DataFrame:
    """A row a member and snapshot: value, ffn_in, ratio, and the mean loss of the steps before."""
    energy = analysis.rank_one_energy(run, [VALUE, FFN_IN])
    names = {f"blocks.0.{VALUE}": "value", f"blocks.0.{FFN_IN}": "ffn_in"}
    wide = energy.with_columns(pl.col("tensor").replace_strict(names)).pivot(
        "tensor", index=["member", "step"], values="energy"
    )
    tokens = exams_of(run.groups)[0].inputs[:READ]
    ratio = analysis.attention_to_skip(run, tokens).drop("layer")
    losses = run.metrics.select("member", "step", "loss").drop_nulls()
    keys = ["member", "step"]
    return wide.join(ratio, on=keys).join(losses, on=keys, how="left").sort(keys)


def summary(rows: pl.DataFrame) -> pl.DataFrame:
    """A row a snapshot: median, least and largest over members of each measure."""
    over = [
        getattr(pl.col(name), of)().round_sig_figs(4).alias(f"{name}_{of}")
        for name in (*MEASURES, "loss")
        for of in ("median", "min", "max")
    ]
    means = [pl.col("ratio").mean().round_sig_figs(4).alias("ratio_mean")]
    return rows.group_by("step", maintain_order=True).agg(*over, *means).sort("step")


def compared(table: pl.DataFrame) -> pl.DataFrame:
    """A row a number of PAPER: the paper's, and the median here (the ratio's mean) and range."""
    rows = []
    for (measure, place), (low, high, note) in PAPER.items():
        said = f"{low:.2f}" + f" to {high:.2f}" * (high > low) + f", {note}" * bool(note)
        rows.append((measure, place, said, _found(table, measure, place)))
    return pl.DataFrame(rows, schema=["measure", "at", "paper", "here"], orient="row")


def _found(table: pl.DataFrame, measure: str, place: str) -> str:
    column = f"{measure}_mean" if measure == "ratio" else f"{measure}_median"
    if place == "largest":
        found = table.sort(column).tail(1)
    else:
        found = table.filter(step={"start": 0, "step 200": 200, "end": table["step"].max()}[place])
    if found.is_empty():  # a training of fewer steps
        return "-"
    row = found.row(0, named=True)
    low, high = row[f"{measure}_min"], row[f"{measure}_max"]
    return f"{row[column]:.3f} ({low:.3f} to {high:.3f}) at step {row['step']}"


def references(run: compfast.Run) -> str:
    """Losses that the trained ones are to be held against."""
    task = MarkovTask(run.config.task)  # type: ignore[arg-type]
    sequences = np.column_stack(task.batch(0, 2**31 - 1, 2000))
    counted = [
        f"beta {beta:g} {chain_counts.mean_loss(sequences, 2, 1, beta):.4f}" for beta in (0.5, 1.0)
    ]
    return (
        f"losses: bigram {task.bigram_loss:.4f}, unigram {task.unigram_loss:.4f}; a learner that"
        f" does not know the chain and counts in {task.length} symbols: {', '.join(counted)}"
    )


def picture(rows: pl.DataFrame, title: str) -> bytes:
    from matplotlib.figure import Figure

    with plotting.settings():
        figure = Figure(figsize=(9.6, 3.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes, name in ((left, "value"), (left, "ffn_in"), (right, "ratio")):
            _curves(axes, rows, name)
        _said(left, rows, "value", "paper, value: start, end")
        _said(left, rows, "ffn_in", "paper, FFN-in: start, step 200, end")
        _said(right, rows, "ratio", "paper: step 200")
        largest = PAPER["ratio", "largest"][0]
        right.axhline(largest, color="#404040", lw=0.8, ls="--", label="paper: largest mean")
        left.set(ylabel="s_1² / Σ s_i²", ylim=(0, 1.02), title="Rank-one energy")
        right.set(ylabel="|Attn(x)| / |x + Attn(x)|", title="Attention to skip")
        right.set_ylim(bottom=0)
        for axes, corner in ((left, "lower right"), (right, "upper right")):
            end = int(rows["step"].to_numpy().max())
            axes.set_xscale("symlog", linthresh=100)
            axes.set_xlim(0, end * 1.02)
            ticks = [tick for tick in TICKS if tick <= end]
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.set_xticks([], minor=True)
            axes.set_xlabel("step (linear to 100, logarithmic beyond)")
            axes.legend(loc=corner)
        figure.suptitle(title, fontsize=9)
        return plotting.png(figure, 160)


def _curves(axes: Axes, rows: pl.DataFrame, name: str) -> None:
    """Every member, their range and their median."""
    colour, label = LOOKS[name]
    table = rows.pivot("member", index="step", values=name).sort("step")
    step, values = table["step"].to_numpy(), table.drop("step").to_numpy()
    axes.plot(step, values, color=colour, lw=0.5, alpha=0.35)
    axes.fill_between(step, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.15, lw=0)
    middle = np.median(values, axis=1)
    axes.plot(step, middle, color=colour, lw=1.6, label=f"{label}: median, range")


def _said(axes: Axes, rows: pl.DataFrame, measure: str, label: str) -> None:
    """The paper's numbers of a measure as bars or crosses where they stand in the training."""
    end = int(rows["step"].to_numpy().max())
    places = {"start": 0, "step 200": 200, "end": end}
    points = [
        (places[at], *PAPER[m, at][:2])
        for m, at in PAPER
        if m == measure and at in places and places[at] <= end
    ]
    if not points:
        return
    step, low, high = np.array(points, np.float64).T
    middle = (low + high) / 2
    axes.errorbar(
        step, middle, yerr=(high - low) / 2, fmt="+" if measure == "value" else "x",
        color="#404040", markersize=7, clip_on=False, zorder=5, label=label,
    )  # fmt: skip


def chain(text: str) -> tuple[float, float]:
    """ "0.2,0.3" as numbers."""
    p, q = (float(part) for part in text.split(","))
    return p, q


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chain", type=chain, metavar="P,Q", default=(0.2, 0.3))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=256, metavar="T")
    parser.add_argument("--out", type=Path, default=Path("runs") / "markov_metrics")
    parser.add_argument("--table", type=Path, default=HERE / "metrics.csv")
    given = parser.parse_args(argv)
    for name in ("steps", "seeds"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} is {getattr(given, name)}; it must be at least 1")
    try:
        settings = config(given.chain, given.steps, given.seeds, given.seq_len)
        folder = given.out / "run"
        run = compfast.train(settings, folder, resume=(folder / "config.json").exists())
        rows = measured(run)
        table = summary(rows)
        content = io.BytesIO()
        rows.write_parquet(content)
        task = run.config.task
        assert isinstance(task, MarkovConfig)
        title = (
            f"p = {task.p:g}, q = {task.q:g}: {len(run.members)} seeds, {run.step} steps,"
            f" length {task.seq_len}"
        )
        durable.replace_file(given.out / "metrics.parquet", [content.getvalue()])
        durable.replace_file(given.out / "metrics.png", [picture(rows, title)])
        durable.replace_file(given.table, [table.write_csv().encode()])
    except CompfastError as error:
        print(f"metrics: {error}", file=sys.stderr)
        return error.exit_code
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=140, fmt_str_lengths=60):
        print(compared(table))
    print(references(run))
    print(run.members.group_by("verdict").len())
    print(f"{given.out / 'metrics.png'}, {given.out / 'metrics.parquet'}, {given.table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
