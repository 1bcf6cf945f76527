"""Commits and sweeps that come from somebody else: nothing outside their place is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hostile
import pytest
from small_runs import small_config
from sweeps import SWEEP, Fake

import compfast
from compfast.cluster import store as stores
from compfast.cluster import sweep
from compfast.cluster.store import committed, fetch, open_store
from compfast.storage import durable

pytestmark = pytest.mark.usefixtures("unhurried")


def test_a_commit_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "parts"))
    digest = durable.Digest("0" * 64, 1)
    found = stores.Commit("part-00000-a", True, 1, {}, {"../../evil": digest})
    with pytest.raises(compfast.StorageError, match="outside of it"):
        fetch(store, found, tmp_path / "copy")
    store.write("part-00000.json", b"{}")
    with pytest.raises(compfast.StorageError, match="lacks or misuses 'files'"):
        committed(store, 0)


HEX = "0123456789ab"


@pytest.mark.parametrize(
    "change",
    [
        {"folder": "../../victim"},
        {"folder": "/victim"},
        {"folder": ""},
        {"folder": 5},
        {"folder": f"part-00001-{HEX}"},
        {"finished": "yes"},
        {"work": -1},
        {"work": "9"},
        {"verdicts": {"symmetric": float("nan")}},
        {"verdicts": 3},
        {"files": {"a": {}}},
        {"files": [1]},
    ],
)
def test_a_commit_from_somebody_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "parts"))
    known = {"folder": f"part-00000-{HEX}", "finished": False, "work": 1}
    document = {**known, "verdicts": {"symmetric": 1}, "files": {}}
    store.write("part-00000.json", hostile.as_json(document))
    assert committed(store, 0) is not None
    store.write("part-00000.json", hostile.as_json({**document, **change}))
    with pytest.raises(compfast.StorageError, match=r"part-00000\.json lacks or misuses"):
        committed(store, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "x/../../victim"},
        {"name": 7},
        {"storage": "."},
        {"storage": "/"},
        {"storage": None},
        {"storage": "victim"},
        {"parts": 0},
        {"parts": 7},
        {"parts": "3"},
        {"parts": True},
        {"more": 1},
    ],
)
def test_a_sweep_from_somebody_removes_nothing_of_ours(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name and the storage in config.json say what a sweep writes, and removes at its end."""
    out, victim = tmp_path / "sweep", tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("mine")
    with pytest.raises(compfast.Interrupted):
        sweep(small_config(sweep=SWEEP), out, Fake(signal_at=1))
    monkeypatch.chdir(tmp_path)
    info = durable.read_json(out / "config.json")
    info["cluster"] |= change
    (out / "config.json").write_bytes(hostile.as_json(info))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(compfast.StorageError, match=r"config\.json describes no sweep"):
        sweep(None, out, Fake(), resume=True)
    assert sorted(tmp_path.rglob("*")) == before
    info["cluster"] = None
    (out / "config.json").write_bytes(hostile.as_json(info))
    with pytest.raises(compfast.StorageError, match=r"config\.json describes no sweep"):
        sweep(None, out, Fake(), resume=True)
