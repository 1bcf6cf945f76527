"""Weights from outside as members: trained from there bit for bit, refused where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import assert_same_run, small_config

import compfast
from compfast.ensembles.groups import member_groups
from compfast.errors import UsageError
from compfast.models.transformer import Transformer
from compfast.runs.reading import Run

pytestmark = pytest.mark.usefixtures("fast_disk", "native_extension")

ONE: Any = (("seed", (3,)),)


def _drawn(tmp_path: Path, **more: Any) -> Run:
    """A run with its weights of step 0 kept."""
    config = small_config(run={"snapshots": (0,)}, **more)
    return compfast.train(config, tmp_path / "drawn")


@pytest.mark.parametrize("sweep", [ONE, (("model.layers", (2, 1)), ("seed", (3, 4)))])
def test_a_member_s_own_weights_give_its_own_life(tmp_path: Path, sweep: Any) -> None:
    drawn = _drawn(tmp_path, sweep=sweep)
    modules = [module for _, _, module in drawn.iter(step=0)]
    given = modules[0] if len(modules) == 1 else modules
    held = compfast.from_module(given, drawn.config, tmp_path / "held")
    assert held.step == 0
    assert not held.finished
    for member, module in enumerate(modules):
        for name, tensor in module.named_parameters():
            assert held.params(member)[name].tobytes() == tensor.detach().numpy().tobytes()
    assert len(held.info["from_module"]) == len(modules)
    child = compfast.train(out=tmp_path / "child", start_from=held.path)
    assert child.members.equals(drawn.members)
    assert_same_run(compfast.train(out=held.path, resume=True), drawn)


def test_a_fresh_module_of_pytorch_s_own_draw_trains(tmp_path: Path) -> None:
    config = small_config(sweep=ONE)
    ((spec,),) = member_groups(config)
    module = Transformer(spec.model).half()
    held = compfast.from_module(module.state_dict(), config, tmp_path / "held")
    own = held.params(0)["embed.token.weight"]
    assert np.array_equal(own, module.get_parameter("embed.token.weight").detach().float().numpy())
    run = compfast.train({"training": {"steps": 3}}, tmp_path / "child", start_from=held.path)
    assert run.finished
    assert run.config.start.step == 0
    assert not np.array_equal(run.params(0)["embed.token.weight"], own)


def _without(weights: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.edge("a module whose names, shapes or types are not a member's", "one sentence")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: _without(w, "embed.token.weight"), r"lacks embed.token.weight \[.*1 of"),
        (lambda w: {**w, "lm_head.bias": np.zeros(2)}, "has 'lm_head.bias', which its config"),
        (
            lambda w: {**w, "embed.token.weight": np.zeros((2, 8), np.float32)},
            r"is \[2, 8\]; its config says",
        ),
        (lambda w: {n: a.astype(np.float64) for n, a in w.items()}, "is float64; members are"),
        (lambda w: {n: torch.from_numpy(a).to("meta") for n, a in w.items()}, "device meta"),
        (lambda w: {n: a * np.float32("nan") for n, a in w.items()}, "not finite"),
        (lambda w: {n: a.tolist() for n, a in w.items()}, "is list; members are float32"),
        (lambda w: "weights.pt", "is a str; it must be"),
        (lambda w: [w, w], "there are 2 modules for 1 members"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    config = small_config(sweep=ONE, steps=1)
    weights = compfast.train(config, tmp_path / "run").params(0)
    with pytest.raises(UsageError, match=words):
        compfast.from_module(change(weights), config, tmp_path / "held")
    assert not (tmp_path / "held").exists()


def test_folders_in_use_and_odd_configs_are_refused(tmp_path: Path) -> None:
    config = small_config(sweep=ONE, steps=1)
    run = compfast.train(config, tmp_path / "run")
    with pytest.raises(UsageError, match="is not empty"):
        compfast.from_module(run.model(0), config, run.path)
    odd: Any = "config"
    with pytest.raises(UsageError, match="like is 'config'"):
        compfast.from_module(run.model(0), odd, tmp_path / "held")
    start = {"start": {"run": str(run.path)}}
    with pytest.raises(UsageError, match="starts from no other"):
        compfast.from_module(run.model(0), start, tmp_path / "held")
