"""Members as ONNX graphs: onnxruntime gives what the module gives, or nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import small_config

import compfast
from compfast import export
from compfast.errors import CompfastError, UsageError
from compfast.export import graphs
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("fast_disk", "native_extension")

TRAINING = {"steps": 2, "batch_size": 4, "log_every": 2, "eval_every": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return compfast.train(small_config(steps=2), tmp_path_factory.mktemp("onnx") / "run")


def _same(run: Run, file: Path, shorter: int = 0) -> None:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    inputs = exams_of(run.groups)[0].inputs
    inputs = inputs[:7, : inputs.shape[1] - shorter]
    given = torch.from_numpy(inputs if inputs.dtype.kind == "f" else inputs.astype(np.int64))
    (found,) = session.run(None, {"inputs": given.numpy()})
    np.testing.assert_allclose(found, run.model(0)(given).detach().numpy(), 1e-4, 1e-4)


def test_a_graph_takes_any_batch_and_length(run: Run, tmp_path: Path) -> None:
    file = export.onnx(run, 0, tmp_path / "deep" / "one.onnx", any_length=True)
    _same(run, file)
    _same(run, file, shorter=3)
    (props,) = onnx.load(file).metadata_props
    assert props.key == "compfast"
    assert json.loads(props.value)["verdict"] == run.members["verdict"][0]
    with pytest.raises(UsageError, match="exists; give another file"):
        export.onnx(run, 0, file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "model"),
    [
        ({"name": "markov"}, {"family": "canonical"}),
        ({"name": "anchor"}, {"layers": 2, "d_model": 8, "heads": 2, "position": "relative"}),
        ({"name": "anchor"}, {"layers": 1, "d_model": 8, "norm": "none", "activation": "gelu"}),
        (
            {"name": "hyperteacher", "dim": 3, "hidden": 4, "samples": 5},
            {"family": "bottleneck", "d_model": 8, "heads": 2, "latent": 3, "hidden": 4}
            | {"attention": "rms_head"},
        ),
    ],
)
def test_every_kind_of_network_is_a_graph(tmp_path: Path, task: Any, model: Any) -> None:
    settings = {"task": task, "model": model, "training": TRAINING, "run": {"engine": "native"}}
    run = compfast.train(settings, tmp_path / "run")
    _same(run, export.onnx(run, 0, tmp_path / "one.onnx"))


@pytest.mark.slow
def test_a_length_that_cannot_be_free_is_said(tmp_path: Path) -> None:
    model = {"layers": 1, "d_model": 8, "position": "relative"}
    settings = {"model": model, "training": TRAINING, "run": {"engine": "native"}}
    run = compfast.train(settings, tmp_path / "run")
    with pytest.raises(UsageError, match="is built for sequences of 9 positions"):
        export.onnx(run, 0, tmp_path / "one.onnx", any_length=True)
    assert not (tmp_path / "one.onnx").exists()


@pytest.mark.edge("an ONNX graph that gives other numbers", "one sentence; nothing is written")
def test_a_graph_that_gives_something_else_is_not_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = graphs._graph(run.model(1), graphs._inputs(run.groups[0][1]), False, "member 1")
    monkeypatch.setattr(graphs, "_graph", lambda *given: made)  # another member's
    with pytest.raises(CompfastError, match="gives something else than its module"):
        export.onnx(run, 0, tmp_path / "one.onnx")
    assert not list(tmp_path.iterdir())
