"""benchmarks/vectors.py: its gate at small batches, and that the gate can be red."""

from __future__ import annotations

import csv
import dataclasses
import functools
import os
from pathlib import Path

import pytest
import torch

from benchmarks import turns, vectors
from benchmarks.cases import UPDATES, Case
from benchmarks.gate import GateError
from benchmarks.vectors import (
    COLUMNS,
    SETTINGS,
    gradient_difference,
    loss_difference,
    make_case,
    plain_peers,
    python_share,
)
from compfast.config.settings import from_dict
from compfast.ensembles.grid import member_specs
from compfast.tasks import preset

pytestmark = pytest.mark.usefixtures("native_extension")


@functools.cache
def case(name: str) -> Case:
    return make_case(name, 2, batch_size=3)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def losses(made: Case, name: str, *, jax: bool = False) -> list[torch.Tensor]:
    peer = plain_peers(made, jax=jax)[name]
    return [peer.step(made.batch(t)) for t in range(UPDATES)]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["loop, einsum", "loop, einsum, last rows"])
def test_every_loop_trains_what_native_trains(setting: str, name: str) -> None:
    made = case(setting)
    assert loss_difference(made, name, losses(made, name)) <= vectors.TOLERANCE


@pytest.mark.parametrize("setting", ["fuzzy-hyla", "hyperteacher"])  # without clipping, and with
@pytest.mark.parametrize("name", ["JAX jit(vmap)", "JAX jit(vmap), last rows"])
def test_jax_trains_what_native_trains(setting: str, name: str) -> None:
    pytest.importorskip("jax")
    made = case(setting)
    assert loss_difference(made, name, losses(made, name, jax=True)) <= vectors.TOLERANCE


def test_a_peer_that_trains_something_else_is_not_timed() -> None:
    made = case("fuzzy-hyla")
    wrong = losses(made, "loop, einsum")
    wrong[-1] = wrong[-1] + 0.01 * wrong[0]
    with pytest.raises(GateError, match=r"loop, einsum is .* away from native"):
        loss_difference(made, "loop, einsum", wrong)


@pytest.mark.parametrize("setting", SETTINGS)
def test_gradients_that_are_wrong_stop_the_benchmark(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = case(setting)
    assert gradient_difference(made) < vectors.GRADIENTS
    monkeypatch.setattr(vectors, "GRADIENTS", 0.0)
    with pytest.raises(GateError, match="from float64's, so nothing is timed"):
        gradient_difference(made)


@pytest.mark.parametrize("setting", ["fuzzy-hyla", "sraven"])
def test_the_network_is_that_of_the_paper(setting: str) -> None:
    """But for the schedule, which the peers do not have."""
    (own,) = member_specs(from_dict(preset(SETTINGS[setting][0])))
    made = make_case(setting, 1).specs[0]
    assert (made.model, made.task) == (own.model, own.task)
    assert made.training.batch_size == own.training.batch_size
    optimizer = dataclasses.replace(own.optimizer, schedule="constant", warmup=0.0)
    assert made.optimizer == optimizer


def test_pythons_share_is_small() -> None:
    assert 0 < python_share(make_case("fuzzy-hyla", 1).engine(), 2) < 0.2  # of hundreds of steps


def test_the_process_is_held_to_one_cpu_for_as_long_as_it_measures() -> None:
    before = os.sched_getaffinity(0), os.environ.get("XLA_FLAGS")
    with turns.one_cpu():
        assert len(os.sched_getaffinity(0)) == 1
        assert "multi_thread_eigen=false" in os.environ["XLA_FLAGS"]
    assert (os.sched_getaffinity(0), os.environ.get("XLA_FLAGS")) == before


def test_wrong_flags_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vectors.main(["--settings", "big", "--no-csv"]) == 2
    assert "--settings has 'big'; allowed: fuzzy-hyla" in capsys.readouterr().err
    assert vectors.main(["--rounds", "0", "--no-csv"]) == 2
    assert "--rounds is 0; it must be at least 1" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert vectors.main(["--no-csv"]) == 2
    assert "jax is not installed; install it, or leave it out" in capsys.readouterr().err


def test_the_committed_rows_are_complete() -> None:
    with Path(vectors.RESULTS).open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert rows
    assert set(rows[0]) == set(COLUMNS)
    assert {row["setting"] for row in rows} == set(SETTINGS)
    host = [
        float(row["draw_share"]) + float(row["python_share"])
        for row in rows
        if row["peer"] == "native"
    ]
    assert max(host) < 0.05
