"""The peers of benchmarks/throughput.py: the gate, the count of operations, the table's rows."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import fleet, throughput
from benchmarks.gate import UPDATES, GateError, check, reference_losses
from benchmarks.peers import PEERS, make_peer
from benchmarks.peers.eager import EagerPeer
from benchmarks.peers.module import Net
from benchmarks.peers.torch_common import AnchorBatches
from benchmarks.problem import Problem, make_problem
from benchmarks.table import COLUMNS
from compfast.engines.arithmetic import step_flops
from compfast.errors import UsageError
from compfast.models.families import model_plan
from compfast.tasks.anchor import AnchorTask

pytestmark = pytest.mark.usefixtures("native_extension")

TOLERANCE = 1e-3
PLAIN = [
    (name, variant)
    for name in ("native", "eager", "eager-last", "vmap", "stacked")
    for variant in PEERS[name].variants
    if (name, variant) != ("vmap", "SDPA")
]


@pytest.fixture(scope="module")
def problem() -> Problem:
    return make_problem(16, members=3, batch_size=16)


@pytest.fixture(scope="module")
def jax() -> Iterator[ModuleType]:
    """jax, compiling with little optimisation: these tests wait for nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
        patch.setenv("JAX_PLATFORMS", "cpu")
        pytest.importorskip("optax")
        yield pytest.importorskip("jax")


def gate(problem: Problem, name: str, variant: str) -> None:
    """The peer passes, and goes on with batches of its own."""
    peer = make_peer(name, problem, variant)
    losses, reference = peer.losses(UPDATES + 1), reference_losses(problem)
    assert reference[:, -1].mean() < reference[:, 0].mean()
    check(name, losses, reference, TOLERANCE)
    peer.train(2)


@pytest.mark.parametrize(("name", "variant"), PLAIN)
def test_peer_trains_the_function_of_native(problem: Problem, name: str, variant: str) -> None:
    gate(problem, name, variant)


def test_a_loop_of_vmap_is_seen(problem: Problem) -> None:
    with pytest.warns(UserWarning, match="performance drop") as seen:
        gate(problem, "vmap", "SDPA")
    assert all("flash_attention_for_cpu" in str(w.message) for w in seen)


@pytest.mark.parametrize(
    "variant",
    [
        "all members, gather",
        pytest.param("one by one, one-hot", marks=pytest.mark.slow),
        pytest.param("all members, one-hot", marks=pytest.mark.slow),
        pytest.param("one by one, gather", marks=pytest.mark.slow),
    ],
)
def test_jax_trains_the_function_of_native(problem: Problem, jax: ModuleType, variant: str) -> None:
    gate(problem, "jax", variant)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # inside torch.compile
@pytest.mark.parametrize("variant", PEERS["compiled"].variants)
def test_compiled_peer_trains_the_function_of_native(problem: Problem, variant: str) -> None:
    gate(problem, "compiled", variant)


def test_bf16_is_close_to_fp32_but_not_equal(problem: Problem) -> None:
    losses = make_peer("native-bf16", problem, "bf16").losses(UPDATES + 1)
    reference = reference_losses(problem)
    assert check("bf16", losses, reference, PEERS["native-bf16"].tolerance) > 1e-5


@pytest.mark.parametrize("wrong", [{"weight_decay": 0.0}, {"clip": 0.0}, {"first": 1}])
def test_gate_refuses_a_wrong_update_or_wrong_weights(
    problem: Problem, wrong: dict[str, float]
) -> None:
    other = make_problem(16, 3, batch_size=16, **wrong)  # type: ignore[arg-type]
    losses = EagerPeer(other, fused=True, last_only=True).losses(UPDATES + 1)
    with pytest.raises(GateError, match="nothing is timed"):
        check("a wrong peer", losses, reference_losses(problem), TOLERANCE)


def test_gate_refuses_nan_and_other_shapes(problem: Problem) -> None:
    reference = reference_losses(problem)
    broken = reference.copy()
    broken[1, 4] = np.nan
    with pytest.raises(GateError, match="nan away"):
        check("a peer", broken, reference, TOLERANCE)
    with pytest.raises(GateError, match="shape"):
        check("a peer", reference[:1], reference, TOLERANCE)


