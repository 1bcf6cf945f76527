"""Paths as users give them: home folders, a working folder that changes, links, stray files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_runs import assert_same_run, small_config

import compfast
from compfast.config.paths import user_path
from compfast.errors import StorageError, UsageError
from compfast.report import phase_diagram, write_report
from compfast.training.callbacks import Callback

ROOT = Path(__file__).parent.parent


@pytest.mark.edge("`~` in any path, from Python too", "the home folder")
def test_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run = compfast.train(small_config(steps=2), out="~/run")
    assert run.path == tmp_path / "run"
    assert compfast.load("~/run").finished
    assert phase_diagram(run, "~/a/b.png") == tmp_path / "a" / "b.png"
    assert write_report(run, "~/c")[0] == tmp_path / "c" / "phase_diagram.png"
    assert compfast.merge(["~/run"], "~/whole").path == tmp_path / "whole"
    assert compfast.train(out="~/run", resume=True).path == tmp_path / "run"


@pytest.mark.edge("`os.chdir` after `load`, or inside a callback", "nothing changes")
def test_the_working_folder_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(Callback):
        def on_metrics(self, rows: Any) -> None:
            os.chdir("/")

    monkeypatch.chdir(tmp_path)
    whole = compfast.train(small_config(), out="whole")
    run = compfast.train(small_config(), out="run", callbacks=Elsewhere())
    assert os.getcwd() == "/"
    assert_same_run(run, whole)
    os.chdir(tmp_path)
    found = compfast.load("run")
    os.chdir("/")
    assert len(found.members) == 3
    assert found.params(0)
    assert found.metrics.height
    assert write_report(found, tmp_path / "report")


@pytest.mark.parametrize("path", [3, None, b"run", "~nobody-of-this-name/run"])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(UsageError, match="the path"):
        user_path(path)


def test_a_single_part_is_not_taken_letter_by_letter(tmp_path: Path) -> None:
    run = compfast.train(small_config(steps=2), tmp_path / "run")
    whole = compfast.merge(str(run.path), tmp_path / "whole")
    assert whole.members.equals(run.members)


@pytest.mark.edge("`.DS_Store` and its like in an otherwise empty --out", "counts as empty")
@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", ".directory"])
def test_what_desktops_leave_in_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert compfast.train(small_config(steps=2), tmp_path).finished
    with pytest.raises(UsageError, match="is not empty"):
        compfast.train(small_config(steps=2), tmp_path)


@pytest.mark.edge(
    "a run whose files are links into a content store", "refused, read with `trust_links=True`"
)
def test_links_into_a_content_store(tmp_path: Path) -> None:
    config = small_config(run={"snapshots": (20,)})
    run = compfast.train(config, tmp_path / "run")
    weights, kept = run.params(1), run.params(1, step=20)
    store = tmp_path / "store"
    store.mkdir()
    files = [path for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"]
    for number, path in enumerate(files):
        shutil.move(path, store / str(number))
        path.symlink_to(store / str(number))
    with pytest.raises(StorageError, match="trust_links=True"):
        compfast.load(run.path).params(1)
    found = compfast.load(run.path, trust_links=True)
    assert found.metrics.equals(run.metrics)
    assert all((found.params(1)[name] == weights[name]).all() for name in weights)
    assert all((found.params(1, step=20)[name] == kept[name]).all() for name in kept)


@pytest.mark.edge("`--seed` so near 2^53 that a later seed reaches it", "that seed is named")
def test_seeds_that_reach_the_end() -> None:
    command = ["--models", "4", "--gamma-range", ".5:.8", "--seeds", "2", "--dry-run"]
    result = subprocess.run(
        [sys.executable, "-m", "compfast.ensemble", *command, "--seed", str(2**53 - 1)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr == (
        f"compfast: --seed {2**53 - 1} with 2 seeds reaches seed {2**53};"
        " seeds must be below 2^53\n"
    )
    with pytest.raises(UsageError, match=str(2**53)):
        compfast.Config(sweep=(("seed", (0, 2**53)),))


@pytest.mark.edge("started in the folder that holds the clone", "the installed package is found")
def test_the_folder_above_the_clone(tmp_path: Path) -> None:
    """An editable install is a line on sys.path, as PYTHONPATH is here: regular packages win."""
    (tmp_path / "compfast" / "csrc").mkdir(parents=True)
    finders = [path for path in sys.path if "editable" in path.lower()]
    assert not finders, "the editable install is a finder, which comes after the working folder"
    for code in ("import compfast; compfast.train", "import compfast.ensemble"):
        result = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, ''); {code}"],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
