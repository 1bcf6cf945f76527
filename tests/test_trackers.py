"""A run in W&B, trackio and TensorBoard: one of theirs, with the curves, the table, the figure."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any
from unittest import mock

import fault_tools
import numpy as np
import polars as pl
import pytest
from small_runs import small_config

import compfast
from compfast import export
from compfast.errors import StorageError, UsageError
from compfast.export import trackers
from compfast.export.history import history
from compfast.runs.reading import Run

SWEEP: Any = (("init.gamma", (0.4, 0.8)), ("seed", (5, 6)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, native_extension: None) -> Run:
    with fault_tools.fast_disk():
        return compfast.train(small_config(sweep=SWEEP), tmp_path_factory.mktemp("t") / "mine")


def test_the_history_has_quantiles_and_the_latest_verdicts(run: Run) -> None:
    found = history(run)
    steps = [step for step, _ in found]
    assert steps == run.metrics["step"].unique().sort().to_list()
    for step, numbers in found:
        rows = run.metrics.filter(pl.col("step") == step)
        losses = rows["loss"].drop_nans().drop_nulls()
        assert ("loss/median" in numbers) == (len(losses) > 0)
        if len(losses):
            assert numbers["loss/median"] == pytest.approx(np.median(losses))
        exam = rows["verdict"].drop_nulls()
        assert ("share/underfit" in numbers) == (len(exam) > 0)
        if len(exam):
            assert numbers["share/underfit"] == (exam == "underfit").mean()
            shares = [v for name, v in numbers.items() if name.startswith("share/")]
            assert sum(shares) == pytest.approx(1)


def test_a_member_that_stopped_keeps_its_verdict_in_the_shares(run: Run) -> None:
    gone = compfast.load(run.path)
    kept = run.metrics.with_columns(
        verdict=pl.when((pl.col("member") == 1) & pl.col("verdict").is_not_null())
        .then(pl.lit("diverged"))
        .otherwise("verdict")
    ).filter((pl.col("member") != 1) | (pl.col("step") <= 15))
    gone.__dict__["metrics"] = kept
    assert dict(history(gone))[46]["share/diverged"] == 0.25


def test_tensorboard_has_the_curves_the_figure_and_the_table(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = export.tensorboard(run, tmp_path / "events")
    module: Any = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = module.EventAccumulator(str(folder)).Reload()
    for name in ("loss/median", "share/underfit"):
        told = [(s, n[name]) for s, n in history(run) if name in n]
        scalars = events.Scalars(name)
        assert [e.step for e in scalars] == [step for step, _ in told]
        np.testing.assert_allclose([e.value for e in scalars], [v for _, v in told], 1e-6)
    (image,) = events.Images("phase_diagram")
    assert image.width > 300
    text = events.Tensors("members/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.count("\n") == 5
    assert "| member" in text
    with pytest.raises(UsageError, match="not a new or an empty folder"):
        export.tensorboard(run, folder)


@pytest.fixture
def quiet_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """wandb, whose files are all in the test's folder."""
    library: Any = pytest.importorskip("wandb")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    return library


def test_wandb_offline_is_one_run(run: Run, tmp_path: Path, quiet_wandb: Any) -> None:
    files = Path(export.wandb(run, mode="offline"))
    (own,) = (tmp_path / "wandb").glob("offline-run-*")
    assert files.parent == own
    (table,) = files.rglob("members*.table.json")
    told = json.loads(table.read_text())
    assert told["columns"] == run.members.columns
    verdicts = [row[told["columns"].index("verdict")] for row in told["data"]]
    assert verdicts == run.members["verdict"].to_list()
    (image,) = files.rglob("phase_diagram*.png")
    assert image.read_bytes().startswith(b"\x89PNG")
    (page,) = files.rglob("report*.html")
    assert page.read_text() == trackers._pictures(run)[1]  # nothing of theirs put into it
    quiet_wandb.teardown()  # waits for the process of its own that writes
    (log,) = own.glob("*.wandb")
    content = log.read_bytes()
    for _, numbers in history(run):
        assert all(json.dumps(value).encode() in content for value in numbers.values())
    assert content.count(b"share/underfit") >= sum("share/underfit" in n for _, n in history(run))
    assert b"model.d_model" in content


@pytest.mark.edge("a project or a mode that W&B refuses", "one sentence that says why")
def test_what_wandb_refuses_is_said(run: Run, quiet_wandb: Any) -> None:
    for given, told in (
        ({"mode": "off"}, "mode is 'off'; it must be online or offline, or None"),
        ({"mode": "offline", "project": "a/b"}, "W&B begins no run: Invalid project name 'a/b'"),
    ):
        with pytest.raises(UsageError, match=re.escape(told)):
            export.wandb(run, **given)
    error = quiet_wandb.errors.CommError("no route")
    with (
        mock.patch.object(quiet_wandb, "init", side_effect=error),
        pytest.raises(StorageError, match="W&B cannot be reached: no route"),
    ):
        export.wandb(run)


def test_trackio_keeps_one_run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("trackio is not installed")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    library: Any = pytest.importorskip("trackio")
    assert export.trackio(run, "doors") == "mine"
    (found,) = library.Api().runs("doors")
    assert found.name == "mine"
    assert found.config["model.d_model"] == 8
    storage: Any = importlib.import_module("trackio.sqlite_storage")
    *curves, last = storage.SQLiteStorage.get_logs("doors", "mine")
    own = [{"step": step, **numbers} for step, numbers in history(run)]
    assert [{n: v for n, v in row.items() if n != "timestamp"} for row in curves] == own
    assert last["step"] == own[-1]["step"]
    assert [row["verdict"] for row in last["members"]["_value"]] == run.members["verdict"].to_list()
    assert (_kept(tmp_path, last["phase_diagram"])).startswith(b"\x89PNG")
    assert _kept(tmp_path, last["report"]).decode() == trackers._pictures(run)[1]


def _kept(home: Path, told: dict[str, str]) -> bytes:
    """A file that trackio has of a value."""
    return (home / "media" / told["file_path"]).read_bytes()


@pytest.mark.parametrize("door", ["wandb", "trackio", "tensorboard", "onnx", "transformer_lens"])
def test_a_missing_package_is_said_with_the_line_for_pip(
    run: Run, door: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original = importlib.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if name.partition(".")[0] in (door, "onnxscript"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    given: dict[str, tuple[Any, ...]] = {
        "onnx": (0, tmp_path / "one.onnx"),
        "tensorboard": (tmp_path,),
        "transformer_lens": (0,),
    }
    package = "onnxscript" if door == "onnx" else door
    words = f"needs the package {package}, which is not installed: pip install {package}$"
    with pytest.raises(UsageError, match=words):
        getattr(export, door)(run, *given.get(door, ()))


@pytest.mark.edge("a package of a door that cannot be imported", "its own reason is told, too")
def test_a_broken_package_tells_its_reason(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, package: str | None = None) -> Any:
        raise ImportError("No module named 'gone'", name="gone")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(UsageError, match=r"wandb, which cannot be imported .*'gone'"):
        export.wandb(run)
