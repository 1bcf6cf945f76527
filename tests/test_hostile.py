"""A run folder may come from anybody: it is refused in one sentence, or it is harmless."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import polars as pl
import pytest
from hostile import examples
from hypothesis import given
from hypothesis import strategies as st
from small_runs import interrupted_at, small_config

import compfast
from compfast.config.settings import from_dict, load_toml
from compfast.report import write_report
from compfast.report.page import page
from compfast.runs import checkpoints, tables
from compfast.runs.layouts import run_layouts
from compfast.runs.reading import Run
from compfast.storage import durable, tensorfile

pytestmark = pytest.mark.usefixtures("native_extension")

SWEEP: Any = (("init.gamma", (0.4, 0.8)), ("seed", (5, 6)))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint, to be copied and spoilt."""
    path = tmp_path_factory.mktemp("hostile") / "run"
    interrupted_at(path, small_config(sweep=SWEEP, steps=20, run={"checkpoint_every": 8}), 15)
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two finished halves of a run."""
    folder, parts = tmp_path_factory.mktemp("shards"), [{"shard": (i, 2)} for i in range(2)]
    configs = [small_config(sweep=SWEEP, steps=20, run=part) for part in parts]
    return [compfast.train(config, folder / f"{i}").path for i, config in enumerate(configs)]


@pytest.fixture
def copied(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


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


@examples(60)
@given(st.binary(max_size=60) | hostile.values.map(hostile.as_json))
def test_json(content: bytes) -> None:
    with suppress(compfast.StorageError):
        assert isinstance(durable.parsed_json(content, "here"), dict)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000])
def test_json_that_is_too_deep_or_too_long(content: bytes) -> None:
    with pytest.raises(compfast.StorageError, match="not valid JSON"):
        durable.parsed_json(content, "here")


@examples(60)
@given(st.text(max_size=60) | hostile.values.map(lambda v: f"a = {v!r}"))
def test_toml(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.toml").write_bytes(text.encode(errors="surrogatepass"))
    with suppress(compfast.UsageError):
        from_dict(load_toml(tmp_path / "a.toml"))


def test_toml_that_is_too_deep(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("a = " + "[" * 100_000)
    with pytest.raises(compfast.UsageError, match="is not TOML"):
        load_toml(tmp_path / "a.toml")


ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@examples(150)
@given(hostile.changed({"a": ENTRY, "b": {**ENTRY, "data_offsets": [24, 48]}}))
def test_tensor_files(tmp_path: Path, header: Any) -> None:
    text = hostile.as_json(header)
    path = tmp_path / "a"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(48))
    for read in (tensorfile.read, lambda p: tensorfile.read_row(p, 1)):
        try:
            arrays = read(path)
        except compfast.StorageError:
            continue
        assert sum(array.nbytes for array in arrays.values()) <= 48


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [0, 2**70], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [0, 2**40, 2**40], "data_offsets": [0, 0]},
        {"dtype": "U8", "shape": [1] * 70, "data_offsets": [0, 1]},
        {"dtype": "F32", "shape": [float("inf")], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [2**61], "data_offsets": [0, 2**63]},
    ],
)
def test_shapes_that_no_array_has(tmp_path: Path, entry: dict[str, Any]) -> None:
    text = hostile.as_json({"a": entry})
    data = bytes(1 if entry["data_offsets"] == [0, 1] else 0)
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text + data)
    with pytest.raises(compfast.StorageError):
        tensorfile.read(tmp_path / "a")


def test_a_header_that_is_too_deep(tmp_path: Path) -> None:
    text = b'{"a":' * 100_000
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(compfast.StorageError, match="unreadable header"):
        tensorfile.read(tmp_path / "a")


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


def _write(path: Path, frame: pl.DataFrame) -> None:
    frame.write_parquet(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.head(3), "has 3 rows; the run has 4 members"),
        (lambda t: pl.concat([t] * 3), "has 12 rows; the run has at most 4"),
        (lambda t: t.with_columns(gamma=pl.lit(0.1)), "column gamma is not what"),
        (lambda t: t.with_columns(member=pl.col("member") + 1), "column member is not what"),
        (lambda t: t.drop("seed"), "column seed is not what"),
        (lambda t: t.with_columns(verdict=pl.lit("<script>alert(1)")), "no member can get"),
        (lambda t: t.with_columns(verdict=pl.lit('=HYPERLINK("x")')), "no member can get"),
        (lambda t: t.with_columns(verdict=pl.lit(1.5)), "no column of verdicts"),
        (lambda t: t.with_columns(seen=pl.lit([[1.0]])), "which no run writes"),
    ],
)
def test_members_that_are_not_the_run_s(copied: Path, change: Any, message: str) -> None:
    _write(copied / "members.parquet", change(compfast.load(copied).members))
    with pytest.raises(compfast.StorageError, match=message):
        _ = compfast.load(copied).members


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.with_columns(member=pl.col("member") + 9), "members that are not in the run"),
        (lambda t: t.drop("step"), "column step does not hold whole numbers"),
        (lambda t: t.with_columns(loss=pl.lit("=1+1")), "lacks a column of numbers"),
        (lambda t: t.with_columns(verdict=pl.lit("<b>")), "no member can get"),
        (lambda t: pl.concat([t] * 50), "the run has at most"),
    ],
)
def test_metrics_that_are_not_the_run_s(copied: Path, change: Any, message: str) -> None:
    """With a manifest that agrees with them."""
    part = next((copied / "metrics").iterdir())
    _write(part, change(pl.read_parquet(part)))
    digest = durable.digest_of(part)
    for folder in checkpoints.numbered(copied / "checkpoints"):
        manifest = durable.read_json(folder / "manifest.json")
        manifest["metrics"][part.name] = {"sha256": digest.sha256, "bytes": digest.bytes}
        hostile.write_manifest(folder, manifest)
    with pytest.raises(compfast.StorageError, match=message):
        _ = compfast.load(copied).metrics


def test_a_table_of_very_many_rows_is_not_unpacked(copied: Path) -> None:
    many = pl.select(member=pl.repeat(0, 3_000_000, dtype=pl.Int64))
    _write(copied / "members.parquet", many)
    assert (copied / "members.parquet").stat().st_size < 100_000
    with pytest.raises(compfast.StorageError, match="has 3000000 rows; the run has at most 4"):
        _ = compfast.load(copied).members


def _parquet_property(content: bytes, path: Path, data: Any) -> None:
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        if data.draw(st.booleans()):
            damaged[place] = data.draw(st.integers(0, 255))
        else:
            del damaged[place : place + data.draw(st.integers(0, 40))]
    path.write_bytes(damaged)
    with suppress(compfast.StorageError):
        assert len(tables.read_parquet(path, 100)) <= 100


@examples(60)
@given(data=st.data())
def test_parquet(stopped: Path, tmp_path: Path, data: Any) -> None:
    content = (stopped / "members.parquet").read_bytes()
    _parquet_property(content, tmp_path / "a.parquet", data)


@pytest.mark.slow
@examples(5000)
@given(data=st.data())
def test_parquet_long(stopped: Path, tmp_path: Path, data: Any) -> None:
    content = (stopped / "members.parquet").read_bytes()
    _parquet_property(content, tmp_path / "a.parquet", data)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("atheris") is None, reason="pip install -e '.[fuzz]'")
@pytest.mark.parametrize("target", ["tensors", "manifest", "config", "table", "toml", "flags"])
def test_coverage_guided(target: str, tmp_path: Path) -> None:
    """tests/fuzz.py, in short."""
    script = Path(__file__).parent / "fuzz.py"
    command = [sys.executable, str(script), target, "-runs=3000", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_looked_at_is_fine_as_it_is(copied: Path) -> None:
    look_at_everything(copied)
    assert isinstance(compfast.load(copied), Run)
