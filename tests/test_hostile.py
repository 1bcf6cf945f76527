"""A run folder may come from anybody: it is refused in one sentence, or it is harmless."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
from hostile import examples
from hypothesis import given
from hypothesis import strategies as st
from small_runs import small_config

import compfast
from compfast.report import write_report
from compfast.report.page import page
from compfast.runs import checkpoints
from compfast.runs.layouts import run_layouts
from compfast.runs.reading import Run
from compfast.storage import durable

pytestmark = pytest.mark.usefixtures("native_extension")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two finished halves of a run."""
    folder, parts = tmp_path_factory.mktemp("shards"), [{"shard": (i, 2)} for i in range(2)]
    configs = [small_config(sweep=hostile.SWEEP, steps=20, run=part) for part in parts]
    return [compfast.train(config, folder / f"{i}").path for i, config in enumerate(configs)]


def look_at_everything(path: Path) -> None:
    """What a user would do with a folder; raises CompfastError only."""
    run = compfast.load(path)
    assert run.members.height == 4
    assert run.metrics.height
    assert run.params(0)
    write_report(run, path / "report")
    compfast.train(None, path, resume=True)


def expect_refusal(path: Path) -> str:
    with pytest.raises(compfast.CompfastError) as caught:
        look_at_everything(path)
    return str(caught.value)


def _manifest_property(stopped: Path, data: Any) -> None:
    """Any change with a valid seal; nothing outside of the folder may be opened."""
    run = compfast.load(stopped)
    assert run.checkpoint is not None
    folder = run.checkpoint.path
    kept = (folder / "manifest.json").read_bytes()
    layouts = run_layouts(run.groups)
    manifest = data.draw(hostile.changed(json.loads(kept)))
    opened: list[Path] = []
    original = durable.blocks

    def blocks(path: Path) -> Any:
        opened.append(path)
        return original(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "blocks", blocks)
        try:
            hostile.write_manifest(folder, manifest)
            with suppress(compfast.StorageError):
                checkpoints.verify(folder, layouts, stopped)
        finally:
            (folder / "manifest.json").write_bytes(kept)
    inside = stopped.resolve()
    assert all(path.resolve().is_relative_to(inside) for path in opened)


@examples(60)
@given(data=st.data())
def test_manifests(stopped: Path, data: Any) -> None:
    _manifest_property(stopped, data)


@pytest.mark.slow
@examples(3000)
@given(data=st.data())
def test_manifests_long(stopped: Path, data: Any) -> None:
    _manifest_property(stopped, data)


def _config_property(stopped: Path, data: Any) -> None:
    """config.json may say anything; what it asks for is refused, or it fits the files."""
    kept = (stopped / "config.json").read_bytes()
    (stopped / "config.json").write_bytes(
        hostile.as_json(data.draw(hostile.changed(json.loads(kept))))
    )
    try:
        with suppress(compfast.CompfastError):
            run = compfast.load(stopped)
            assert run.members.height == 4
            assert run.metrics.height
            assert run.params(0)
            page(run, b"")
    finally:
        (stopped / "config.json").write_bytes(kept)


@examples(60)
@given(data=st.data())
def test_configs(stopped: Path, data: Any) -> None:
    _config_property(stopped, data)


@pytest.mark.slow
@examples(3000)
@given(data=st.data())
def test_configs_long(stopped: Path, data: Any) -> None:
    _config_property(stopped, data)


def _merge_property(shards: list[Path], folder: Path, data: Any) -> None:
    """One of the parts to be merged says anything of itself."""
    file = data.draw(st.sampled_from(shards)) / "config.json"
    kept = file.read_bytes()
    file.write_bytes(hostile.as_json(data.draw(hostile.changed(json.loads(kept)))))
    try:
        with suppress(compfast.CompfastError):
            assert compfast.merge(shards, folder / "merged").members.height == 4
    finally:
        file.write_bytes(kept)
        shutil.rmtree(folder / "merged", ignore_errors=True)