def assert_batch_of(task: AnchorTask, tokens: np.ndarray, targets: np.ndarray) -> None:
    """Every row is one that the task could have drawn, and rows differ."""
    combos, pairs = set(map(tuple, task.train_combos)), set(map(tuple, task.train_pairs))
    config = task.config
    assert tokens.shape == (len(targets), config.seq_len)
    assert len(np.unique(tokens, axis=0)) == len(tokens)
    seen = set()
    for row, target in zip(tokens, targets, strict=True):
        first = int(np.flatnonzero(np.isin(row, config.anchors))[0])
        key, a, b = (int(x) for x in row[first - 1 : first + 2])
        assert (key, first - 1) in combos
        assert (a, b, int(target) - key) in pairs
        others = np.delete(row, [first - 1, first, first + 1])
        assert ((others >= config.item_low) & (others < config.item_high)).all()
        seen.add((a, b))
    assert len(seen) == len(pairs)


def test_torch_draws_batches_of_the_task(problem: Problem) -> None:
    tokens, targets = AnchorBatches(problem).draw(400)
    assert_batch_of(problem.task, tokens.numpy(), targets.numpy())


def test_jax_draws_batches_of_the_task(problem: Problem, jax: ModuleType) -> None:
    from benchmarks.peers.jax_vmap import anchor_batch

    tokens, targets = anchor_batch(jax.random.key(0), problem.task, 400)
    assert_batch_of(problem.task, np.asarray(tokens), np.asarray(targets))


@pytest.mark.parametrize("d", [8, 32])
def test_operations_are_those_that_torch_counts(d: int) -> None:
    model = make_problem(d, 1).model
    net = Net(model, last_only=True, sdpa=False)
    with FlopCounterMode(display=False) as counter:
        loss = F.cross_entropy(net(torch.randint(112, (5, 9))), torch.randint(112, (5,)))
        loss.backward()  # type: ignore[no-untyped-call]
    found = step_flops(model_plan(model, absorb=False), 9, 5)
    assert counter.get_total_flops() == sum(found.values())


def test_processes_run_without_the_openblas_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "512")
    variables = fleet.environment(2)
    assert not set(fleet.UNSET) & set(variables)
    assert variables["OMP_NUM_THREADS"] == variables["MKL_NUM_THREADS"] == "2"


def test_unknown_peers_and_variants_are_refused(problem: Problem) -> None:
    with pytest.raises(UsageError, match="it must be one of native"):
        make_peer("hfta", problem, "SDPA")
    with pytest.raises(UsageError, match="fused AdamW"):
        make_peer("eager", problem, "adam")


SIZES = {"d": 16, "models": 2, "batch": 8, "rounds": 2, "seconds": 0.01, "threads": 1}
TINY = [word for name, value in SIZES.items() for word in (f"--{name}", str(value))]


def test_command_prints_a_table_and_adds_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results" / "throughput.csv"
    for _ in range(2):
        assert throughput.main([*TINY, "--peers", "native-bf16", "--csv", str(path)]) == 0
    assert "compfast native bf16" in " ".join(capsys.readouterr().out.split())
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["peer"] for row in rows] == ["native", "native-bf16"] * 2
    assert set(rows[0]) == set(COLUMNS)
    for row in rows:
        rate = int(row["flops"]) / float(row["ms"]) / 1e6
        assert float(row["gflops"]) == pytest.approx(rate, rel=0.05)
        share = float(row["gflops"]) / float(row["peak_gflops"])
        assert float(row["share_of_peak"]) == pytest.approx(share, rel=0.05, abs=1e-3)
        assert float(row["ms_low"]) <= float(row["ms"]) <= float(row["ms_high"])


def test_command_reports_nothing_when_the_gate_is_red(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    strict = dataclasses.replace(PEERS["native-bf16"], tolerance=1e-7)
    monkeypatch.setitem(PEERS, "native-bf16", strict)
    path = tmp_path / "throughput.csv"
    assert throughput.main([*TINY, "--peers", "native-bf16", "--csv", str(path)]) == 1
    printed = capsys.readouterr()
    assert "nothing is timed" in printed.err
    assert not printed.out
    assert not path.exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--models", "3"], "must be even"),
        (["--threads", "4096", "--models", "4096"], "may use"),
        (["--peers", "hfta"], "allowed: native"),
        (["--rounds", "0"], "at least 1"),
        (["--seconds", "nan"], "finite"),
        (["--d", "0"], "d_model is 0"),
    ],
)
def test_wrong_flags_are_refused(
    flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert throughput.main([*flags, "--no-csv"]) == 2
    assert sentence in capsys.readouterr().err


def test_a_file_of_other_columns_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "throughput.csv"
    path.write_text("a,b\n1,2\n")
    assert throughput.main([*TINY, "--peers", "native", "--csv", str(path)]) == 2
    assert "other columns" in capsys.readouterr().err
    assert path.read_text() == "a,b\n1,2\n"
