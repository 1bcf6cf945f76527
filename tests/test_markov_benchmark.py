"""benchmarks/markov.py: its gate at a small size, and that the gate can be red."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks import markov
from benchmarks.cases import UPDATES
from benchmarks.gate import GateError
from benchmarks.markov import COLUMNS, Chains, loss_difference, make_chains, plain_peers
from compfast.config.settings import from_dict
from compfast.ensembles.grid import member_specs
from compfast.tasks import preset

pytestmark = pytest.mark.usefixtures("native_extension")


@pytest.fixture(scope="module")
def chains() -> Chains:
    return make_chains(8, 70, 2)  # native takes attention_narrow.h


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def losses(chains: Chains, name: str) -> list[torch.Tensor]:
    peer = plain_peers(chains)[name]
    return [peer.step(chains.batch(t)) for t in range(UPDATES)]


@pytest.mark.parametrize("name", ["loop, matmul", "loop, SDPA", "vmap, matmul", "stacked, SDPA"])
def test_every_peer_trains_what_native_trains(chains: Chains, name: str) -> None:
    assert loss_difference(chains, name, losses(chains, name)) <= markov.TOLERANCE


def test_a_peer_that_trains_something_else_is_not_timed(chains: Chains) -> None:
    wrong = losses(chains, "loop, matmul")
    wrong[-1] = wrong[-1] + 1e-3
    with pytest.raises(GateError, match=r"loop, matmul is .* away from native"):
        loss_difference(chains, "loop, matmul", wrong)


def test_gradients_that_are_wrong_stop_the_benchmark(
    chains: Chains, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert markov.gradient_difference(chains) < markov.GRADIENTS
    monkeypatch.setattr(markov, "GRADIENTS", 0.0)
    with pytest.raises(GateError, match="from float64's, so nothing is timed"):
        markov.gradient_difference(chains)


def test_the_network_is_that_of_the_preset() -> None:
    """But for what the peers' tables need: shifts of norms, a vocabulary of 16."""
    config = from_dict(preset("markov-paper"))
    (own,) = member_specs(config)
    made = make_chains(*markov.SETTINGS["paper"], 1).specs[0]
    same = dataclasses.replace(own.model, norm_bias=True, vocab_size=16)
    assert (made.model, made.task) == (same, own.task)
    assert own.training.batch_size == markov.BATCH


def test_wrong_flags_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert markov.main(["--settings", "big", "--no-csv"]) == 2
    assert "--settings has 'big'; allowed: paper, d16" in capsys.readouterr().err
    assert markov.main(["--models", "0", "--no-csv"]) == 2
    assert "--models is 0; it must be at least 1" in capsys.readouterr().err


def test_the_committed_rows_are_complete() -> None:
    with Path(markov.RESULTS).open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert rows
    assert set(rows[0]) == set(COLUMNS)
    assert {(row["d"], row["tokens"]) for row in rows} == {("8", "1024"), ("16", "256")}
    drawn = [float(row["draw_share"]) for row in rows if row["peer"] == "native"]
    assert drawn
    assert max(drawn) < 0.05
