"""A file may hold any bytes: it is refused in one sentence, or what it says is read."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hostile
import pytest
from hostile import examples
from hypothesis import given
from hypothesis import strategies as st

import compfast
from compfast.config.settings import from_dict, load_toml
from compfast.runs import tables
from compfast.storage import durable, tensorfile

pytestmark = pytest.mark.usefixtures("native_extension")


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
