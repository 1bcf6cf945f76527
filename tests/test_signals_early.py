"""Signals before there is a run to save, after it is saved, and with no terminal left."""

from __future__ import annotations

import os
import pkgutil
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_lines import SMALL, TRAIN_TIME_LIMIT
from small_runs import assert_same_run

import compfast
from compfast import doctor, ensemble, merging
from compfast.runs.reading import Run
from compfast.training.interrupts import STOPPING

pytestmark = pytest.mark.usefixtures("fast_disk")

CLEAN = pytest.mark.edge(
    "a signal before the first step, or while the report is drawn",
    "exit code 3; the folder is as new, or resumes to the same bits",
)
SAID = "compfast: stopped at once; a run that had begun goes on with --resume\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("whole") / "run"
    assert ensemble.main([*SMALL, "--quiet", "--out", str(path)]) == 0
    return compfast.load(path)


def _killed_before(
    monkeypatch: pytest.MonkeyPatch, name: str, number: signal.Signals
) -> Callable[[], None]:
    """The function `name` ends the process that calls it."""
    target, _, attribute = name.rpartition(".")
    home: Any = pkgutil.resolve_name(target)
    original = getattr(home, attribute)

    def killed(*arguments: Any, **named: Any) -> Any:
        os.kill(os.getpid(), number)
        time.sleep(0.01)  # Python runs the handler between two instructions
        return original(*arguments, **named)

    monkeypatch.setattr(home, attribute, killed)
    return lambda: monkeypatch.setattr(home, attribute, original)


@CLEAN
@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_during_the_plan_leaves_nothing(
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    _killed_before(monkeypatch, "compfast.cli.plan._member_step", number)
    before = signal.getsignal(number)
    assert ensemble.main([*SMALL, "--out", str(tmp_path / "run")]) == 3
    assert signal.getsignal(number) == before
    assert capsys.readouterr().err == SAID
    assert list(tmp_path.iterdir()) == []


@CLEAN
@pytest.mark.parametrize(
    "place",
    [
        "compfast.training.runs.refuse_used",
        "compfast.storage.durable.Lock",
        "compfast.storage.durable.json_bytes",
        "compfast.storage.durable.rename",
        "compfast.runs.folder.RunFolder._make_rooms",
        "compfast.runs.folder.RunFolder.write_tables",
        "compfast.engines.native.NativeEngine.initialise",
        "compfast.training.loop.Loop.run",
        "compfast.training.loop.Loop._advance",
        "compfast.ensemble.show",
    ],
)
def test_a_signal_at_any_place_costs_nothing(
    place: str,
    whole: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    out = str(tmp_path / "run")
    mend = _killed_before(monkeypatch, place, signal.SIGTERM)
    assert ensemble.main([*SMALL, "--quiet", "--out", out]) == 3
    said = capsys.readouterr().err
    assert said == SAID or f"continue with --resume {out}" in said
    mend()
    begun = (tmp_path / "run" / "config.json").exists()
    again = ["--resume", out] if begun else [*SMALL, "--out", out]
    assert ensemble.main([*again, "--quiet"]) == 0
    assert_same_run(whole, compfast.load(out))


def test_a_signal_while_merging_or_measuring(
    whole: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    parts = []
    for i in range(2):
        parts.append(str(tmp_path / f"part-{i}"))
        shard = ["--shard", f"{i}/2", "--out", parts[-1], "--quiet"]
        assert ensemble.main([*SMALL, *shard]) == 0
    command = [str(tmp_path / "merged"), *parts, "--quiet"]
    mend = _killed_before(monkeypatch, "compfast.runs.folder.RunFolder.save", signal.SIGHUP)
    assert merging.main(command) == 3
    assert "the same command ends the merge" in capsys.readouterr().err
    mend()
    assert merging.main(command) == 0
    assert_same_run(whole, compfast.load(tmp_path / "merged"))
    _killed_before(monkeypatch, "compfast.engines.roofline.measure_ceilings", signal.SIGUSR1)
    assert doctor.main(["--roofline"]) == 3
    assert capsys.readouterr().err == "compfast: stopped\n"


@pytest.mark.edge("the terminal is closed while training", "saved, exit code 3, no traceback")
@pytest.mark.parametrize("shown", ["in a file", "on the terminal"])
def test_a_closed_terminal(tmp_path: Path, shown: str) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    terminal, slave = pty.openpty()
    steps = ["--steps", "60000", "--eval-every", "500", "--checkpoint-every", "60000"]
    with open(log, "w") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", "compfast.ensemble", *SMALL, *steps, "--out", str(out)],
            stdin=slave,
            stdout=printed if shown == "in a file" else slave,
            stderr=printed if shown == "in a file" else slave,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
            start_new_session=True,
            # The first terminal that the leader of a session opens becomes its own.
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )
    os.close(slave)
    limit = time.monotonic() + TRAIN_TIME_LIMIT
    said = ""
    while "step " not in said and time.monotonic() < limit:
        said = log.read_text() if shown == "in a file" else said + os.read(terminal, 9999).decode()
        time.sleep(0.01)
    os.close(terminal)  # SIGHUP to the session
    assert process.wait(TRAIN_TIME_LIMIT) == 3
    if shown == "in a file":
        assert f"continue with --resume {out}" in log.read_text().splitlines()[-1]
    assert compfast.load(out).step > 0
