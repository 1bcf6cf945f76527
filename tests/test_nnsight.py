"""nnsight reads, and changes, what every named submodule of a member gives."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import small_config

import compfast


@pytest.mark.filterwarnings("ignore:.*has a submodule named 'output'")  # it is .E_output there
@pytest.mark.usefixtures("fast_disk", "native_extension")
def test_a_trace_reads_every_named_submodule(tmp_path: Path) -> None:
    pytest.importorskip("nnsight")
    nnsight: Any = importlib.import_module("nnsight")
    config = small_config(steps=2, sweep=(("model.layers", (2,)),))
    module = compfast.train(config, tmp_path / "run").model(0)
    tokens = torch.randint(20, 40, (2, 9), generator=torch.Generator().manual_seed(0))
    own: dict[str, torch.Tensor] = {}  # in the order in which they are through
    for name, inner in module.named_modules():
        inner.register_forward_hook(lambda _m, _given, out, n=name: own.__setitem__(n, out))
    outputs = module(tokens)
    called = dict(own)
    net = nnsight.NNsight(module)
    places = {name: _place(net, name) for name in called}
    with net.trace(tokens):
        found = nnsight.save({})
        for name, place in places.items():
            found[name] = place.output
    containers = {n for n, m in module.named_modules() if isinstance(m, torch.nn.ModuleList)}
    assert found.keys() == {name for name, _ in module.named_modules()} - containers
    for name, value in found.items():
        assert torch.equal(value, called[name]), name
    with net.trace(tokens):
        net.blocks[1].attention.output[:] = 0
        changed = net.output.save()
    assert not torch.equal(changed, outputs)


def _place(net: Any, name: str) -> Any:
    """net.blocks[0].attention.E_output for "blocks.0.attention.output"."""
    parts = name.replace(".output", ".E_output").split(".") if name else []
    return functools.reduce(lambda e, p: e[int(p)] if p.isdigit() else getattr(e, p), parts, net)
