"""devinterp's estimate: what is asked of it, what is left as it was, and the package itself."""

from __future__ import annotations

import random
import sys
import types
from pathlib import Path
from typing import Any

import fault_tools
import numpy as np
import pytest
import torch

import compfast
from compfast import analysis
from compfast.analysis.learning_coefficient import _Sampling
from compfast.errors import UsageError
from compfast.runs.reading import Run

ITEMS = 16


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, native_extension: None) -> Run:
    config = {
        "task": {"name": "markov", "p": 0.2, "q": 0.3, "seq_len": 4},
        "model": {"layers": 1, "d_model": 4, "d_ff": 3, "vocab_size": 2},
        "training": {"steps": 6, "batch_size": 4, "log_every": 3, "eval_every": 6},
        "evaluation": {"unseen_items": 5},
        "run": {"snapshots": [0, 6], "threads": 1, "engine": "native"},
        "sweep": {"seed": [0, 1]},
    }
    with fault_tools.fast_disk():
        return compfast.train(config, tmp_path_factory.mktemp("tiny") / "run")


def _stand_in(monkeypatch: pytest.MonkeyPatch, spoil: float = 0.0) -> list[dict[str, Any]]:
    """A devinterp whose chains stand still, the loss of step t of chain c being t + c higher."""
    calls: list[dict[str, Any]] = []

    def llc(model: Any, dataset: Any, observables: Any, **given: Any) -> dict[str, Any]:
        calls.append(given)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(given["init_seed"])
        torch.rand(3)
        rows = torch.stack([dataset[i]["input_ids"] for i in range(len(dataset))])
        loss = given["loss_fn"](model, rows)
        assert loss.shape == (1, 1)
        loss.mean().backward()
        assert all(p.grad is not None for p in model.parameters())
        if spoil:
            with torch.no_grad():
                next(model.parameters()).fill_(spoil)
            given["loss_fn"](model, rows)
        steps, chains = np.arange(given["num_draws"]), np.arange(given["num_chains"])
        begin = float(loss.detach().mean())
        trace = begin + steps[None, :] + chains[:, None]
        return {"init_loss": np.float32(begin), "loss_trace": trace.astype(np.float32)}

    module: Any = types.ModuleType("devinterp.slt.llc")
    module.llc = llc
    for name in ("devinterp", "devinterp.slt"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "devinterp.slt.llc", module)
    return calls


def test_what_is_asked_and_what_comes_of_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _stand_in(monkeypatch)
    seen: list[tuple[int, int]] = []
    told = analysis.local_learning_coefficient(
        run,
        0,
        items=ITEMS,
        n_beta=2.0,
        lr=1e-3,
        localization=3.0,
        chains=3,
        draws=4,
        burn_in=10,
        progress=lambda *n: seen.append(n),
    )
    assert told.columns == ["member", "step", "llc", "llc_std", "loss", "n", "n_beta"]
    # Steps 10 to 13 are 11.5 above at the mean, chains 0, 1 and 2 more.
    assert told["llc"].to_list() == pytest.approx([2 * 12.5] * 2, rel=1e-5)
    assert told["llc_std"].to_list() == pytest.approx([2.0] * 2, rel=1e-4)
    assert told["step"].to_list() == [0, 0]
    whole = analysis.sharpness(run, 0, items=ITEMS, iterations=1, probes=0)
    assert told["loss"].to_list() == pytest.approx(whole["loss"].to_list(), rel=1e-6)
    assert seen == [(1, 2), (2, 2)]
    assert [call["init_seed"] for call in calls] == [0, 1]
    for call in calls:
        asked = {"lr": 1e-3, "n_beta": 2.0, "localization": 3.0, "num_chains": 3, "num_draws": 14}
        assert asked.items() <= call.items()
        assert not Path(call["output_path"]).parent.exists()
    usual = analysis.local_learning_coefficient(run, members=[1], items=ITEMS, chains=1)
    assert usual["n_beta"].to_list() == [ITEMS / np.log(ITEMS)]
    assert usual["llc_std"].to_list() == [None]


