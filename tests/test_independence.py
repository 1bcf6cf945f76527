"""A member's bits depend on nothing but its spec (design, Contract 2)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from ensembles import group, mixed, random_state, same_bits, start
from oracle import Array, random_batch

from compfast.config import MemberSpec
from compfast.engines.base import ACTIVE, DIVERGED, FROZEN, State
from compfast.tasks import make_task

STEPS = 6
SHAPES = ("one_layer", "own_head_sizes", "post_all_positions")
LARGEST = 33


# The eager engine is slow and shares one code path for all shapes.
CASES = [("eager", SHAPES[0]), *(("native", shape) for shape in SHAPES)]


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Engine and shape."""
    engine, shape = request.param
    if engine == "native":
        request.getfixturevalue("native_extension")
    return engine, shape


@dataclass(frozen=True)
class Result:
    state: State
    loss: Array  # [M, STEPS]
    norm: Array  # [M, STEPS]


def members(shape: str) -> list[MemberSpec]:
    """33 members that differ in seed, gamma, learning rate, weight decay and clip."""
    seeds = tuple(range(LARGEST))
    return mixed(group(shape, (("seed", seeds),), batch_size=37, steps=STEPS))


def trained(
    engine: str,
    specs: Sequence[MemberSpec],
    *,
    threads: int = 1,
    stops: Sequence[int] = (STEPS,),
) -> Result:
    made = start(engine, specs, threads)
    parts = [made.advance(until) for until in stops]
    loss = np.concatenate([part.loss for part in parts], axis=1)
    norm = np.concatenate([part.grad_norm for part in parts], axis=1)
    assert np.isfinite(loss).all()
    return Result(made.state(), loss, norm)


@functools.cache
def everyone(engine: str, shape: str) -> Result:
    return trained(engine, members(shape))


def check(engine: str, shape: str, rows: Sequence[int], **how: object) -> None:
    """Members `rows` trained together have the bits they have among all 33."""
    specs, whole = members(shape), everyone(engine, shape)
    part = trained(engine, [specs[row] for row in rows], **how)  # type: ignore[arg-type]
    same_bits(part.state, whole.state, range(len(rows)), rows)
    assert part.loss.tobytes() == whole.loss[list(rows)].tobytes()
    assert part.norm.tobytes() == whole.norm[list(rows)].tobytes()


@pytest.mark.parametrize("count", [1, 2, 7])
def test_number_of_members(case: tuple[str, str], count: int) -> None:
    check(*case, range(count))
    check(*case, range(20, 20 + count))


def test_order(case: tuple[str, str]) -> None:
    check(*case, range(LARGEST - 1, -1, -1))
    check(*case, [int(row) for row in np.random.default_rng(0).permutation(LARGEST)[:5]])


@pytest.mark.parametrize("stops", [tuple(range(1, STEPS + 1)), (2, 5, STEPS)])
def test_chunks(case: tuple[str, str], stops: tuple[int, ...]) -> None:
    check(*case, [4, 9, 0], stops=stops)


@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads(case: tuple[str, str], threads: int, count: int) -> None:
    """Also with more threads than members, where two may share one."""
    check(*case, range(count), threads=threads)


def test_threads_and_many_members(engine: str) -> None:
    check(engine, SHAPES[0], range(LARGEST), threads=2)


@pytest.mark.parametrize(
    ("tensor", "wrong"),
    [
        ("blocks.0.ffn.up.weight", np.nan),
        ("blocks.0.ffn.up.weight", -np.inf),
        ("embed.position.weight", np.inf),
        ("embed.position.weight", -np.inf),
        ("head.bias", np.nan),
        ("head.bias", np.inf),
    ],
)
def test_a_broken_neighbour(engine: str, tensor: str, wrong: float) -> None:
    shape, broken = SHAPES[0], 1
    made = start(engine, members(shape)[:3])
    before = made.state()
    before.params[tensor][broken, 0] = wrong
    made.load(before)
    result, after = made.advance(STEPS), made.state()
    same_bits(after, everyone(engine, shape).state, [0, 2], [0, 2])
    same_bits(after, State(**{**_parts(before), "status": after.status}), [broken], [broken])
    assert after.status.tolist() == [ACTIVE, DIVERGED, ACTIVE]
    assert after.step.tolist() == [STEPS, 0, STEPS]
    first = result.loss[broken, 0], result.grad_norm[broken, 0]
    assert not np.isfinite(first).all()
    assert np.isnan(result.loss[broken, 1:]).all()
    assert np.isnan(result.grad_norm[broken, 1:]).all()
    assert made.advance(STEPS).loss.shape == (3, 0)


