"""The whole native engine under AddressSanitizer and UBSan: every architecture, every
instruction set, a member for each worker and two workers for one member; and every single op.

    LD_PRELOAD="$(c++ -print-file-name=libasan.so) $(c++ -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \
        python tests/cpp/sanitized_step.py build/checks/_native*.so

Any finding ends the process; the numbers are checked elsewhere (tests/test_engines.py).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np

Data = Literal["fresh", "fixed", "table", "host", "chain", "chain_search"]
Precision = Literal["fp32", "bf16"]
TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent), str(TESTS / "cpp")]


def use_extension(path: str) -> None:
    """Make `compfast._native` the extension in this file."""
    spec = importlib.util.spec_from_file_location("compfast._native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compfast._native"] = module
    spec.loader.exec_module(module)


def exercise(
    name: str,
    members: int,
    batch_size: int,
    data: Data,
    precision: Precision,
    optimizer: dict[str, Any] | None = None,
) -> None:
    """Two steps, a profile, gradients, predictions and logits of a few members on two threads.

    A table is drawn from in C++, its batches from the host in Python.
    """
    from architectures import sections_of
    from host_tasks import HostTask, TableTask

    from compfast.config import Config, OptimizerConfig, TrainingConfig
    from compfast.engines import native
    from compfast.ensembles.grid import member_specs
    from compfast.ensembles.schedule import make_tables
    from compfast.tasks import make_task
    from compfast.tasks.chain_search import ChainSearchConfig, ChainSearchTask
    from compfast.tasks.markov import MarkovConfig, MarkovTask
    from compfast.tasks.table import TableDraws

    config = Config(
        **sections_of(name, data="fixed" if data == "fixed" else "fresh"),
        optimizer=OptimizerConfig(**(optimizer or {})),
        training=TrainingConfig(steps=2, batch_size=batch_size, precision=precision),
        sweep=(("seed", tuple(range(members))),),
    )
    specs = member_specs(config)
    length = specs[0].task.seq_len  # type: ignore[attr-defined]
    rows = np.random.default_rng(1).integers(0, 100, (batch_size + members, length))
    draws = TableDraws(rows, rows[:, 0], shuffled=members > 1)
    chain = MarkovTask(MarkovConfig(chain="random", states=3, order=2, seq_len=length))
    search = ChainSearchTask(
        ChainSearchConfig(seq_len=length, chains=1, order=1, named=length % 2 == 0)
    )
    tasks = {"table": TableTask(draws), "host": HostTask(draws), "chain": chain}
    tasks["chain_search"] = search
    task: Any = tasks.get(data) or make_task(specs[0].task)
    with mock.patch.object(native, "make_task", return_value=task):
        engine = native.NativeEngine(specs, make_tables(specs), threads=2)
    engine.initialise()
    assert engine.profile(members - 1, 1).steps == 1
    engine.advance(1)
    engine.load(engine.state())
    assert np.isfinite(engine.advance(2).loss).all()
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, specs[0].model.vocab_size, (batch_size + 1, length), dtype=np.int32)
    loss, _ = engine.gradients(tokens, tokens[:, 0])
    assert np.isfinite(loss).all()
    assert engine.predict(tokens).shape == (members, len(tokens))
    assert np.isfinite(engine.outputs(tokens, [members - 1])).all()


def exercise_vectors(name: str, members: int, batch_size: int, precision: Precision) -> None:
    """A step, gradients and outputs of a network that generates another one's weights."""
    from architectures import BOTTLENECKS

    from compfast.config import Config, TrainingConfig
    from compfast.engines import native
    from compfast.ensembles.grid import member_specs
    from compfast.ensembles.schedule import make_tables
    from compfast.tasks import make_task

    task, model = BOTTLENECKS[name]
    config = Config(
        task=task,  # type: ignore[arg-type]
        model=model,
        training=TrainingConfig(steps=2, batch_size=batch_size, precision=precision),
        sweep=(("seed", tuple(range(members))),),
    )
    specs = member_specs(config)
    engine = native.NativeEngine(specs, make_tables(specs), threads=2)
    engine.initialise()
    assert np.isfinite(engine.advance(1).loss).all()
    inputs, targets = make_task(specs[0].task).batch(0, 0, batch_size + 1)
    assert np.isfinite(engine.gradients(inputs, targets)[0]).all()
    assert np.isfinite(engine.outputs(inputs, [members - 1])).all()


def main() -> None:
    use_extension(sys.argv[1])
    from architectures import BINARY, BOTTLENECKS, NAMES
    from sanitized_ops import exercise_ops

    from compfast import _native

    for isa in _native.supported_isas():
        os.environ["COMPFAST_ISA"] = isa
        exercise_ops(_native)
        for index, name in enumerate(NAMES):
            exercise(name, 3, 37, "fresh", "fp32")
            exercise(name, 1, 1 + index, "fixed", "bf16")
        for index, name in enumerate(BINARY):
            exercise(name, 3, 37, "fresh", "fp32")
            exercise(name, 1, 1 + index, "fresh", "bf16")
        for index, name in enumerate(BOTTLENECKS):
            exercise_vectors(name, 3, 37, "fp32")
            exercise_vectors(name, 1, 1 + index, "bf16")
        for data in ("table", "host", "chain", "chain_search"):
            exercise("one_layer", 3, 37, data, "fp32")
            exercise("tied_all_post", 1, 5, data, "bf16")
        for momentum in (0.0, 0.9):
            sgd: dict[str, Any] = {"kind": "sgd", "momentum": momentum, "nesterov": momentum > 0}
            windows = {"decay_windows": ((0.5, 1.0),), "decay": "matrices", "weight_decay_vo": 0.7}
            exercise("one_layer", 3, 37, "fresh", "fp32", sgd | windows)
    isas = " ".join(_native.supported_isas())
    print(
        f"sanitized: {len(NAMES) + len(BINARY) + len(BOTTLENECKS)} architectures, streams, SGD and"
        f" every op on {isas}"
    )


if __name__ == "__main__":
    main()