def test_the_callers_generators_are_left_as_they_were(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _stand_in(monkeypatch)

    def draws() -> tuple[Any, ...]:
        return torch.rand(1).item(), np.random.random(), random.random()  # noqa: NPY002

    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    first = draws()
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])
    analysis.local_learning_coefficient(run, items=4, chains=1, draws=1, burn_in=0)
    assert draws() == first


@pytest.mark.parametrize("spoil", [float("nan"), float("inf")])
def test_a_chain_that_is_lost_has_no_number(
    run: Run, monkeypatch: pytest.MonkeyPatch, spoil: float
) -> None:
    _stand_in(monkeypatch, spoil)
    told = analysis.local_learning_coefficient(run, items=4, chains=2, draws=1, burn_in=0)
    assert told["llc"].to_list() == told["llc_std"].to_list() == [None, None]
    assert told["loss"].null_count() == 0


def test_the_effort_counts_steps(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(monkeypatch)
    told = analysis.local_learning_coefficient_effort(run, items=4, chains=3, draws=5, burn_in=2)
    assert (told.products, told.cores) == (2 * 3 * 7, 1)
    assert told.seconds > 0


@pytest.mark.edge(
    "the local learning coefficient without devinterp 2", "refused; the pip line is said"
)
@pytest.mark.parametrize("there", [False, True])
def test_without_devinterp_it_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Also where an older one is there, that has no such function."""
    _stand_in(monkeypatch)
    old = types.ModuleType("devinterp.slt.llc") if there else None
    monkeypatch.setitem(sys.modules, "devinterp.slt.llc", old)
    with pytest.raises(
        UsageError, match=r"needs the package devinterp.*pip install 'devinterp>=2'"
    ):
        analysis.local_learning_coefficient(run)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr": 0.0}, "lr is 0.0; it must be a positive number"),
        ({"n_beta": -1.0}, "n_beta is -1.0"),
        ({"localization": float("inf")}, "localization is inf"),
        ({"chains": 0}, "chains is 0; it must be at least 1"),
        ({"draws": 0}, "draws is 0"),
        ({"burn_in": -1}, "burn_in is -1; it must be at least 0"),
        ({"step": 3}, "has no snapshot of step 3"),
        ({"members": [5]}, r"members are \[5\]"),
        ({"items": -2}, r"items is -2; it must be in 1\.\."),
    ],
)
def test_settings_that_there_are_not_are_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], words: str
) -> None:
    _stand_in(monkeypatch)
    with pytest.raises(UsageError, match=words):
        analysis.local_learning_coefficient(run, **given)


@pytest.mark.slow
def test_the_package_itself(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    """Of a quadratic loss in d numbers the coefficient is d / 2."""
    if not _is_there():
        pytest.skip("devinterp is not installed")
    numbers, n_beta = 10, 50.0

    class Bowl(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(numbers))

    class Loss:
        module = Bowl()

        def of(self, module: Any) -> Any:
            return (module.w**2).sum() / 2 + 0.3

    work = _Sampling(run, None, None, 4e-3, 0.0, n_beta, 4, 400, 100)
    begin, trace = work.sampled(Loss(), n_beta, 3, 4, 500)  # type: ignore[arg-type]
    assert begin == pytest.approx(0.3)
    assert trace.shape == (4, 500)
    assert n_beta * (trace[:, 100:].mean() - begin) == pytest.approx(numbers / 2, rel=0.15)

    options: dict[str, Any] = {"items": ITEMS, "chains": 2, "draws": 30, "burn_in": 10}
    told = analysis.local_learning_coefficient(run, **options)
    assert told["llc"].is_finite().all()
    assert (told["llc_std"] > 0).all()
    alone = analysis.local_learning_coefficient(run, members=[1], **options)
    assert alone.equals(told.filter(member=1))
    lost = analysis.local_learning_coefficient(run, members=[0], **{**options, "lr": 1e30})
    assert lost["llc"].to_list() == [None]
    assert capfd.readouterr().err == ""


def _is_there() -> bool:
    import importlib.util

    return importlib.util.find_spec("devinterp") is not None
