"""Standard streams as they are: of few letters, closed, full, or read by nobody any more."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
from command_lines import SMALL, TRAIN_TIME_LIMIT

import compfast
from compfast import doctor, ensemble, merging
from compfast.cli.live import Live
from compfast.cli.output import Output, complain
from compfast.report import __main__ as report

LETTERS = pytest.mark.edge(
    "output that the terminal's encoding cannot show (PYTHONIOENCODING=ascii, run folder läuf)",
    "spelt out (l\\xe4uf), exit code as ever",
)
CLOSED = pytest.mark.edge(
    "standard streams that are closed, full or not read", "the run goes on, exit code as ever"
)
HELPS = [
    *(("<&- >&- 2>&-", module) for module in ("ensemble", "doctor", "merging", "report")),
    (">/dev/full 2>/dev/full", "ensemble"),
    ("| true", "report"),
]


class _Broken(io.StringIO):
    """A stream whose reader is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def _closed() -> TextIO:
    stream = io.StringIO()
    stream.close()
    return stream


def _narrow(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


def _written(stream: io.TextIOWrapper) -> str:
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(stream.encoding)


@LETTERS
@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("ascii", "l\\xe4uf \\u2192 \\udcff \\x1b"),
        ("latin-1", "läuf \\u2192 \\udcff \\x1b"),
        ("utf-8", "läuf → \\udcff \\x1b"),
        ("cp1252", "läuf \\u2192 \\udcff \\x1b"),
    ],
)
def test_what_an_encoding_lacks_is_spelt_out(
    encoding: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = _narrow(encoding), _narrow(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    Output().say("läuf → \udcff \x1b")
    complain("läuf → \udcff \x1b")
    monkeypatch.undo()
    assert _written(out) == f"{said}\n"
    assert _written(err) == f"compfast: {said}\n"


@CLOSED
@pytest.mark.parametrize("stream", [None, _closed(), _Broken()], ids=["none", "closed", "broken"])
def test_streams_that_take_nothing_cost_nothing(
    stream: TextIO | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    output = Output()
    assert not output.terminal
    output.say("anything")
    complain("anything")
    bad = [ensemble.main(["--lrr", "1"]), merging.main([]), report.main([]), doctor.main(["--x"])]
    assert bad == [2, 2, 2, 2]
    assert ensemble.main([*SMALL, "--out", str(tmp_path / "run")]) == 0
    assert report.main([str(tmp_path / "run")]) == 0
    assert doctor.main() == 0
    with pytest.raises(SystemExit) as left:
        ensemble.main(["--help"])
    assert left.value.code == 0


@CLOSED
def test_a_full_stream_also_takes_what_others_print_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        output = Output()
        output.say("first")
        output.say("second")
        print("a library's line", flush=True)
        monkeypatch.undo()
    assert capsys.readouterr().err.count("No space left on device") == 1


@CLOSED
def test_a_closed_descriptor_does_not_become_a_file_of_the_run() -> None:
    code = (
        "import os\n"
        "from compfast.cli.output import occupy_descriptors\n"
        "occupy_descriptors()\n"
        "null = os.stat(os.devnull).st_rdev\n"
        "assert [os.fstat(d).st_rdev for d in (0, 1, 2)] == [null] * 3\n"
        "assert os.open('/proc/self/stat', os.O_RDONLY) > 2\n"
        "os._exit(7)\n"
    )
    answer = _shell(f"python -c {shlex.quote(code)} <&- >&- 2>&-")
    assert answer.returncode == 7


@CLOSED
def test_every_command_occupies_them_first() -> None:
    package = Path(compfast.__file__).parent
    for path in package.rglob("*.py"):
        _, main, rest = path.read_text().partition('if __name__ == "__main__":\n')
        assert not main or rest.startswith("    occupy_descriptors()\n"), path


@contextlib.contextmanager
def _terminal(monkeypatch: pytest.MonkeyPatch, encoding: str) -> Iterator[int]:
    """Standard output is a terminal of this encoding; gives its other end."""
    master, slave = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    stream = os.fdopen(slave, "w", encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    yield master
    monkeypatch.undo()
    with contextlib.suppress(OSError):
        stream.close()


@LETTERS
def test_the_bar_of_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with _terminal(monkeypatch, "ascii") as master:
        with Live(Output()) as live:
            live.on_tick(3, 8)
            live.on_note("part läuf [x] is tried again")
            live.on_tick(8, 8)
        monkeypatch.undo()
        shown, limit = "", time.monotonic() + 10
        while "100%" not in shown and time.monotonic() < limit:
            shown += os.read(master, 100_000).decode("ascii")
        os.close(master)
    assert "part l\\xe4uf [x] is tried again" in shown
    assert "100%" in shown


@CLOSED
def test_a_terminal_that_is_closed_under_the_bar(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with _terminal(monkeypatch, "utf-8") as master:
        before, output = sys.stdout, Output()
        with Live(output) as live:
            live.on_tick(3, 8)
            os.close(master)
            live.on_tick(5, 8)
            time.sleep(0.3)  # the bar also draws itself on a thread
            live.on_tick(8, 8)
        assert sys.stdout is before
        assert output.quiet
    assert live.meter.done == 8
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert err.count("standard output cannot be written") == 1


def _shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`command` of bash, with this Python for its first word."""
    root = Path(__file__).resolve().parent.parent
    command = command.replace("python", sys.executable, 1)
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, errors="replace", timeout=TRAIN_TIME_LIMIT, check=False,
    )  # fmt: skip


@CLOSED
@pytest.mark.parametrize(("streams", "module"), HELPS)
def test_a_command_says_what_it_can(streams: str, module: str) -> None:
    answer = _shell(f"python -m compfast.{module} --help {streams}")
    assert answer.returncode == 0
    assert "Traceback" not in answer.stderr
    assert "Exception ignored" not in answer.stderr


@CLOSED
def test_an_error_that_nobody_hears_has_its_code() -> None:
    assert _shell("python -m compfast.ensemble --lrr 1 >/dev/full 2>/dev/full").returncode == 2


@CLOSED
@pytest.mark.parametrize(
    "streams",
    [
        "<&- >&- 2>&-",
        pytest.param(">&-", marks=pytest.mark.slow),
        pytest.param("2>&-", marks=pytest.mark.slow),
        pytest.param(">/dev/full 2>/dev/full", marks=pytest.mark.slow),
        pytest.param("| true", marks=pytest.mark.slow),
        pytest.param("2>&1 | true", marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_without_its_streams(streams: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    answer = _shell(f"python -m compfast.ensemble {' '.join(SMALL)} --out {out} {streams}")
    assert answer.returncode == 0
    assert "Traceback" not in answer.stderr
    assert compfast.load(out).finished
    assert (out / "report" / "index.html").stat().st_size > 1000


@LETTERS
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        pytest.param(
            {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, marks=pytest.mark.slow
        ),
        pytest.param({"PYTHONIOENCODING": "latin-1"}, marks=pytest.mark.slow),
    ],
    ids=["ascii", "C", "latin-1"],
)
def test_a_run_whose_folder_the_terminal_cannot_spell(
    environment: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "läuf"
    answer = _shell(f"python -m compfast.ensemble {' '.join(SMALL)} --out {out}", **environment)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    assert (out / "report" / "index.html").exists()
    assert compfast.load(out).finished