def test_divergence_in_the_middle_keeps_the_last_finite_step(engine: str) -> None:
    """A member broken at step 3 stays where it stood; its neighbour goes on."""
    shape = SHAPES[0]
    made = start(engine, members(shape)[:2])
    made.advance(3)
    at_three = made.state()
    at_three.params["head.bias"][1, 5] = np.nan
    made.load(at_three)
    result, after = made.advance(STEPS), made.state()
    assert result.base == 3
    assert after.step.tolist() == [STEPS, 3]
    assert after.status.tolist() == [ACTIVE, DIVERGED]
    for name, value in at_three.params.items():
        assert after.params[name][1].tobytes() == value[1].tobytes()
    same_bits(after, everyone(engine, shape).state, [0], [0])


def test_a_frozen_neighbour(engine: str) -> None:
    shape = SHAPES[0]
    made = start(engine, members(shape)[:4])
    made.advance(2)
    at_two = made.state()
    made.freeze(np.array([False, True, False, True]))
    result, after = made.advance(STEPS), made.state()
    same_bits(after, everyone(engine, shape).state, [0, 2], [0, 2])
    assert after.status.tolist() == [ACTIVE, FROZEN, ACTIVE, FROZEN]
    assert after.step.tolist() == [STEPS, 2, STEPS, 2]
    assert np.isnan(result.loss[[1, 3]]).all()
    for name, value in at_two.params.items():
        assert after.params[name][[1, 3]].tobytes() == value[[1, 3]].tobytes()


def test_a_saved_state_goes_on_in_another_engine(case: tuple[str, str]) -> None:
    engine, shape = case
    specs = members(shape)
    first = start(engine, specs[:3])
    first.advance(2)
    saved = first.state()
    second = start(engine, specs[:3], threads=2)
    second.load(saved)
    same_bits(second.state(), saved, range(3), range(3))
    second.advance(STEPS)
    same_bits(second.state(), everyone(engine, shape).state, range(3), range(3))


def test_members_of_a_group_may_stand_at_different_steps(engine: str) -> None:
    shape = SHAPES[0]
    specs, whole = members(shape), everyone(engine, shape)
    early = start(engine, specs[:3])
    early.advance(2)
    late = start(engine, specs[:3])
    late.advance(5)
    made, a, b = start(engine, specs[:3]), early.state(), late.state()
    for part in ("params", "exp_avg", "exp_avg_sq"):
        for name, value in getattr(a, part).items():
            value[1] = getattr(b, part)[name][1]
    a.step[1] = b.step[1]
    made.load(a)
    result = made.advance(STEPS)
    same_bits(made.state(), whole.state, range(3), range(3))
    assert result.base == 2
    assert result.loss[[0, 2]].tobytes() == whole.loss[[0, 2], 2:].tobytes()
    assert np.isnan(result.loss[1, :3]).all()
    assert result.loss[1, 3].tobytes() == whole.loss[1, 5].tobytes()


def test_answers_and_gradients(case: tuple[str, str]) -> None:
    engine, shape = case
    specs = members(shape)[:5]
    state = random_state(specs)
    tokens, targets = random_batch(specs[0].model, make_task(specs[0].task).length, 37, seed=0)
    whole = start(engine, specs, threads=2)
    whole.load(state)
    loss, grads = whole.gradients(tokens, targets)
    alone = start(engine, specs[3:4])
    alone.load(_row(state, 3))
    own_loss, own_grads = alone.gradients(tokens, targets)
    assert own_loss.tobytes() == loss[3:4].tobytes()
    for name, gradient in grads.items():
        assert own_grads[name].tobytes() == gradient[3:4].tobytes(), name
    assert alone.outputs(tokens, [0]).tobytes() == whole.outputs(tokens, [3]).tobytes()
    assert whole.outputs(tokens, [3, 0])[0].tobytes() == whole.outputs(tokens, [3]).tobytes()
    assert alone.predict(tokens).tobytes() == whole.predict(tokens)[3].tobytes()


def _row(state: State, i: int) -> State:
    def cut(named: dict[str, Array]) -> dict[str, Array]:
        return {name: value[i : i + 1] for name, value in named.items()}

    return State(
        cut(state.params),
        cut(state.exp_avg),
        cut(state.exp_avg_sq),
        state.step[i : i + 1],
        state.status[i : i + 1],
    )


def _parts(state: State) -> dict[str, object]:
    names = ("params", "exp_avg", "exp_avg_sq", "step", "status")
    return {name: getattr(state, name) for name in names}
