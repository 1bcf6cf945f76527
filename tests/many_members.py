"""A made-up run of thousands of members with training curves, as the page reads one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from compfast.config import Config, settings
from compfast.report.page_answers import PageAnswers, packed_answers
from compfast.tasks import KnownAnswers

ITEMS = 512  # held-out questions
SHIFT = -5  # of the second solution
LABELS = ("underfit", "inferential", "symmetric", "mixed", "other")


@dataclass(frozen=True)
class CurveRun:
    """What the page reads of a run, metrics among it."""

    members: pl.DataFrame
    config: Config
    info: dict[str, Any]
    metrics: pl.DataFrame


def curve_run(
    gammas: int = 25,
    depths: int = 5,
    rates: int = 5,
    seeds: int = 8,
    windows: int = 100,
    exam_every: int = 4,
) -> CurveRun:
    """gammas x depths x learning rates x seeds members; one member in 50 diverges half-way."""
    sweep = {
        "init.gamma": np.linspace(0.1, 1.5, gammas).round(6).tolist(),
        "model.layers": list(range(1, depths + 1)),
        "optimizer.lr": [round(1e-3 * 1.5**i, 8) for i in range(rates)],
        "seed": list(range(seeds)),
    }
    axes = {path: levels for path, levels in sweep.items() if len(levels) > 1}
    config = settings.from_dict(
        {
            "sweep": axes,
            "training": {"steps": windows * 100, "log_every": 100, "eval_every": 100 * exam_every},
        }
    )
    rows = np.array(list(itertools.product(*sweep.values())))
    random = np.random.default_rng(0)
    scores, label = _scores(rows, random)
    diverged = random.uniform(size=len(rows)) < 0.02
    label[diverged] = "diverged"
    scores = {n: np.where(diverged, np.nan, v) for n, v in scores.items()}
    steps = np.where(diverged, windows // 2 * 100 + 1, windows * 100)
    members = pl.DataFrame(
        {
            "member": np.arange(len(rows)), "gamma": rows[:, 0],
            "seed": rows[:, 3].astype(int), "layers": rows[:, 1].astype(int), "lr": rows[:, 2],
            "verdict": label, **scores, "steps": steps, "group": rows[:, 1].astype(int) - 1,
            "row": np.arange(len(rows)),
        }
    )  # fmt: skip
    metrics = _metrics(scores, label, diverged, windows, exam_every, random)
    return CurveRun(members, config, {"engine": "native", "command": []}, metrics)


def told_answers(run: CurveRun, spread: int = 6, most: int = 300_000) -> PageAnswers:
    """Answers by the scores of the run; what no solution says lies around the first one.

    Who diverged has none; one in a thousand answers is no number, and one is far away.
    """
    random = np.random.default_rng(1)
    around = np.arange(1, 2 * spread + 1) - spread
    parts: list[tuple[int, int | None, int]] = []
    for member, label, first, second in run.members.select(
        "member", "verdict", "inferential", "symmetric"
    ).iter_rows():
        if label == "diverged":
            continue
        own = [int(first * (ITEMS - 2)), int(second * (ITEMS - 2))]
        rest = random.integers(0, len(around), ITEMS - 2 - sum(own))
        said = [*np.repeat([0, SHIFT], own), *around[rest], 40]
        values, counts = np.unique(said, return_counts=True)
        parts += [(member, int(v), int(c)) for v, c in zip(values, counts, strict=True)]
        parts.append((member, None, 1))
    schema = {"member": pl.Int64, "difference": pl.Int64, "count": pl.Int64}
    table = pl.DataFrame(parts, schema, orient="row")
    answer = np.full(ITEMS, 50, np.int32)
    known = KnownAnswers("unseen", {"inferential": answer, "symmetric": answer + SHIFT}, 97)
    shown = [known] * len(run.members)
    members = run.members["member"].to_numpy()
    return PageAnswers(packed_answers(table, members, shown, 1200, most))


def _scores(rows: Any, random: np.random.Generator) -> tuple[dict[str, Any], Any]:
    gamma, depth, rate = rows[:, 0], rows[:, 1], rows[:, 2]
    noise = random.normal(0, 0.08, (3, len(rows)))
    lean = 1 / (1 + np.exp(9 * (gamma - 0.55 - 0.08 * depth))) + noise[0]
    seen = np.clip(1.2 - 0.25 * (gamma > 1.2) - 0.4 * (gamma < 0.2) - 40 * rate / depth / 3, 0, 1)
    inferential, symmetric = np.clip(lean, 0, 1), np.clip(1 - lean + noise[1], 0, 1)
    total = np.maximum(inferential + symmetric, 1)
    found = {
        "seen": seen,
        "inferential": inferential / total,
        "symmetric": symmetric / total,
        "other": np.abs(noise[2]) / 4,
    }
    lead = found["inferential"] - found["symmetric"]
    label = np.select(
        [seen < 0.9, lead > 0.2, lead < -0.2, np.abs(lead) > 0.1], LABELS[:4], LABELS[4]
    ).astype(object)
    return found, label


def _metrics(
    scores: dict[str, Any],
    label: Any,
    diverged: Any,
    windows: int,
    exam_every: int,
    random: np.random.Generator,
) -> pl.DataFrame:
    """A row a window, scores at every `exam_every`-th; step 0 is an exam without a loss."""
    count = len(label)
    member = np.repeat(np.arange(count), windows + 1)
    window = np.tile(np.arange(windows + 1), count)
    pace = random.uniform(0.02, 0.1, count)[member]
    loss = 4 * np.exp(-pace * window) + 0.01 * random.uniform(size=len(member))
    exam = window % exam_every == 0
    grown = window / windows
    columns: dict[str, Any] = {
        "member": member,
        "step": window * 100,
        "loss": np.where(window == 0, np.nan, loss),
        "grad_norm": np.where(window == 0, np.nan, loss / 3),
        "lr": np.full(len(member), 1e-3),
    }
    columns |= {n: np.where(exam, np.nan_to_num(v)[member] * grown, np.nan) for n, v in
                scores.items()}  # fmt: skip
    columns["verdict"] = np.where(exam, label[member], None)
    table = pl.DataFrame(columns).with_columns(pl.selectors.float().fill_nan(None))
    return table.filter(~pl.Series(diverged[member] & (window > windows // 2)))
