"""Small ensembles for tests of the loop and the run folder, and what makes two runs equal."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

import compfast
from compfast.config import (
    Config,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
)
from compfast.runs import checkpoints
from compfast.runs.reading import Run
from compfast.storage import tensorfile
from compfast.tasks.anchor import AnchorConfig

ENGINES = ("native", "eager")


def small_config(
    *,
    engine: str = "native",
    sweep: tuple[tuple[str, tuple[Any, ...]], ...] = (("seed", (0, 1, 2)),),
    run: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
    **training: Any,
) -> Config:
    """A few members of width 8; every cadence differs, windows end between checkpoints."""
    chosen: dict[str, Any] = {"steps": 46, "batch_size": 4, "log_every": 10, "eval_every": 15}
    items = {"seen_items": 24, "unseen_items": 24, **(evaluation or {})}
    settings: dict[str, Any] = {"engine": engine, "threads": 1, "checkpoint_every": 7}
    return Config(
        task=AnchorConfig(),
        optimizer=OptimizerConfig(),
        model=ModelConfig(layers=1, d_model=8),
        training=TrainingConfig(**{**chosen, **training}),
        evaluation=EvaluationConfig(**items),
        run=RunConfig(**{**settings, **(run or {})}),
        sweep=sweep,
    )


def resumed(path: Path, **run: Any) -> Run:
    """Go on with a run, fields of its RunConfig changed."""
    config = compfast.load(path).config
    changed = dataclasses.replace(config, run=dataclasses.replace(config.run, **run))
    return compfast.train(changed, path, resume=True)


def saved_arrays(run: Run) -> dict[str, np.ndarray[Any, Any]]:
    """Everything in a run's newest checkpoint: parameters, moments, steps, windows, counters."""
    assert run.checkpoint is not None
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for file in sorted(run.checkpoint.path.rglob("*.safetensors")):
        group = f"{file.parent.name}/{file.stem}"
        arrays |= {f"{group}/{name}": array for name, array in tensorfile.read(file).items()}
    return arrays


def assert_same_run(one: Run, other: Run) -> None:
    """Members, metrics, parameters, moments and counters agree bit for bit."""
    assert one.finished
    assert other.finished
    assert one.members.equals(other.members)
    assert one.metrics.equals(other.metrics)
    left, right = saved_arrays(one), saved_arrays(other)
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert array.tobytes() == right[name].tobytes(), name


def interrupted_at(path: Path, config: Config, step: int) -> Run:
    """A run that a callback ended when the metrics of `step` came."""

    class Stop(compfast.Callback):
        def on_metrics(self, rows: Any) -> None:
            if rows["step"].max() == step:
                raise KeyboardInterrupt

    try:
        compfast.train(config, path, [Stop()])
    except KeyboardInterrupt:
        return compfast.load(path)
    raise AssertionError(f"the run went past step {step}")


def numbers(path: Path) -> list[int]:
    """Checkpoints that stand in a run folder."""
    return [int(p.name) for p in checkpoints.numbered(path / "checkpoints")]


def long_config(**run: Any) -> Config:
    """About a second of training, saved often."""
    return small_config(
        steps=6000, log_every=500, eval_every=1500, run={"checkpoint_every": 300, **run}
    )


if __name__ == "__main__":
    # A process to stop from outside: small_runs.py DIR [--resume]
    resume = sys.argv[2:] == ["--resume"]
    try:
        compfast.train(None if resume else long_config(), sys.argv[1], resume=resume)
    except compfast.CompfastError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
