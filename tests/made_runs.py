"""Made-up members tables for tests of the report: zones of gamma as a run would show them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from compfast.config import Config, TaskSection, settings
from compfast.tasks import Task


@dataclass(frozen=True, slots=True)
class WordConfig(TaskSection):
    """A task of somebody's own, with a text that may be anything."""

    name: str = "made_runs:WordTask"
    word: str = ""

    def describe(self, varied: frozenset[str]) -> str:
        return self.word


class WordTask(Task[WordConfig]):
    Config = WordConfig
    candidates = ("inferential", "symmetric")


@dataclass(frozen=True)
class MadeRun:
    """What the report reads of a run."""

    members: pl.DataFrame
    config: Config
    info: dict[str, Any]


def made_run(
    gammas: Sequence[float],
    seeds: int,
    depths: Sequence[int] = (2,),
    diverged: bool = False,
    task: TaskSection | None = None,
) -> MadeRun:
    """Underfit below gamma 0.2, then more and more symmetric; or nothing finite at all."""
    uniform = np.random.default_rng(0).uniform
    rows: list[dict[str, Any]] = []
    for depth in depths:
        for gamma in gammas:
            for seed in range(seeds):
                inferential = uniform() < 1.3 - gamma
                scores = [0.97, 0.9, 0.05] if inferential else [0.97, 0.1, 0.8]
                verdict = "inferential" if inferential else "symmetric"
                if gamma < 0.2:
                    scores, verdict = [0.3, 0.1, 0.1], "underfit"
                values: list[float | None] = [v - uniform(0, 0.02) for v in scores]
                if diverged:
                    values, verdict = [None, None, None], "diverged"
                row: dict[str, Any] = {"member": len(rows), "gamma": float(gamma), "seed": seed}
                names = ("seen", "inferential", "symmetric")
                row |= {
                    "layers": depth,
                    "verdict": verdict,
                    **dict(zip(names, values, strict=True)),
                }
                rows.append(row | {"steps": 10, "group": 0, "row": len(rows)})
    scores_are = dict.fromkeys(("seen", "inferential", "symmetric"), pl.Float64)
    sweep = {"model.layers": list(depths)} if len(depths) > 1 else {}
    config = settings.from_dict(
        {
            "sweep": {**sweep, "init.gamma": list(gammas), "seed": list(range(seeds))},
        }
    )
    config = config if task is None else dataclasses.replace(config, task=task)
    table = pl.DataFrame(rows, schema_overrides=scores_are)
    return MadeRun(table, config, {"engine": "native"})


def swept_run(sweep: Mapping[str, Sequence[Any]], **columns: Any) -> MadeRun:
    """Any sweep: inferential below gamma 0.6, else symmetric.

    `seen` is a tenth of the place of the member's level on the first axis besides gamma and seed.
    """
    config = settings.from_dict({"sweep": sweep})
    paths = [path for path, _ in config.sweep]
    rows: list[dict[str, Any]] = []
    for places in itertools.product(*(range(len(values)) for _, values in config.sweep)):
        point = {
            path: config.sweep[a][1][i]
            for a, (path, i) in enumerate(zip(paths, places, strict=True))
        }
        gamma = point.get("init.gamma", config.init.gamma)
        own = [
            i for path, i in zip(paths, places, strict=True) if path not in ("init.gamma", "seed")
        ]
        inferential = gamma < 0.6
        rows.append(
            {
                "member": len(rows),
                "gamma": gamma,
                "seed": point.get("seed", 0),
                "verdict": "inferential" if inferential else "symmetric",
                "seen": own[0] / 10 if own else 1.0,
                "inferential": 0.9 if inferential else 0.1,
                "symmetric": 0.1 if inferential else 0.9,
                **columns,
            }
        )
    return MadeRun(pl.DataFrame(rows), config, {"engine": "native"})


def sampled_run(sample: Mapping[str, Sequence[Any]], seeds: int = 0) -> MadeRun:
    """Any sample: underfit at a learning rate below 2e-4, else inferential below gamma 0.7.

    With `seeds`, so many a point; a member's `seen` is a hundredth of its point.
    """
    sweep = {"seed": list(range(seeds))} if seeds else {}
    config = settings.from_dict({"sweep": sweep, "sample": sample})
    columns = dict(config.sample)
    rows: list[dict[str, Any]] = []
    for point in range(config.points):
        for seed in range(max(seeds, 1)):
            gamma = columns.get("init.gamma", [config.init.gamma] * config.points)[point]
            lr = columns.get("optimizer.lr", [1e-3] * config.points)[point]
            inferential = gamma < 0.7
            verdict = "inferential" if inferential else "symmetric"
            rows.append(
                {
                    "member": len(rows),
                    "gamma": gamma,
                    "seed": columns["seed"][point] if "seed" in columns else seed,
                    "verdict": "underfit" if lr < 2e-4 else verdict,
                    "seen": point / 100,
                    "inferential": 0.9 if inferential else 0.1,
                    "symmetric": 0.1 if inferential else 0.9,
                }
            )
    return MadeRun(pl.DataFrame(rows), config, {"engine": "native"})
