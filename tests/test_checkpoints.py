"""Files, safetensors and checkpoint folders: what is written is read, what is damaged is named."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import numpy as reference

from compfast.errors import StorageError
from compfast.runs import checkpoints
from compfast.runs.checkpoints import Layouts
from compfast.storage import durable, tensorfile


def arrays() -> dict[str, Any]:
    return {
        "flags": np.array([1, 2, 3], np.uint8),
        "weights": np.arange(6, dtype=np.float32).reshape(3, 2),
        "steps": np.array([7, 8, 9]),
        "scores": np.array([[0.5], [np.nan], [np.inf]]),
    }


FILES: checkpoints.Files = {"group-000/a.safetensors": arrays(), "b.safetensors": arrays()}
LAYOUTS: Layouts = {name: tensorfile.layout_of(content) for name, content in FILES.items()}


def write(folder: Path, number: int, outside: dict[str, Any] | None = None) -> Path:
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    final = folder / "checkpoints" / f"{number:06d}"
    return checkpoints.write(final, FILES, {"event": number, "finished": False}, outside)


def test_tensor_files_agree_with_the_reference_implementation(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    durable.write_new(path, tensorfile.chunks(arrays()))
    theirs, ours = reference.load_file(path), tensorfile.read(path)
    assert theirs.keys() == ours.keys() == arrays().keys()
    for name, array in arrays().items():
        assert theirs[name].tobytes() == ours[name].tobytes() == array.tobytes()
        assert theirs[name].dtype == ours[name].dtype
        assert theirs[name].shape == ours[name].shape
    reference.save_file(arrays(), tmp_path / "b.safetensors", {"note": "theirs"})
    back = tensorfile.read(tmp_path / "b.safetensors", tensorfile.layout_of(arrays()))
    assert all(back[name].tobytes() == array.tobytes() for name, array in arrays().items())


def test_a_row_is_read_alone_and_bad_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    durable.write_new(path, tensorfile.chunks(arrays()))
    for row in range(3):
        for name, array in tensorfile.read_row(path, row).items():
            assert array.tobytes() == arrays()[name][row].tobytes()
    for row in (-1, 3):
        with pytest.raises(StorageError, match=f"no row {row}"):
            tensorfile.read_row(path, row)


def test_arrays_that_are_not_contiguous_or_empty_survive(tmp_path: Path) -> None:
    odd = {"turned": np.arange(6.0).reshape(2, 3).T, "none": np.zeros((0, 4), np.float32)}
    durable.write_new(tmp_path / "a", tensorfile.chunks(odd))
    back = tensorfile.read(tmp_path / "a")
    assert np.array_equal(back["turned"], odd["turned"])
    assert back["none"].shape == (0, 4)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("weights", None, "holds the unknown array weights"),
        ("weights", ("F32", (2, 3)), r"weights is F32 \[3, 2\]"),
        ("weights", ("F64", (3, 2)), "weights is F32"),
        ("more", ("F32", (3,)), "lacks the array more"),
    ],
)
def test_a_layout_is_checked_before_reading(
    tmp_path: Path, name: str, kind: Any, message: str
) -> None:
    durable.write_new(tmp_path / "a", tensorfile.chunks(arrays()))
    expected = {**tensorfile.layout_of(arrays()), name: kind}
    if kind is None:
        del expected[name]
    with pytest.raises(StorageError, match=message):
        tensorfile.read(tmp_path / "a", expected)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_fail_otherwise(tmp_path_factory: Any, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a"
    path.write_bytes(content)
    with pytest.raises(StorageError):
        tensorfile.read(path)


@given(st.data())
def test_a_damaged_header_is_refused_or_harmless(tmp_path_factory: Any, data: Any) -> None:
    content = bytearray(b"".join(bytes(c) for c in tensorfile.chunks(arrays())))
    length = 8 + int.from_bytes(content[:8], "little")
    place = data.draw(st.integers(0, length - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("fuzz") / "a"
    path.write_bytes(content)
    with pytest.raises(StorageError):
        tensorfile.read(path, tensorfile.layout_of(arrays()))


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    path = write(tmp_path, 3)
    found = checkpoints.verify(path, LAYOUTS)
    assert (found.number, found.state) == (3, {"event": 3, "finished": False})
    assert sorted(p.name for p in path.iterdir()) == [
        "b.safetensors",
        "group-000",
        "manifest.json",
        "state.json",
    ]


def _damage_flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-2] ^= 16
    file.write_bytes(content)


def _damage_cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def _damage_remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("damage", [_damage_flip, _damage_cut, _damage_remove])
@pytest.mark.parametrize(
    "name", ["group-000/a.safetensors", "b.safetensors", "state.json", "manifest.json"]
)
def test_a_damaged_file_makes_the_older_checkpoint_count(
    tmp_path: Path, damage: Any, name: str
) -> None:
    write(tmp_path, 1)
    newer = write(tmp_path, 2)
    damage(newer / name)
    found, skipped = checkpoints.newest(tmp_path, LAYOUTS)
    assert found is not None
    assert found.number == 1
    assert len(skipped) == 1
    assert "checkpoint 000002 was skipped" in skipped[0]
    assert str(newer / name) in skipped[0]


def test_files_beyond_the_folder_are_verified_too(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    part = durable.write_new(tmp_path / "metrics" / "part-000001.parquet", [b"rows"])
    config = durable.write_new(tmp_path / "config.json", [b"{}"])
    outside = checkpoints.outside_entries({"part-000001.parquet": part}, {"config.json": config})
    write(tmp_path, 1, outside)
    found, _ = checkpoints.newest(tmp_path, LAYOUTS)
    assert found is not None
    assert found.parts == {"part-000001.parquet": part}
    (tmp_path / "metrics" / "part-000001.parquet").write_bytes(b"more")
    found, skipped = checkpoints.newest(tmp_path, LAYOUTS)
    assert found is None
    assert "part-000001.parquet is damaged" in skipped[0]
    assert checkpoints.newest(tmp_path, LAYOUTS, with_metrics=False)[0] is not None


@pytest.mark.parametrize(
    "name", ["../../secret", "/etc/passwd", "group-000/../../../x", "a\\b", ""]
)
def test_a_manifest_cannot_name_files_outside(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match="outside of it"):
        durable.inside(tmp_path, name)
    path = write(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["metrics"] = {name: {"sha256": "0" * 64, "bytes": 1}}
    del manifest["seal"]
    manifest["seal"] = checkpoints._seal(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StorageError, match="outside of it"):
        checkpoints.verify(path, LAYOUTS, tmp_path)


def test_a_link_cannot_lead_outside(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "link").symlink_to(tmp_path)
    with pytest.raises(StorageError, match="outside of it"):
        durable.inside(tmp_path / "inner", "link/file")


def test_a_copied_checkpoint_does_not_pass_for_another(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    path.rename(path.with_name("000009"))
    found, skipped = checkpoints.newest(tmp_path, LAYOUTS)
    assert found is None
    assert "was written as 000001" in skipped[0]


@pytest.mark.parametrize("operation", ["open_file", "write", "sync", "rename"])
def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write(tmp_path, 1)
    monkeypatch.setattr(durable, operation, refuse)
    with pytest.raises(StorageError, match=r"cannot write .*: No space left on device"):
        write(tmp_path, 2)
    with pytest.raises(StorageError, match="No space left on device"):
        durable.replace_file(tmp_path / "file", [b"new"])
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["000001"]
    assert not (tmp_path / "file").exists()


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "write", lambda fd, data: os.write(fd, data[:3]))
    digest = durable.write_new(tmp_path / "a", [b"0123456789", b"", b"ab"])
    assert (tmp_path / "a").read_bytes() == b"0123456789ab"
    assert digest == durable.digest_of(tmp_path / "a")


def test_the_full_device_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "open_file", lambda *_: os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(StorageError) as caught:
        durable.write_new(tmp_path / "a", [b"x"])
    assert str(caught.value) == f"cannot write {tmp_path}/a: No space left on device"


def test_everything_is_synced_before_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, str]] = []

    def name(descriptor: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).name

    monkeypatch.setattr(durable, "sync", lambda fd: events.append(("sync", name(fd))))
    original = durable.rename

    def rename(source: Path, target: Path) -> None:
        events.append(("rename", target.name))
        original(source, target)

    monkeypatch.setattr(durable, "rename", rename)
    write(tmp_path, 1)
    assert events == [
        ("sync", "a.safetensors"),
        ("sync", "b.safetensors"),
        ("sync", "state.json"),
        ("sync", "manifest.json"),
        ("sync", "group-000"),
        ("sync", ".tmp-000001"),
        ("rename", "000001"),
        ("sync", "checkpoints"),
    ]


def test_the_lock_keeps_a_second_process_out(tmp_path: Path) -> None:
    lock = durable.Lock(tmp_path)
    with pytest.raises(StorageError, match="in use by another process"):
        durable.Lock(tmp_path)
    code = (
        "import sys, pathlib; from compfast import errors; from compfast.storage import durable\n"
        "try: durable.Lock(pathlib.Path(sys.argv[1]))\n"
        "except errors.StorageError as e: print(e)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert answer == f"{tmp_path} is in use by another process\n"
    lock.release()
    durable.Lock(tmp_path).release()
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""


def test_json_refuses_what_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        durable.json_bytes({"loss": float("nan")})
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(StorageError, match="holds no JSON object"):
        durable.read_json(tmp_path / "a.json")
