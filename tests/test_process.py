"""The user's process is the user's: nothing in it is changed, and nothing in it changes a bit."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from process_state import DISTURBANCES, process_state, thread_state
from small_runs import saved_arrays, small_config

import compfast
from compfast import ops
from compfast.cli.plan import plan
from compfast.config import Config
from compfast.engines.aside import aside, require_exact_products
from compfast.ensembles.groups import member_groups
from compfast.errors import UsageError
from compfast.models import init
from compfast.models.transformer import Transformer
from compfast.report import write_report

pytestmark = pytest.mark.usefixtures("fast_disk")

NO_TRACE = pytest.mark.edge(
    "global settings of torch, NumPy, Python and the system before and after any call", "the same"
)
NO_DEPENDENCE = pytest.mark.edge(
    "default device or dtype, inference_mode, autocast, seeds, thread counts, NumPy and decimal"
    " modes set to anything",
    "the bits are the same as ever",
)


def _config(engine: str) -> Config:
    """Two members of two steps; one diverges, so that NumPy meets what is not finite."""
    return small_config(
        engine=engine,
        sweep=(("optimizer.lr", (1e-3, 1e30)),),
        run={"threads": 2, "checkpoint_every": 2},
        steps=4,
        log_every=2,
        eval_every=2,
    )


def _everything(engine: str, folder: Path) -> dict[str, bytes]:
    """Trains, loads and computes with every public function but the report; all bits by name."""
    init._power.cache_clear()
    assert plan(_config(engine)).line()
    run = compfast.train(_config(engine), folder / "run", [compfast.Callback()])
    # One that was stopped, resumed; and a shard, merged.
    with contextlib.suppress(KeyboardInterrupt):
        compfast.train(_config(engine), folder / "stopped", [_Stop()])
    resumed = compfast.train(None, folder / "stopped", resume=True)
    merged = compfast.merge([run.path], folder / "merged")
    found = {f"{name} {n}": a.tobytes() for name, each in (
        ("run", run), ("resumed", resumed), ("merged", merged)
    ) for n, a in saved_arrays(each).items()}  # fmt: skip
    loaded = compfast.load(run.path)
    assert loaded.members["verdict"].to_list()[1] == "diverged"
    for name, frame in (("members", loaded.members), ("metrics", loaded.metrics)):
        found[name] = json.dumps(frame.to_dict(as_series=False)).encode()
    found["xarray"] = loaded.to_xarray()["seen"].values.tobytes()
    for name, weight in loaded.model(0).state_dict().items():
        found[f"model {name}"] = weight.numpy().tobytes()
        assert weight.dtype == torch.float32
    return found | _single_ops()


class _Stop(compfast.Callback):
    def on_checkpoint(self, path: Path) -> None:
        raise KeyboardInterrupt


def _single_ops() -> dict[str, bytes]:
    """The native kernels on tensors that name type and device, as a user's do here."""

    def tensor(*shape: int) -> torch.Tensor:
        count = int(np.prod(shape))
        return torch.from_numpy(np.linspace(-1, 1, count, dtype=np.float32).reshape(shape))

    x, weight, bias = tensor(2, 3, 4), tensor(2, 5, 4), tensor(2, 5)
    heads, whole = tensor(2, 1, 3, 2, 4), torch.from_numpy(np.array([[0, 1, 2], [2, 1, 0]]))
    outputs = {
        "linear": ops.linear(x, weight, bias, activation="gelu"),
        "bf16": ops.linear(x, weight, bias, precision="bf16"),
        "attention": ops.attention(heads, heads, heads),
        "mixed": ops.mixed_attention(heads, heads, heads, weights="rms_head", path="relu"),
        "activation": ops.activation(x, "gelu"),
        "norm": ops.layer_norm(x, tensor(2, 4), tensor(2, 4)),
        "loss": ops.cross_entropy(x, whole),
        "embedding": ops.embedding(whole[:, None], tensor(2, 4, 4), tensor(2, 3, 4)),
        "philox": ops.philox(whole[:, 0], 1, 2),
    }
    return {name: output.detach().numpy().tobytes() for name, output in outputs.items()}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What comes out where nothing was set, by engine."""
    return {e: _everything(e, tmp_path_factory.mktemp(e)) for e in ("native", "eager")}


@NO_DEPENDENCE
@NO_TRACE
@pytest.mark.parametrize("name", DISTURBANCES)
def test_nothing_set_by_the_user_counts(
    name: str, engine: str, usual: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    with DISTURBANCES[name]():
        before = process_state()
        found = _everything(engine, tmp_path)
        after = process_state()
    _assert_same(before, after)
    assert found == usual[engine]


@NO_DEPENDENCE
@NO_TRACE
@settings(max_examples=5, deadline=None)
@given(st.lists(st.sampled_from(sorted(DISTURBANCES)), min_size=2, max_size=6, unique=True))
def test_nor_do_several_at_once(
    usual: dict[str, dict[str, bytes]],
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str],
) -> None:
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(DISTURBANCES[name]())
        before = process_state()
        found = _everything("eager", tmp_path_factory.mktemp("several"))
        after = process_state()
    _assert_same(before, after)
    assert found == usual["eager"]


def _assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    for name, value in before.items():
        assert after[name] == value, name


@NO_TRACE
def test_a_report_leaves_no_trace(tmp_path: Path) -> None:
    run = compfast.train(_config("native"), tmp_path / "run")
    write_report(run, tmp_path / "first")  # imports matplotlib
    before = process_state()
    write_report(run, tmp_path / "report")
    _assert_same(before, process_state())


@pytest.mark.edge(
    "`run.model(i)` inside inference_mode, autocast or no_grad", "a module that can be trained"
)
@pytest.mark.parametrize("name", ["inference_mode", "no_grad", "autocast", "default device meta"])
def test_a_model_made_anywhere_can_be_trained(name: str, tmp_path: Path) -> None:
    run = compfast.train(_config("native"), tmp_path / "run")
    with DISTURBANCES[name]():
        module = run.model(0)
    tokens, targets = torch.arange(5)[None], torch.tensor([3])
    before = module.head.bias
    assert before is not None
    kept = before.detach().clone()
    assert all(p.requires_grad and not p.is_inference() for p in module.parameters())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module.loss(tokens, targets, "last").backward()
    optimizer.step()
    assert not torch.equal(before, kept)
    assert torch.equal(run.model(0).head.bias, kept)


@NO_TRACE
def test_threads_that_start_meanwhile_have_the_users_number(tmp_path: Path) -> None:
    """torch.set_num_threads counts for threads to come: not even while the eager engine runs."""
    seen: list[int] = []

    class Look(compfast.Callback):
        def on_tick(self, done: int, total: int) -> None:
            thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            thread.start()
            thread.join()
            seen.append(torch.get_num_threads())

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        compfast.train(_config("eager"), tmp_path / "run", [Look()])
    finally:
        torch.set_num_threads(before)
    assert len(seen) >= 4
    assert set(seen) == {3}


@pytest.mark.parametrize("name", ["default dtype float64", "default device meta"])
def test_a_fresh_network_is_float32_on_the_cpu(name: str) -> None:
    with DISTURBANCES[name]():
        module = Transformer(member_groups(_config("eager"))[0][0].model)
    assert {(p.dtype, p.device.type) for p in module.parameters()} == {(torch.float32, "cpu")}


def test_a_thread_aside_has_nothing_of_the_callers() -> None:
    names = ("inference_mode", "autocast", "default device meta", "flush_denormal", "no_grad")
    with contextlib.ExitStack() as stack:
        for name in (*names, "numpy errors raise", "threads of torch"):
            stack.enter_context(DISTURBANCES[name]())
        found, made = aside(lambda: (thread_state(), torch.empty(1)))
    assert found == {**aside(thread_state), "threads of torch": 1}
    assert not found["flushes"]
    assert (found["gradients"], found["inference"]) == (True, False)
    assert (made.device.type, made.is_inference()) == ("cpu", False)


def test_rounded_products_are_refused() -> None:
    """As torch.set_float32_matmul_precision("medium") makes them on CPUs with bfloat16 units."""
    aside(require_exact_products)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(UsageError, match=r"set_float32_matmul_precision\('highest'\)"),
    ):
        require_exact_products()
