"""The whole native engine under AddressSanitizer and UBSan: every architecture, every
instruction set, a member for each worker and two workers for one member; and every single op.

    LD_PRELOAD="$(c++ -print-file-name=libasan.so) $(c++ -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \
        python tests/cpp/sanitized_step.py build/checks/_native*.so [ISA ...]

Instruction sets: those that are named, or all of the extension that this machine runs. Any finding
ends the process; the numbers are checked elsewhere (tests/test_engines.py).
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
    """Two steps, a profile, gradients, predictions, logits and tokens of members on two threads.

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
    tasks = {"table": TableTask(draws), "host": HostTask(draws), "chain": chain}
    if data == "chain_search":  # which has not as many nodes as the longest sequences here
        named = ChainSearchConfig(seq_len=length, chains=1, order=1, named=length % 2 == 0)
        tasks["chain_search"] = ChainSearchTask(named)
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
    if name not in ("not_causal", "narrow_heads_last"):
        decode(engine, tokens)


def decode(engine: Any, tokens: Any) -> None:
    """Prompts of every length, more than are under way at once."""
    from compfast.config import Prompts

    length = tokens.shape[1]
    prompts = np.resize(tokens, (600, length // 2))
    lengths = 1 + np.arange(600, dtype=np.int32) % (length // 2)
    told = engine.generate(Prompts(prompts, lengths, length // 2 + 1, end=1), [0, 0])
    assert (told[0] == told[1]).all()


def exercise_decoding(model: dict[str, Any], precision: Precision) -> None:
    """What no architecture of the grid has: kinds of attention, biases of distances."""
    from architectures import sections_of

    from compfast.config import Config, TrainingConfig
    from compfast.engines import native
    from compfast.ensembles.grid import member_specs
    from compfast.ensembles.schedule import make_tables

    sections = {**sections_of("long"), "model": {"d_model": 20, "heads": 4, **model}}
    config = Config(**sections, training=TrainingConfig(steps=2, precision=precision))
    specs = member_specs(config)
    engine = native.NativeEngine(specs, make_tables(specs), threads=2)
    engine.initialise()
    decode(engine, np.random.default_rng(0).integers(0, 100, (3, 20), dtype=np.int32))


def exercise_task(
    task: Any, model: Any, members: int, batch_size: int, precision: Precision
) -> None:
    """A step, gradients and outputs on what C++ draws for this task."""
    from compfast.config import Config, TrainingConfig
    from compfast.engines import native
    from compfast.ensembles.grid import member_specs
    from compfast.ensembles.schedule import make_tables
    from compfast.tasks import make_task

    config = Config(
        task=task,
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


def exercise_ragged(members: int, batch_size: int, model: dict[str, Any]) -> None:
    """Sequences that end at their last target: steps, a profile, gradients and outputs."""
    from ragged_task import RaggedConfig, ragged_specs, sequences

    from compfast.engines import native
    from compfast.ensembles.schedule import make_tables

    task = RaggedConfig(length=45)
    specs = ragged_specs(range(members), task=task, batch_size=batch_size, **model)
    engine = native.NativeEngine(specs, make_tables(specs), threads=2)
    engine.initialise()
    assert engine.plan.ragged
    assert engine.profile(members - 1, 1).steps == 1
    assert np.isfinite(engine.advance(2).loss).all()
    for ends in ((45,) * (batch_size + 1), range(46), (0, 0), (1,) * 46, (45, 17, 0, 16, 1)):
        tokens, targets = sequences(ends, 45)
        assert np.isfinite(engine.gradients(tokens, targets)[0]).all()
    assert np.isfinite(engine.outputs(tokens, [members - 1])).all()


def main() -> None:
    use_extension(sys.argv[1])
    from architectures import BINARY, BOTTLENECKS, NAMES
    from ragged_task import RAGGED
    from sanitized_ops import exercise_ops

    from compfast import _native

    isas = sys.argv[2:] or _native.supported_isas()
    for isa in isas:
        os.environ["COMPFAST_ISA"] = isa
        exercise_ops(_native)
        for index, name in enumerate(NAMES):
            exercise(name, 3, 37, "fresh", "fp32")
            exercise(name, 1, 1 + index, "fixed", "bf16")
        for index, name in enumerate(BINARY):
            exercise(name, 3, 37, "fresh", "fp32")
            exercise(name, 1, 1 + index, "fresh", "bf16")
        for index, name in enumerate(BOTTLENECKS):
            exercise_task(*BOTTLENECKS[name], 3, 37, "fp32")
            exercise_task(*BOTTLENECKS[name], 1, 1 + index, "bf16")
        scan = {"name": "scan", "grammar": "small", "held_out": "jump"}  # a mask, an order of rows
        masked = {"d_model": 20, "heads": 2, "loss_positions": "masked"}
        exercise_task(scan, masked, 3, 37, "fp32")
        exercise_task({**scan, "shuffled": False}, masked, 1, 5, "bf16")
        for model in RAGGED.values():
            exercise_ragged(3, 37, model)
            exercise_ragged(1, 3, model)
        for index, path in enumerate(("none", "linear", "relu", "deep")):
            kind: dict[str, Any] = {"position": "relative", "buckets": 3, "value_path": path}
            exercise_decoding({**kind, "attention": "softmax"}, "fp32")
            exercise_decoding({**kind, "attention": "linear", "d_k": 1 + index}, "bf16")
            exercise_decoding({**kind, "attention": "rms_head", "d_v": 7 - index}, "fp32")
        for data in ("table", "host", "chain", "chain_search"):
            exercise("one_layer", 3, 37, data, "fp32")
            exercise("tied_all_post", 1, 5, data, "bf16")
        for momentum in (0.0, 0.9):
            sgd: dict[str, Any] = {"kind": "sgd", "momentum": momentum, "nesterov": momentum > 0}
            windows = {"decay_windows": ((0.5, 1.0),), "decay": "matrices", "weight_decay_vo": 0.7}
            exercise("one_layer", 3, 37, "fresh", "fp32", sgd | windows)
    networks = sum(map(len, (NAMES, BINARY, BOTTLENECKS, RAGGED)))
    print(f"sanitized: {networks} architectures, streams, SGD and every op on {' '.join(isas)}")


if __name__ == "__main__":
    main()
