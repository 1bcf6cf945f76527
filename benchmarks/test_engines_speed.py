"""Model-steps a second: the native engine against an eager PyTorch loop, in one run.

    python -m pytest benchmarks/test_engines_speed.py -m benchmark

Network: L 2, width d, one head with d_k = d, FFN 2d, pre-norm, exact GELU, biases, 9 tokens,
batch 256; fresh data is drawn on both sides. Eager is the better of one process on two threads
and two processes on one thread each. The three take turns; rates are medians, and the ratio is
the median of the rounds' ratios, so that a busy machine slows both sides of each.
"""

from __future__ import annotations

import os
import statistics

import numpy as np
import pytest
import torch
from ensembles import member
from oracle_training import train, training_budget
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.eager_loop import EagerLoop, EagerProcesses, versions
from compfast.config import Config, MemberSpec, ModelConfig, TrainingConfig
from compfast.engines import make_engine
from compfast.grid import member_specs
from compfast.schedule import make_tables

MEMBERS, THREADS, BATCH = 8, 2, 256
ROUNDS, STEPS = 11, 20  # a round: each side trains so many steps a model
GATE_STEPS = 10

pytestmark = pytest.mark.benchmark


def members(width: int) -> list[MemberSpec]:
    config = Config(
        model=ModelConfig(layers=2, d_model=width),
        training=TrainingConfig(steps=(ROUNDS + 2) * STEPS, batch_size=BATCH),
        sweep=(("seed", tuple(range(MEMBERS))),),
    )
    return member_specs(config)


@pytest.mark.parametrize(("width", "least"), [(32, 6.0), (64, 4.5)])
def test_native_against_the_eager_loop(
    benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture[str], width: int, least: float
) -> None:
    if len(os.sched_getaffinity(0)) < THREADS:
        pytest.fail(f"this comparison needs {THREADS} cores")
    specs = members(width)
    _gate(specs)
    engine = make_engine("native", specs, make_tables(specs), threads=THREADS)
    engine.initialise()
    done = 0
    forms = ("eager, 1 process x 2 threads", "eager, 2 processes x 1 thread")
    rates: dict[str, list[float]] = {form: [] for form in forms}
    with (
        EagerProcesses(specs, processes=1, threads=2) as one,
        EagerProcesses(specs, processes=2, threads=1) as two,
    ):

        def turn_of_the_peers() -> None:
            for form, peer in zip(forms, (one, two), strict=True):
                rates[form].append(peer.rate(STEPS))

        def chunk() -> None:
            nonlocal done
            done += STEPS
            engine.advance(done)

        benchmark.pedantic(  # type: ignore[no-untyped-call]
            chunk, setup=turn_of_the_peers, rounds=ROUNDS, warmup_rounds=1
        )
    assert benchmark.stats is not None
    native = [MEMBERS * STEPS / seconds for seconds in benchmark.stats.stats.data]
    eager = {form: values[1:] for form, values in rates.items()}  # without the warm-up round
    medians = {form: statistics.median(values) for form, values in eager.items()}
    best = max(medians, key=medians.__getitem__)
    ratio = statistics.median(a / b for a, b in zip(native, eager[best], strict=True))
    medians[f"native {engine.isa}, {THREADS} threads, {MEMBERS} members"] = statistics.median(
        native
    )
    benchmark.extra_info.update(versions(), width=width, batch=BATCH, ratio=ratio, **medians)
    with capsys.disabled():
        print("\n" + _table(width, medians, ratio))
    assert ratio >= least, f"d {width}: {ratio:.2f}x the eager loop, {least}x are promised"


def _gate(specs: list[MemberSpec]) -> None:
    """Nothing is timed before its first steps stand inside the error budget."""
    spec = specs[0]
    exact = train(spec, GATE_STEPS)
    allowed = training_budget(exact, train(spec, GATE_STEPS, torch.float32)).params
    engine = make_engine("native", specs, make_tables(specs), threads=THREADS)
    engine.initialise()
    engine.advance(GATE_STEPS)
    loop = EagerLoop(spec)
    loop.train(GATE_STEPS)
    peer = {name: value.detach().numpy() for name, value in loop.model.named_parameters()}
    for who, params in (("native", member(engine.state().params, 0)), ("eager", peer)):
        for name, bound in allowed.items():
            error = np.abs(params[name] - exact.params[name])
            assert (error <= bound).all(), f"{who}: {name} is outside the error budget"


def _table(width: int, medians: dict[str, float], ratio: float) -> str:
    lines = [f"d {width}, batch {BATCH}, medians of {ROUNDS} rounds: model-steps a second"]
    lines += [f"  {what:<34}{rate:>9.1f}" for what, rate in medians.items()]
    lines.append(f"  native is {ratio:.2f}x the better eager form")
    return "\n".join([*lines, "  " + ", ".join(f"{k} {v}" for k, v in versions().items())])
