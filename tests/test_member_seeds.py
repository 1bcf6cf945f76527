"""Seeds of the initial weights and of the training data, apart: each says its part and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import ENGINES, small_config

import compfast
from compfast import ensemble
from compfast.cli.flags import parse
from compfast.cli.request import new_config
from compfast.config import Config
from compfast.engines import make_engine
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import make_tables
from compfast.errors import UsageError

pytestmark = pytest.mark.usefixtures("native_extension")

Numbers = tuple[dict[str, Any], Any]


def _trained(engine: str, *sweep: tuple[str, tuple[int, ...]], steps: int = 1) -> list[Numbers]:
    """(initial parameters, losses) of every member."""
    specs = member_specs(small_config(sweep=sweep))
    made = make_engine(engine, specs, make_tables(specs), threads=1)
    made.initialise()
    start = made.state().params
    loss = made.advance(steps).loss
    return [({n: v[i] for n, v in start.items()}, loss[i]) for i in range(len(specs))]


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("engine", ENGINES)
def test_each_seed_draws_its_own_part(engine: str) -> None:
    both, init, data = (
        _trained(engine, ("seed", (1, 2)), steps=3),
        _trained(engine, ("init_seed", (1, 2)), ("data_seed", (1,)), steps=3),
        _trained(engine, ("seed", (1,)), ("data_seed", (1, 2)), steps=3),
    )
    assert _same(init[0][0], both[0][0])
    assert _same(init[1][0], both[1][0])
    assert _same(data[0][0], data[1][0])
    assert _same(data[0][0], both[0][0])
    # With both equal to the seed every bit is what it was; with one alone only its part differs.
    assert np.array_equal(init[0][1], both[0][1])
    assert np.array_equal(data[0][1], both[0][1])
    assert not np.array_equal(data[1][1], data[0][1])
    assert not np.array_equal(init[1][1], both[1][1])


def test_members_of_two_seeds_do_not_know_their_neighbours() -> None:
    among = _trained("native", ("init_seed", (3, 4)), ("data_seed", (5, 6)), steps=4)
    alone = _trained("native", ("init_seed", (4,)), ("data_seed", (5,)), steps=4)
    assert np.array_equal(among[2][1], alone[0][1])


def test_the_table_says_both(tmp_path: Path) -> None:
    sweep = (("init_seed", (7, 8)), ("data_seed", (9,)))
    run = compfast.train(small_config(sweep=sweep, steps=2, eval_every=2), tmp_path / "run")
    assert run.members["init_seed"].to_list() == [7, 8]
    assert run.members["data_seed"].to_list() == [9, 9]
    assert run.members["seed"].to_list() == [0, 0]
    assert compfast.load(tmp_path / "run").config.sweep == sweep


def test_the_command_line_sweeps_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--models", "8", "--gamma-range", "0.3:0.9", "--init-seed", "0-3", "--data-seed", "5"]
    config = new_config(parse(flags))
    assert dict(config.sweep)["init_seed"] == (0, 1, 2, 3)
    assert dict(config.sweep)["data_seed"] == (5,)
    assert len(member_specs(config)) == 8
    small = ["--steps", "4", "--d-model", "8", "--eval-every", "2", "--quiet"]
    out = str(tmp_path / "run")
    assert ensemble.main([*flags, *small, "--out", out]) == 0
    assert ensemble.main(["--resume", out, "--data-seed", "5"]) == 0
    assert ensemble.main(["--resume", out, "--data-seed", "6"]) == 2
    assert "--data-seed 6 contradicts" in capsys.readouterr().err


def test_seeds_stay_below_2_to_the_53() -> None:
    with pytest.raises(UsageError, match=r"sweep\.data_seed is 9007199254740992"):
        Config(sweep=(("data_seed", (2**53,)),))
