"""Random ensembles, and what must not change about one member: hypothesis draws, a check judges.

A course says who is trained beside whom, and how: threads, chunks, members that freeze, break or
are saved and loaded on the way. `check_course` trains the probed member alone, in one go, and
compares every bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ensembles import same_bits, start
from hypothesis import strategies as st
from oracle import Array, random_batch
from random_tasks import networks

from compfast.config import (
    Config,
    InitConfig,
    MemberSpec,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
)
from compfast.engines.base import State
from compfast.ensembles.grid import member_specs
from compfast.models.params import parameter_table
from compfast.tasks import make_task

Make = Callable[[Sequence[MemberSpec], int], Any]  # members, threads -> an initialised engine

WRONG = (float("nan"), float("inf"), float("-inf"))


@dataclass(frozen=True)
class Chunk:
    """One call of `advance`, and what happens to the ensemble after it."""

    until: int
    frozen: tuple[int, ...] = ()
    broken: tuple[tuple[int, int, float], ...] = ()  # (member, index of a tensor, value)
    threads: int | None = None  # go on in another engine, with so many threads


@dataclass(frozen=True)
class Course:
    specs: tuple[MemberSpec, ...]
    probe: int
    threads: int
    chunks: tuple[Chunk, ...]

    @property
    def steps(self) -> int:
        return self.chunks[-1].until


@dataclass(frozen=True)
class Life:
    """All that is seen of the probed member."""

    state: State
    row: int
    loss: Array  # [steps], NaN where it was not trained
    norm: Array
    answers: Array  # [N]
    logits: Array  # [N, V]


def native(specs: Sequence[MemberSpec], threads: int) -> Any:
    return start("native", specs, threads)


def live(course: Course, make: Make = native) -> Life:
    """Train the course as it stands."""
    engine = make(course.specs, course.threads)
    loss = np.full(course.steps, np.nan, np.float32)
    norm = loss.copy()
    for chunk in course.chunks:
        result = engine.advance(chunk.until)
        for whole, part in ((loss, result.loss), (norm, result.grad_norm)):
            row = part[course.probe]
            place = whole[result.base : result.base + len(row)]
            place[:] = np.where(np.isnan(row), place, row)
        if chunk.frozen:
            engine.freeze(np.isin(np.arange(len(course.specs)), chunk.frozen))
        if chunk.broken or chunk.threads is not None:
            state = engine.state()
            for member, tensor, value in chunk.broken:
                name = sorted(state.params)[tensor % len(state.params)]
                state.params[name][member].flat[0] = value
            if chunk.threads is not None:
                engine = make(course.specs, chunk.threads)
            engine.load(state)
    first = course.specs[0]
    inputs, _ = random_batch(first.model, make_task(first.task).length, 5, seed=1)
    answers = engine.predict(inputs)[course.probe]
    logits = engine.outputs(inputs, [course.probe])[0]
    return Life(engine.state(), course.probe, loss, norm, answers, logits)


def alone(course: Course) -> Course:
    """The probed member by itself: one thread, no stop but where it is frozen."""
    own = [c.until for c in course.chunks if course.probe in c.frozen]
    chunks = [Chunk(own[0], (0,))] if own else []
    if not own or own[0] < course.steps:
        chunks.append(Chunk(course.steps))
    return Course((course.specs[course.probe],), 0, 1, tuple(chunks))


def check_course(course: Course, make: Make = native) -> None:
    """Fails unless the probed member has the bits that it has alone."""
    among, single = live(course, make), live(alone(course), make)
    same_bits(among.state, single.state, [among.row], [single.row])
    for name in ("loss", "norm", "answers", "logits"):
        assert getattr(among, name).tobytes() == getattr(single, name).tobytes(), name


@st.composite
def groups(draw: Any, steps: int) -> tuple[MemberSpec, ...]:
    """1 to 7 members of one shape, each with its own seed, gammas, rate, decay and clip."""
    task, model = draw(networks())
    count = draw(st.integers(1, 7))
    training = TrainingConfig(
        steps=steps,
        batch_size=draw(st.integers(1, 40)),
        precision=draw(st.sampled_from(("fp32", "bf16"))),
    )
    schedule = draw(st.sampled_from(("constant", "linear", "cosine", "one_cycle", "paper")))
    decay = draw(st.sampled_from(("all", "matrices")))
    windows = draw(st.sampled_from(((), ((0.0, draw(st.integers(1, steps)) / steps),))))
    momentum = draw(st.sampled_from((0.0, 0.5)))
    optimizer = OptimizerConfig(
        kind=draw(st.sampled_from(("adamw", "sgd"))),
        schedule=schedule,
        decay=decay,
        decay_windows=windows,
        momentum=momentum,
        nesterov=momentum > 0 and draw(st.booleans()),
    )
    seeds = tuple(range(count))
    config = Config(
        task=task, model=model, optimizer=optimizer, training=training, sweep=(("seed", seeds),)
    )
    return tuple(draw(_member(spec)) for spec in member_specs(config))


@st.composite
def _member(draw: Any, spec: MemberSpec) -> MemberSpec:
    gamma = st.integers(0, 15).map(lambda tenths: tenths / 10)
    tensor = draw(st.sampled_from(parameter_table(spec.model))).name
    ruled = isinstance(spec.model, ModelConfig) and draw(st.integers(0, 4)) == 0
    init = InitConfig(
        gamma=draw(gamma),
        gamma_qk=draw(st.none() | gamma),
        gamma_head=draw(st.none() | gamma),
        residual_scale=draw(st.booleans()),
        std=draw(st.none() | st.sampled_from((0.0, 0.3))),
        constants=draw(st.sampled_from(((), ((tensor, 0.25),)))),
        law="rank_one" if ruled else "gaussian",
    )
    optimizer = dataclasses.replace(
        spec.optimizer,
        lr=draw(st.sampled_from((0.0, 1e-4, 3e-3, 0.1))),
        weight_decay=draw(st.sampled_from((0.0, 0.05, 0.5))),
        weight_decay_qk=draw(st.none() | st.just(0.3)),
        weight_decay_vo=draw(st.none() | st.just(0.7)),
        weight_decay_head=draw(st.none() | st.just(0.0)),
        clip=draw(st.sampled_from((0.0, 0.1, 1.0))),
    )
    seeds = st.integers(0, 2**53 - 1)
    return dataclasses.replace(
        spec,
        seed=draw(seeds),
        own_init_seed=draw(st.none() | seeds),
        own_data_seed=draw(st.none() | seeds),
        init=init,
        optimizer=optimizer,
    )


@st.composite
def courses(draw: Any) -> Course:
    steps = draw(st.integers(1, 6))
    specs = draw(groups(steps))
    everyone = range(len(specs))
    probe = draw(st.sampled_from(everyone))
    stops = sorted(draw(st.sets(st.integers(0, steps - 1), max_size=3)) | {steps})
    threads = st.integers(1, 4)
    chunks = []
    for until in stops:
        last = until == steps
        others = [i for i in everyone if i != probe]
        some = st.sampled_from(others) if others and not last else st.nothing()
        wrong = st.tuples(some, st.integers(0, 50), st.sampled_from(WRONG))
        broken = draw(st.lists(wrong, max_size=2)) if others and not last else []
        frozen = draw(st.sets(st.sampled_from(everyone), max_size=2))
        chunks.append(
            Chunk(until, tuple(frozen), tuple(broken), None if last else draw(st.none() | threads))
        )
    return Course(specs, probe, draw(threads), tuple(chunks))
