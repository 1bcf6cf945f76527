"""Which networks and machines engine cuda takes, and what it says of the others."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import cuda_host
import fake_cuda
import pytest
import torch
from cuda_members import config, members, network
from ensembles import start
from fake_cuda import FakeDriver

import compfast
import compfast.engines
from compfast.config import Config, MemberSpec, ModelConfig
from compfast.engines import make_engine, resolve_engine
from compfast.engines.cuda import network as networks
from compfast.engines.cuda.driver import TorchDriver
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import make_tables
from compfast.errors import UsageError

pytestmark = pytest.mark.usefixtures("native_extension")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[FakeDriver]:
    """Drivers as they are opened."""
    return fake_cuda.install(monkeypatch)


def test_the_networks_are_the_default_and_modelconfig_s(fakes: list[FakeDriver]) -> None:
    """The former is also the preset tiny; a default that changes leaves the engine behind."""
    for index, name in enumerate(cuda_host.NETWORKS):
        specs = network(name)
        start("cuda", specs[:1]).advance(1)
        assert {launch.network for launch in fakes[-1].launches} == {index}
    assert member_specs(Config())[0].model == network("tiny")[0].model


def test_every_field_is_checked_or_free() -> None:
    spec = members(1)[0]
    paths = {
        f"{section}.{field.name}"
        for section in ("model", "optimizer", "training")
        for field in dataclasses.fields(getattr(spec, section))
    }
    groups = (networks.COMMON.keys(), set(SIZES) - {networks.LENGTH}, networks.FREE)
    assert set().union(*groups) == paths
    assert sum(map(len, groups)) == len(paths), "a field stands twice"


SIZES = (
    *("model.layers", "model.d_model", "model.heads", "model.d_k", "model.d_v", "model.d_ff"),
    *("model.vocab_size", networks.LENGTH, "model.max_positions"),
)
OTHERS = {
    "model.family": "canonical",
    "model.attention": "none",
    "model.logits": "single",
    "model.norm": "post",
    "model.activation": "relu",
    "model.loss_positions": "all",
    "training.precision": "bf16",
    "model.input_width": 5,
    "model.asked": 2,
    "model.loss": "squared_error",
    "model.position": "relative",
    "model.value_path": "relu",
    "model.value_activation": "relu",
    "model.attention_dropout": 0.5,
}
DESCRIBED = {
    "tiny": "2 layers, d_model 48, 2 heads, d_ff 96, vocab_size 48, seq_len 9",
    "narrow": "2 layers, d_model 32, 1 head, d_ff 64, vocab_size 112, seq_len 9",
}


def changed(spec: MemberSpec, path: str, value: object) -> MemberSpec:
    section, _, name = path.partition(".")
    own = dataclasses.replace(getattr(spec, section), **{name: value})
    return dataclasses.replace(spec, **{section: own})


def refusal(spec: MemberSpec) -> str:
    with pytest.raises(UsageError) as refused:
        make_engine("cuda", [spec], make_tables(members(1)))
    return str(refused.value)


@pytest.mark.parametrize("path", networks.COMMON)
@pytest.mark.usefixtures("fakes")
def test_another_form_is_refused(path: str) -> None:
    old = networks.COMMON[path]
    new = OTHERS.get(path, not old)
    others = "native and eager" if path == "model.family" else "native, eager and triton"
    assert refusal(changed(members(1)[0], path, new)) == (
        f"{path} is {new}; engine cuda is compiled for {old} alone, and engines {others} take {new}"
    )


@pytest.mark.parametrize("name", cuda_host.NETWORKS)
@pytest.mark.parametrize("path", SIZES)
@pytest.mark.usefixtures("fakes")
def test_another_size_is_refused_beside_the_nearest_network(path: str, name: str) -> None:
    spec = network(name)[0]
    field = "task.seq_len" if path == networks.LENGTH else path
    section, _, name_ = field.partition(".")
    old = getattr(getattr(spec, section), name_)
    new = 2 * old if path == "model.heads" else old + 1
    if path == networks.LENGTH:  # beyond the model's positions every engine refuses it
        spec = changed(spec, "model.max_positions", new)
    assert refusal(changed(spec, field, new)) == (
        f"{path} is {new}; the nearest network that engine cuda is compiled for has {old}"
        f" ({DESCRIBED[name]}), and engines native, eager and triton take {new}"
    )


@pytest.mark.usefixtures("fakes")
def test_tf32_is_triton_s() -> None:
    said = refusal(changed(members(1)[0], "training.precision", "tf32"))
    assert said.endswith("for fp32 alone, and engine triton takes tf32")


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(("device", "taken"), [("auto", "cuda"), ("cuda", "cuda")])
def test_choice(device: str, taken: str) -> None:
    assert resolve_engine("cuda", device) == taken
    assert resolve_engine("auto") == "native"
    assert resolve_engine("auto", "cuda") == "triton"


def test_refused_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compfast.engines, "cuda_devices", lambda: 0)
    with pytest.raises(UsageError, match="engine cuda was asked for, but this machine has no CUDA"):
        resolve_engine("cuda")
    with pytest.raises(UsageError, match="engine cuda needs a CUDA device, but device cpu"):
        resolve_engine("cuda", "cpu")
    monkeypatch.setattr(compfast.engines, "cuda_devices", lambda: 1)
    monkeypatch.delattr("compfast._cuda", raising=False)
    monkeypatch.setitem(sys.modules, "compfast._cuda", None)
    with pytest.raises(UsageError, match=r"the cuda engine is not built .* nvcc is on PATH"):
        resolve_engine("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_pytorch_without_cuda_is_refused(
    fakes: list[FakeDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compfast.engines.cuda.driver.open_driver", TorchDriver)
    with pytest.raises(UsageError, match=r"^engine cuda needs PyTorch to see the GPU, but torch 2"):
        start("cuda", members(1))


@pytest.mark.usefixtures("fakes")
def test_a_run_of_another_network_leaves_no_folder(tmp_path: Path) -> None:
    other = dataclasses.replace(config(), model=ModelConfig(layers=1, d_model=32))
    with pytest.raises(UsageError, match=r"model\.layers is 1"):
        compfast.train(other, tmp_path / "run")
    assert not (tmp_path / "run").exists()
