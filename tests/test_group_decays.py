"""Weight decay of each gamma group: every engine's, beside None, alone, in sweeps and stored runs.

Ten steps of it against float64 are cases of tests/test_engines.py.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ensembles import group, mixed, same_bits, start
from small_runs import assert_same_run, interrupted_at, resumed, small_config

import compfast
from compfast.config import GAMMA_GROUPS, WEIGHT_DECAYS, Config, MemberSpec, OptimizerConfig
from compfast.engines.base import State
from compfast.engines.decays import NEVER, decay_column, weight_decays
from compfast.engines.flat import FlatLayout
from compfast.ensembles.groups import member_groups
from compfast.errors import UsageError
from compfast.models.families import model_plan
from compfast.models.params import parameter_table

FIVE: dict[str, Any] = dict(zip(WEIGHT_DECAYS, (0.1, 0.2, 0.4, 0.8, 1.6), strict=True))
KINDS: tuple[dict[str, Any], ...] = ({}, {"kind": "sgd", "momentum": 0.9}, {"decay": "matrices"})


def _changed(spec: MemberSpec, **optimizer: Any) -> MemberSpec:
    return dataclasses.replace(spec, optimizer=dataclasses.replace(spec.optimizer, **optimizer))


def _trained(engine: str, specs: list[MemberSpec], steps: int = 4) -> State:
    made = start(engine, specs)
    made.advance(steps)
    state: State = made.state()
    return state


def test_the_names_are_those_of_the_gammas() -> None:
    for name in WEIGHT_DECAYS:
        assert hasattr(Config().init, name.replace("weight_decay", "gamma"))
        assert getattr(OptimizerConfig(), name) is None
    options = OptimizerConfig(weight_decay=0.5, weight_decay_ffn=0.0)
    assert {g: options.weight_decay_of(g) for g in (*GAMMA_GROUPS, "")} == {
        **dict.fromkeys((*GAMMA_GROUPS, ""), 0.5),
        "ffn": 0.0,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_s_own_decay_moves_its_tensors_alone(engine: str, kind: dict[str, Any]) -> None:
    """One step whose gradient no decay has changed: p is kept by 1 - lr times its own decay."""
    (plain,) = group("default", (("seed", (3,)),), optimizer={**kind, "schedule": "constant"})
    never = _changed(plain, weight_decay=0.0)
    own = _changed(plain, **FIVE)
    states = [_trained(engine, [spec], steps=1) for spec in (never, own)]
    before = start(engine, [plain]).state()
    for tensor in parameter_table(plain.model):
        without, decayed = (s.params[tensor.name][0].astype(np.float64) for s in states)
        decay = own.optimizer.weight_decay_of(tensor.group)
        if kind.get("decay") == "matrices" and not tensor.matrix:
            decay = 0.0
        first = before.params[tensor.name][0].astype(np.float64)
        gone = own.optimizer.lr * decay * first
        np.testing.assert_allclose(without - decayed, gone, atol=4e-7 * (1 + np.abs(first).max()))
        assert (gone != 0).any() == (decay > 0 and first.any())


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_s_own_decay_that_is_the_member_s_changes_no_bit(
    engine: str, kind: dict[str, Any]
) -> None:
    specs = mixed(group("one_layer", optimizer=kind))
    own = [_changed(s, **dict.fromkeys(WEIGHT_DECAYS, s.optimizer.weight_decay)) for s in specs]
    apart = [_changed(s, weight_decay_vo=0.9) for s in specs]
    plain, same, other = (_trained(engine, members) for members in (specs, own, apart))
    same_bits(plain, same, range(3), range(3))
    with pytest.raises(AssertionError):
        same_bits(plain, other, [0], [0])


def test_members_of_one_group_have_their_own(engine: str) -> None:
    """Alone, beside others and in another order; one with five decays beside one with none."""
    first, second, third = mixed(group("default", optimizer={}))
    specs = [_changed(first, **FIVE), second, _changed(third, weight_decay_head=3.0)]
    whole = _trained(engine, specs)
    same_bits(whole, _trained(engine, [specs[2], specs[0]]), [2, 0], [0, 1])
    same_bits(whole, _trained(engine, specs[1:2]), [1], [0])


@pytest.mark.parametrize("name", ["default", "own_head_sizes", "tied_all_post", "one_layer_post"])
@pytest.mark.parametrize("decay", ["all", "matrices"])
@pytest.mark.parametrize("absorb", [False, True])
def test_every_place_of_the_flat_vector_decays_as_its_tensor(
    name: str, decay: str, absorb: bool
) -> None:
    model = group(name)[0].model
    flat = FlatLayout(model, model_plan(model, absorb=absorb), decay)
    column = np.full(flat.size, -1)
    for start_, length, own in flat.segments:
        assert start_ % 16 == length % 16 == 0 < length
        assert (column[start_ : start_ + length] == -1).all(), "two segments overlap"
        column[start_ : start_ + length] = own
    assert (column >= 0).all()
    for place in flat.placed.values():
        its = column[place.offset : place.offset + place.rows * place.ld]
        assert (its == decay_column(place.tensor, decay)).all(), place.tensor.name
        assert (decay_column(place.tensor, decay) == NEVER) == (
            decay == "matrices" and not place.tensor.matrix
        )


def test_the_columns() -> None:
    spec = _changed(group("one_layer")[0], weight_decay=0.5, weight_decay_vo=0.25)
    assert weight_decays([spec, _changed(spec, **FIVE)]).tolist() == [
        [0.5, 0.5, 0.25, 0.5, 0.5, 0.5, 0.0],
        [0.1, 0.2, 0.4, 0.8, 1.6, 0.5, 0.0],
    ]


def _swept(**run: Any) -> Config:
    sweep = (("optimizer.weight_decay_ffn", (None, 0.5)), ("seed", (0, 1)))
    return small_config(sweep=sweep, run=run)


@pytest.mark.usefixtures("fast_disk")
def test_a_sweep_of_it(tmp_path: Path) -> None:
    """One group of members, a column of the table, the same bits after a stop and from shards."""
    assert [len(specs) for specs in member_groups(_swept())] == [4]
    run = compfast.train(_swept(), tmp_path / "run")
    assert run.members["weight_decay_ffn"].to_list() == [None, None, 0.5, 0.5]
    assert run.members["weight_decay_qk"].to_list() == [None] * 4
    stopped = interrupted_at(tmp_path / "stopped", _swept(), 20)
    assert_same_run(run, resumed(stopped.path))
    parts = []
    for i in range(2):
        parts.append(compfast.train(_swept(shard=(i, 2)), tmp_path / f"part{i}").path)
    merged = compfast.merge(parts, tmp_path / "merged")
    assert merged.members.equals(run.members)
    weights = [run.params(member)["head.weight"].tobytes() for member in range(4)]
    assert weights == [merged.params(member)["head.weight"].tobytes() for member in range(4)]
    assert len(set(weights)) == 4


@pytest.mark.edge("a negative weight decay of one group", "one sentence")
@pytest.mark.parametrize("name", WEIGHT_DECAYS)
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_decays_that_are_none(name: str, value: float) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(UsageError, match=rf"^optimizer\.{name} is .*; it must be a finite number"):
        OptimizerConfig(**given)