@examples(40)
@given(data=st.data())
def test_merges(shards: list[Path], tmp_path: Path, data: Any) -> None:
    _merge_property(shards, tmp_path, data)


@pytest.mark.slow
@examples(2000)
@given(data=st.data())
def test_merges_long(shards: list[Path], tmp_path: Path, data: Any) -> None:
    _merge_property(shards, tmp_path, data)


@pytest.mark.parametrize("name", ["versions", "commit", "created"])
def test_a_part_that_does_not_say_what_it_is(name: str, shards: list[Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(shards[1], tmp_path / "other"))
    info = json.loads((other / "config.json").read_text())
    info[name] = [1]
    (other / "config.json").write_text(json.dumps(info))
    with pytest.raises(compfast.StorageError, match=f"no valid {name}"):
        compfast.merge([shards[0], other], tmp_path / "merged")


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("task", "seq_len", 10**9),
        ("task", "item_high", 10**12),
        ("model", "layers", 10**12),
        ("model", "d_model", 10**15),
        ("training", "steps", 10**12),
        ("evaluation", "seen_items", 10**12),
        ("init", "gamma", -1e300),
    ],
)
def test_a_field_that_asks_for_everything(
    copied: Path, section: str, field: str, value: float
) -> None:
    info = json.loads((copied / "config.json").read_text())
    info["config"][section][field] = value
    (copied / "config.json").write_text(json.dumps(info))
    assert f"{section}" in expect_refusal(copied)


def test_a_sweep_that_asks_for_everything(copied: Path) -> None:
    info = json.loads((copied / "config.json").read_text())
    names = ("init.gamma", "init.gamma_qk", "init.gamma_vo", "init.gamma_ffn", "optimizer.lr")
    info["config"]["sweep"] = {name: [i / 100 for i in range(100)] for name in names}
    (copied / "config.json").write_text(json.dumps(info))
    run = compfast.load(copied)
    with pytest.raises(compfast.UsageError, match="makes 10000000000; one process takes at most"):
        run.params(0)


def _newest(path: Path) -> Path:
    return checkpoints.numbered(path / "checkpoints")[-1]


def _set(value: Any) -> Any:
    def change(array: np.ndarray[Any, Any]) -> None:
        array[0] = value

    return change


@pytest.mark.parametrize(
    ("file", "array", "value", "message"),
    [
        ("optimizer", "step", -5, r"a step that is not in 0\.\.20"),
        ("optimizer", "step", 2**40, r"a step that is not in 0\.\.20"),
        ("optimizer", "status", 3, "status is not one of"),
        ("progress", "verdict", 99, "a verdict or a mark that no member can have"),
        ("progress", "verdict", -2, "a verdict or a mark that no member can have"),
        ("progress", "closed", 7, "a verdict or a mark that no member can have"),
    ],
)
def test_numbers_that_engines_would_index_by(
    copied: Path, file: str, array: str, value: int, message: str
) -> None:
    hostile.change_array(_newest(copied), f"group-000/{file}.safetensors", array, _set(value))
    with pytest.raises(compfast.CompfastError, match=message):
        compfast.train(None, copied, resume=True)


@pytest.mark.parametrize(
    "state",
    [{}, {"event": "8", "finished": False}, {"event": 8, "finished": 1}, {"event": -9}, []],
)
def test_a_state_that_says_nothing(copied: Path, state: Any) -> None:
    for folder in checkpoints.numbered(copied / "checkpoints"):
        hostile.rewrite(folder, "state.json", hostile.as_json(state))
    assert "state.json" in expect_refusal(copied)


@pytest.mark.parametrize("name", ["²", "٣", "1e3", "-1", "000001x"])
def test_folders_that_are_no_numbers(copied: Path, name: str) -> None:
    (copied / "checkpoints" / name).mkdir()
    (copied / "snapshots" / name).mkdir()
    run = compfast.train(None, copied, resume=True)
    assert run.finished
    assert run.snapshots == []


def test_what_is_looked_at_is_fine_as_it_is(copied: Path) -> None:
    look_at_everything(copied)
    assert isinstance(compfast.load(copied), Run)
