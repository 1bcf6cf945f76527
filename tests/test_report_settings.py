"""Reports and a user's matplotlib: one picture whatever is set, and no trace of having drawn it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
import pytest
from command_lines import SMALL, refused
from cycler import cycler
from made_runs import MadeRun, made_run

import compfast
import compfast.report
from compfast.cli.output import Output
from compfast.cli.results import show
from compfast.ensemble import main
from compfast.errors import StorageError, UsageError
from compfast.report import __main__ as command
from compfast.report import page, phase, write_report
from compfast.storage import durable

HERE = Path(__file__).parent
SAME = pytest.mark.edge(
    "MPLBACKEND of a notebook or of nothing, usetex, xkcd or dark styles, any matplotlibrc",
    "the same picture, byte for byte, and settings as they were",
)
COSTS = pytest.mark.edge(
    "a report that cannot be drawn or written",
    "a warning of one sentence, exit 0; python -m compfast.report RUN draws it",
)
ODD = """
axes.prop_cycle: cycler('color', ['r'])
axes.grid: True
axes.formatter.use_locale: True
font.size: 20
font.sans-serif: DejaVu Serif
savefig.dpi: 30
path.sketch: 1, 100, 2
figure.constrained_layout.use: False
xtick.direction: in
"""


@pytest.fixture
def run() -> MadeRun:
    return made_run([0.1, 0.5, 0.9], 2)


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phase, "_DPI", 50)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reports") / "run"
    assert main([*SMALL, "--quiet", "--out", str(out)]) == 0
    return out


@SAME
@pytest.mark.parametrize(
    ("backend", "rc", "left"),
    [
        ("module://matplotlib_inline.backend_inline", ODD, None),
        ("no_such_backend", "text.usetex: True\n", None),
        ("svg", "backend: pdf\n", "svg"),
        pytest.param(
            None, "backend: no_such_backend\ninteractive: True\n", None, marks=pytest.mark.slow
        ),
    ],
    ids=["inline", "usetex", "svg", "backend in the rc"],
)
def test_a_process_with_settings_of_its_own_draws_the_same_picture(
    backend: str | None, rc: str, left: str | None, run: MadeRun, tmp_path: Path
) -> None:
    (tmp_path / "matplotlibrc").write_text(rc)
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}
    environment |= {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "LC_ALL": "C.UTF-8"}
    environment.pop("MPLBACKEND", None)
    if backend is not None:
        environment["MPLBACKEND"] = backend
    answer = subprocess.run(
        [sys.executable, str(HERE / "draw_once.py"), str(tmp_path / "drawn.png")],
        env=environment, capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.stdout.splitlines()[-1] == str(left)
    assert (tmp_path / "drawn.png").read_bytes() == phase.phase_png(run)


@SAME
def test_settings_of_this_process_change_nothing_and_stay(run: MadeRun) -> None:
    plain = phase.phase_png(run)
    with matplotlib.rc_context(), np.errstate(all="raise"):
        matplotlib.style.use(["dark_background", "fivethirtyeight"])
        matplotlib.rcParams.update(
            {
                "text.usetex": True,
                "path.sketch": (1, 100, 2),
                "axes.xmargin": -0.3,
                "savefig.transparent": True,
                "savefig.bbox": "tight",
                "font.family": "monospace",
                "axes.prop_cycle": cycler(color=["r"]),
                "image.origin": "upper",
            }
        )
        before = matplotlib.rcParams.copy()
        assert phase.phase_png(run) == plain
        assert dict(matplotlib.rcParams.copy()) == dict(before)
        assert np.geterr()["divide"] == "raise"


def test_a_drawing_that_fails_leaves_the_settings_too(
    run: MadeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: Any) -> None:
        assert matplotlib.rcParams["font.size"] == 9
        raise ZeroDivisionError

    monkeypatch.setattr(phase, "_draw", broken)
    with matplotlib.rc_context({"font.size": 23}):
        with pytest.raises(ZeroDivisionError):
            phase.phase_png(run)
        assert matplotlib.rcParams["font.size"] == 23


def test_threads_that_draw_at_once_leave_the_settings(
    run: MadeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins while the first draws, and ends last: it would put back what it found."""
    draw, second, first_over = phase._draw, threading.Event(), threading.Event()
    order: list[str] = []
    drawn: list[bytes] = []

    def slow(run: Any) -> Any:
        order.append("began")
        if len(order) == 1:
            second.wait(0.3)  # in vain where the other has to wait for us
        else:
            second.set()
            first_over.wait(5)
        return draw(run)

    def one() -> None:
        drawn.append(phase.phase_png(run))
        first_over.set()

    monkeypatch.setattr(phase, "_draw", slow)
    with matplotlib.rc_context({"font.size": 23}):
        threads = [threading.Thread(target=one) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert matplotlib.rcParams["font.size"] == 23
    assert len(drawn) == 2
    assert drawn[0] == drawn[1]


@COSTS
@pytest.mark.parametrize(
    "error", [RuntimeError("latex\nnot found"), StorageError("no space"), ImportError("no module")]
)
def test_a_report_that_fails_costs_the_report_only(
    error: Exception,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(run: Any) -> bytes:
        raise error

    monkeypatch.setattr(page, "phase_png", failing)
    show(compfast.load(finished), Output())
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "no report was drawn" in printed.err
    assert str(error).split()[0] in printed.err
    assert f"python -m compfast.report {finished} draws it" in printed.err
    assert "leading" in printed.out
    assert "phase_diagram" not in printed.out


@COSTS
def test_a_run_whose_every_report_fails_is_done_and_drawn_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a run"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        assert main([*SMALL, "--report-every", "6", "--out", str(out)]) == 0
        err = capsys.readouterr().err
        assert err.count("\n") == err.count("needs the package matplotlib") == 2
        assert f"python -m compfast.report '{out}' draws it" in err
        assert "matplotlib" in refused(capsys, "--resume", str(out), code=0)
        assert command.main([str(out)]) == 2
    assert compfast.load(out).finished
    assert not (out / "report" / "index.html").exists()
    capsys.readouterr()
    assert command.main([str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines() == [
        str(out / "report" / name) for name in ("phase_diagram.png", "index.html")
    ]


def test_the_command_draws_several_and_says_what_it_cannot(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full, other = tmp_path / "full", tmp_path / "other"
    shutil.copytree(finished, full)
    shutil.copytree(finished, other)
    shutil.rmtree(full / "report")
    (full / "report").write_text("a file")
    (other / "report" / "index.html").unlink()
    assert command.main([str(full), str(tmp_path / "none"), str(other)]) == 4
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 2
    assert "full/report" in printed.err
    assert "is not a run folder" in printed.err
    assert printed.out.splitlines()[-1] == str(other / "report" / "index.html")
    assert (other / "report" / "index.html").exists()
    assert command.main([]) == 2
    assert command.main(["--quiet", str(other)]) == 0
    assert capsys.readouterr().out == ""


def test_from_python_a_path_is_enough(finished: Path, tmp_path: Path) -> None:
    assert [p.parent for p in write_report(str(finished))] == [finished / "report"] * 2
    elsewhere = write_report(compfast.load(finished), tmp_path / "elsewhere")
    assert [p.parent.name for p in elsewhere] == ["elsewhere"] * 2
    with pytest.raises(UsageError, match="needs a folder"):
        write_report(made_run([0.5], 2))
    with pytest.raises(UsageError, match="not a run folder"):
        write_report(tmp_path / "none")


def test_without_a_verdict_there_is_no_report(run: MadeRun) -> None:
    members = run.members.with_columns(verdict=None)
    with pytest.raises(UsageError, match="no member has a verdict yet"):
        phase.phase_png(MadeRun(members, run.config, run.info))


def test_a_table_that_cannot_be_made_is_a_bug(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("compfast.report.bands.bands", broken)
    with pytest.raises(ZeroDivisionError):
        show(compfast.load(finished), Output())


def test_a_full_disk_leaves_the_report_that_was_there(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    before = (finished / "report" / "index.html").read_bytes()
    monkeypatch.setattr(durable, "write", full)
    assert command.main([str(finished)]) == 4
    assert "No space left" in capsys.readouterr().err
    assert (finished / "report" / "index.html").read_bytes() == before
