"""What earlier code wrote is read, gone on with and trained again, bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from recorded_run import FOLDER, SETTINGS, STOPPED_ISA, numbers

import compfast
from compfast import _native
from compfast.config import settings

RECORDED = sorted(p.stem.partition("-")[2] for p in FOLDER.glob("finished-*.json"))

pytestmark = pytest.mark.skipif(
    STOPPED_ISA not in _native.supported_isas(), reason="recorded on x86-64"
)


def _recorded(isa: str) -> dict[str, Any]:
    """Numbers at the end; another compiler may have other bits, so its build is not compared."""
    found: dict[str, Any] = json.loads((FOLDER / f"finished-{isa}.json").read_text())
    build = found.pop("build")
    if build != _native.build_info():
        pytest.skip(f"recorded with {build}, built with {_native.build_info()}")
    return found


def _as_json(values: dict[str, Any]) -> Any:
    return json.loads(json.dumps(values))


def test_the_recorded_run_reads() -> None:
    run = compfast.load(FOLDER / "run")

    assert not run.finished
    assert run.checkpoint is not None
    assert run.checkpoint.number == 2
    assert len(run.members) == 16
    assert run.config == settings.from_dict(SETTINGS)
    assert run.model(0) is not None
    assert len(run.metrics) == len(run.metrics.unique(["member", "step"])) > 0


def test_the_recorded_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPFAST_ISA", STOPPED_ISA)
    shutil.copytree(FOLDER / "run", tmp_path / "run")

    run = compfast.train(None, tmp_path / "run", resume=True)

    assert _as_json(numbers(run)) == _recorded(STOPPED_ISA)


@pytest.mark.parametrize("isa", RECORDED)
def test_the_recorded_run_comes_out_again(
    isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isa not in _native.supported_isas():
        pytest.skip(f"this machine does not run {isa}")
    monkeypatch.setenv("COMPFAST_ISA", isa)

    run = compfast.train(settings.from_dict(SETTINGS), tmp_path / "run")

    assert _as_json(numbers(run)) == _recorded(isa)
